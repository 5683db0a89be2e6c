"""Autoencoders: continuous with a normal prior (Kingma and Welling 2014), or with finitely many codes (Mentzer et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..contracts import Codec, Condition, Field, Problem, Signature
from ..networks.blocks import embedding, planes_and_vectors, vector_entries, with_planes
from ..networks.codec import Decoder, Encoder, Levels, factor_of
from ..networks.discriminator import Discriminator
from ..networks.tiled import tiled
from ..networks.unet import UNetShape
from ..rng import Rng
from .losses import (
    feature_matching,
    frequency,
    gradient_penalty,
    kl_normal,
    relativistic_critic,
    relativistic_generator,
)
from .misfit import answer, field_terms

KINDS = ("intensity", "complex", "label", "displacement")


class _Autoencoder(nn.Module):
    """An encoder of x and a decoder of codes that see the condition: planes through an encoder of their own, numbers as a shift."""

    def __init__(self, signature: Signature, network: UNetShape, precision: str, codes: int, encoded: int) -> None:
        super().__init__()
        axes, self.planes_and_vectors = len(signature.axes), planes_and_vectors(signature.condition)
        planes, vectors = self.planes_and_vectors
        self.width, self.factor = network.channels[0], factor_of(network)
        self.encode = Encoder(
            axes, signature.channels + sum(f.channels + 1 for f in planes), encoded, network, precision
        )
        self.context = (
            Encoder(axes, sum(f.channels + 1 for f in planes), self.width, network, precision) if planes else None
        )
        inner = 4 * self.width
        self.embed = (
            nn.Sequential(nn.Linear(self.width, inner), nn.SiLU(), nn.Linear(inner, inner)) if vectors else None
        )
        self.entries = vector_entries(vectors, inner)
        self.shift = nn.Linear(inner, self.width) if vectors else None
        extra = self.width * (bool(planes) + bool(vectors))
        self.decode = Decoder(axes, codes + extra, signature.channels, network, precision)

    def encoded(self, x: Tensor, condition: Condition) -> Tensor:
        if bad := [n for n in x.shape[2:] if n % self.factor]:
            raise ValueError(f"The codec got a side of {bad[0]}, expected multiples of {self.factor}.")
        return self.encode(with_planes(x, self.planes_and_vectors[0], condition, x.shape[2:]))  # type: ignore[no-any-return]

    def decoded(self, z: Tensor, condition: Condition) -> Tensor:
        planes, vectors = self.planes_and_vectors
        parts = [z]
        if self.context is not None:
            grid = [n * self.factor for n in z.shape[2:]]
            beside = with_planes(z.new_zeros(len(z), 0, *grid), planes, condition, grid)
            parts.append(self.context(beside))
        if self.embed is not None and self.shift is not None:
            level = torch.zeros(len(z), device=z.device)
            e = self.shift(embedding(self.embed, self.entries, self.width, level, vectors, condition))
            parts.append(e.reshape(*e.shape, *[1] * (z.ndim - 2)).expand(-1, -1, *z.shape[2:]))
        out: Tensor = self.decode(torch.cat(parts, 1))
        return out


class Vae(Codec):
    """x from z ~ N(0, 1) and the condition; the decoder's noise is learned (Rybkin et al. 2021), so that no weight needs a setting.

    `kl` = 1 is the bound on the likelihood: draws come from N(0, 1). Far below (0.01) codes keep every detail and need a prior of
    their own: `family: {name: flow, in: {stage: codec}}`. `frequency` weighs Fourier coefficients, `adversarial` a patch critic.
    Latents of `encode` are means divided by their measured deviation.
    """

    learns = KINDS
    scale: Tensor

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, codes: int = 8, kl: float = 1.0, frequency: float = 0.1,
        adversarial: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.fields, self.codes, self.kl, self.frequency, self.adversarial = (
            signature.x,
            codes,
            kl,
            frequency,
            adversarial,
        )
        self.net = _Autoencoder(signature, network, precision, codes, 2 * codes)
        self.critic = Discriminator(len(signature.axes), signature.channels, (), network) if adversarial else None
        self.register_buffer("scale", torch.ones(()))
        self.latent_shape: tuple[int, ...] = (codes,)

    @property
    def factor(self) -> int:
        return self.net.factor

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        if self.critic is None:
            return {"model": self.net.parameters()}
        return {"critic": self.critic.parameters(), "model": self.net.parameters()}

    def encode(self, x: Tensor) -> Tensor:
        """Means over their deviation, without a condition; x as targets are (labels one-hot)."""
        mean = self.net.encoded(x, Condition())[:, : self.codes] / self.scale
        self.latent_shape = tuple(mean.shape[1:])
        return mean

    def encode_by_tiles(self, x: Tensor, tile: int) -> Tensor:
        """As `encode`, in the memory of tiles of `tile` voxels a side."""
        with tiled(self, (tile,)):
            return self.encode(x)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """Logits of labels become chances."""
        return answer(self.net.decoded(z * self.scale, condition), self.fields)

    def decode_by_tiles(self, z: Tensor, tile: int) -> Tensor:
        """As `decode` without a condition, in the memory of tiles of `tile` codes a side."""
        with tiled(self, (tile * self.factor,)):
            return self.decode(z, Condition())

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        target = _target(problem)
        mean, log_variance = self.net.encoded(target, problem.condition).chunk(2, 1)
        log_variance = log_variance.clamp(-12, 6)
        z = mean + (0.5 * log_variance).exp() * rng.child("code").normal(*mean.shape[1:]).to(mean.device)
        if self.training and group == "model":
            with torch.no_grad():  # follows the codes' own size
                self.scale.lerp_((mean**2 + log_variance.exp()).mean().sqrt(), 0.02)
        output = self.net.decoded(z, problem.condition)
        if group == "critic":
            return _critic_terms(self.critic, target, _shown(problem, output, self.fields))
        terms = _likelihoods(problem, output, self.fields, self.frequency)
        share = mean[0].numel() / target[0].numel()  # nats of codes for each voxel
        terms["KL"] = self.kl * share * kl_normal(mean, log_variance)
        if self.critic is not None:
            terms |= _fooling(self.critic, target, _shown(problem, output, self.fields), self.adversarial)
        return terms

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        grid = _grid(problem, self.factor)
        device = next(self.net.parameters()).device
        self.latent_shape = (self.codes, *grid)
        z = rng.child("code").normal(*self.latent_shape).to(device)
        return answer(self.net.decoded(z, problem.condition), self.fields)


class Fsq(Codec):
    """Tokens: every code is one of product(levels) words (vector quantisation whose book needs no learning and cannot collapse).

    Alone it draws words by chance and is no generator; a prior draws them: `family: {name: flow, in: {stage: codec}}`.
    """

    learns = KINDS

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, levels: Sequence[int] = (8, 5, 5, 5), frequency: float = 0.1,
        adversarial: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if min(levels) < 2:
            raise ValueError(f"vq.levels is {list(levels)}, expected at least 2 values for each channel.")
        self.fields, self.frequency, self.adversarial = signature.x, frequency, adversarial
        self.levels = Levels(levels)
        self.net = _Autoencoder(signature, network, precision, len(levels), len(levels))
        self.critic = Discriminator(len(signature.axes), signature.channels, (), network) if adversarial else None
        self.latent_shape: tuple[int, ...] = (len(levels),)

    @property
    def factor(self) -> int:
        return self.net.factor

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        if self.critic is None:
            return {"model": self.net.parameters()}
        return {"critic": self.critic.parameters(), "model": self.net.parameters()}

    def encode(self, x: Tensor) -> Tensor:
        """Rounded codes in [-1, 1]; `tokens` numbers them."""
        codes: Tensor = self.levels(self.net.encoded(x, Condition()))
        self.latent_shape = tuple(codes.shape[1:])
        return codes

    def tokens(self, x: Tensor) -> Tensor:
        """(B, *grid) whole numbers below product(levels)."""
        return self.levels.tokens(self.encode(x))

    def used(self, x: Tensor) -> tuple[float, float]:
        """(share of the words that x uses, perplexity of their use)."""
        counts = torch.bincount(self.tokens(x).flatten(), minlength=self.levels.size).float()
        shares = counts / counts.sum()
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
        return float((counts > 0).float().mean()), float(entropy.exp())

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """What a prior draws is rounded to the nearest words first."""
        half = ((self.levels.counts - 1) / 2).reshape(1, -1, *[1] * (z.ndim - 2)).to(z.device)
        words = ((z.clamp(-1, 1) + 1) * half).round() / half - 1
        return answer(self.net.decoded(words, condition), self.fields)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        target = _target(problem)
        output = self.net.decoded(self.levels(self.net.encoded(target, problem.condition)), problem.condition)
        if group == "critic":
            return _critic_terms(self.critic, target, _shown(problem, output, self.fields))
        terms = _likelihoods(problem, output, self.fields, self.frequency)
        if self.critic is not None:
            terms |= _fooling(self.critic, target, _shown(problem, output, self.fields), self.adversarial)
        return terms

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        grid = _grid(problem, self.factor)
        device = next(self.net.parameters()).device
        self.latent_shape = (len(self.levels.counts), *grid)
        words = (rng.child("code").uniform(*grid) * self.levels.size).long().clamp(max=self.levels.size - 1).to(device)
        return answer(self.net.decoded(self.levels.codes(words), problem.condition), self.fields)


def _target(problem: Problem) -> Tensor:
    if problem.target is None:
        raise ValueError(
            f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
        )
    return problem.target if problem.weight is None else problem.target * problem.weight


def _likelihoods(problem: Problem, output: Tensor, fields: Sequence[Field], weight: float) -> dict[str, Tensor]:
    """log of the mean distance: Laplace noise whose width is the best one; labels as elsewhere; Fourier coefficients alike."""
    known, total = field_terms(problem, output, fields), sum(f.channels for f in fields)
    terms = {
        n: f.channels / total * ((t + 1e-4).log() if f.kind != "label" else t)
        for f, (n, t) in zip(fields, known.items(), strict=True)
    }
    if weight:
        terms["frequency"] = weight * (frequency(_shown(problem, output, fields), _target(problem)) + 1e-4).log()
    return terms


def _shown(problem: Problem, output: Tensor, fields: Sequence[Field]) -> Tensor:
    """The answer where the truth is known, zero elsewhere, as in `_target`."""
    given = answer(output, fields)
    return given if problem.weight is None else given * problem.weight


def _grid(problem: Problem, factor: int) -> list[int]:
    if bad := [n for n in problem.shape[1:] if n % factor]:
        raise ValueError(
            f"The codec is asked for a side of {bad[0]}, expected multiples of {factor}. Use fewer levels."
        )
    return [n // factor for n in problem.shape[1:]]


def _critic_terms(critic: nn.Module | None, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    assert critic is not None
    real, fake = real.detach().requires_grad_(), fake.detach().requires_grad_()
    logits = critic(real, Condition()), critic(fake, Condition())
    slopes = gradient_penalty(logits[0], real) + gradient_penalty(logits[1], fake)
    return {"critic": relativistic_critic(*logits), "penalty": 0.5 * slopes}


def _fooling(critic: Discriminator, real: Tensor, fake: Tensor, weight: float) -> dict[str, Tensor]:
    (logits, seen), (other, also) = critic.with_features(real, Condition()), critic.with_features(fake, Condition())
    return {
        "adversarial": weight * relativistic_generator(logits.detach(), other),
        "features": weight * feature_matching(seen, also),
    }

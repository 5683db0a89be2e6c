"""Autoencoders: continuous with a normal prior (Kingma and Welling 2014), or with finitely many codes (Mentzer et al.
2024).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..contracts import Codec, Condition, Field, Problem, Signature
from ..networks.blocks import embedding, planes_and_vectors, vector_entries, with_planes
from ..networks.codec import Decoder, Encoder, Levels, factor_of
from ..networks.discriminator import Discriminator
from ..networks.ladder import LOG_VARIANCES, Ladder, drawn_from
from ..networks.unet import UNetShape
from ..rng import Rng
from .critic import fool, teach
from .losses import frequency, kl_normal
from .misfit import answer, field_terms

KINDS = ("intensity", "complex", "label", "displacement")


class _Autoencoder(nn.Module):
    """An encoder of x and a decoder of codes that see the condition: planes through an encoder of their own, numbers as
    a shift.
    """

    def __init__(self, signature: Signature, network: UNetShape, precision: str, codes: int, encoded: int) -> None:
        super().__init__()
        axes, self.planes_and_vectors = len(signature.axes), planes_and_vectors(signature.condition)
        planes, vectors = self.planes_and_vectors
        self.width, self.factor, self.codes = network.channels[0], factor_of(network), codes
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
        self.wider = self.width * (bool(planes) + bool(vectors))
        self.decode = Decoder(axes, codes + self.wider, signature.channels, network, precision)

    def encoded(self, x: Tensor, condition: Condition) -> Tensor:
        if bad := [n for n in x.shape[2:] if n % self.factor]:
            raise ValueError(
                f"The codec got a side of {bad[0]}, expected multiples of {self.factor}. Write: prepare: {{multiple:"
                f" {self.factor}}}"
            )
        return self.encode(with_planes(x, self.planes_and_vectors[0], condition, x.shape[2:]))  # type: ignore[no-any-return]

    def decoded(self, z: Tensor, beside: Tensor) -> Tensor:
        out: Tensor = self.decode(torch.cat([z, beside], 1))
        return out

    def beside(self, z: Tensor, condition: Condition) -> Tensor:
        """(B, wider, *grid of z): what a condition says there."""
        planes, vectors = self.planes_and_vectors
        parts = [z[:, :0]]
        if self.context is not None:
            grid = [n * self.factor for n in z.shape[2:]]
            parts.append(self.context(with_planes(z.new_zeros(z.shape[0], 0, *grid), planes, condition, grid)))
        if self.embed is not None and self.shift is not None:
            level = torch.zeros(z.shape[0], device=z.device)
            e = self.shift(embedding(self.embed, self.entries, self.width, level, vectors, condition))
            parts.append(e.reshape(*e.shape, *[1] * (z.ndim - 2)).expand(-1, -1, *z.shape[2:]))
        return torch.cat(parts, 1)


class _Body(nn.Module):
    """What both codecs share: the autoencoder, an optional critic, and the terms of a reconstruction."""

    def __init__(
        self, signature: Signature, net: _Autoencoder, network: UNetShape, frequency: float, adversarial: float
    ) -> None:
        super().__init__()
        self.fields, self.net, self.frequency, self.adversarial = signature.x, net, frequency, adversarial
        self.critic = Discriminator(len(signature.axes), signature.channels, (), network) if adversarial else None

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        critic = {} if self.critic is None else {"critic": self.critic.parameters()}
        return {**critic, "model": self.net.parameters()}

    def terms(self, problem: Problem, group: str, output: Tensor) -> dict[str, Tensor]:
        """Of the critic, or of the reconstruction with what the critic makes of it."""
        target, nothing = _target(problem), Condition()
        shown = answer(output, self.fields)
        shown = shown if problem.weight is None else shown * problem.weight  # zero where the target is
        if self.critic is not None and group == "critic":
            return teach(self.critic, target, shown, nothing)
        terms = _likelihoods(problem, output, self.fields)
        if self.frequency:
            terms["frequency"] = self.frequency * (frequency(shown, target) + 1e-4).log()
        if self.critic is not None:
            fooled = fool(self.critic, target, shown, nothing, matching=1.0)
            terms |= {name: self.adversarial * term for name, term in fooled.items()}
        return terms

    def latent_shape(self, problem: Problem) -> tuple[int, ...]:
        """Of one row's codes in a draw of this problem."""
        if bad := [n for n in problem.shape[1:] if n % self.net.factor]:
            raise ValueError(
                f"The codec is asked for a side of {bad[0]}, expected multiples of {self.net.factor}. Use fewer levels."
            )
        return (self.net.codes, *(n // self.net.factor for n in problem.shape[1:]))


class Vae(Codec):
    """x from codes z and the condition; the decoder's noise is learned (Rybkin et al. 2021), so that no weight needs a
    setting.

    What is likely for z is learned too, from `rungs` coarser grids of codes above it (`networks.ladder`), so that a
    draw is one whole. `kl` = 1 is the bound on the likelihood. Far below (0.01) codes keep every detail and need a
    prior of their own: `family: {name: flow, in: {stage: codec}}`. `frequency` weighs Fourier coefficients,
    `adversarial` a patch critic. Latents of `encode` are means divided by their measured deviation.
    """

    learns = KINDS
    scale: Tensor

    def __init__(
        self,
        signature: Signature,
        network: UNetShape,
        precision: str,
        *,
        codes: int = 8,
        kl: float = 1.0,
        rungs: int = 4,
        frequency: float = 0.1,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__()
        if rungs < 0:
            raise ValueError(f"vae.rungs is {rungs}, expected 0 or more coarser grids of codes.")
        net = _Autoencoder(signature, network, precision, codes, 2 * codes)
        self.fields, self.body = signature.x, _Body(signature, net, network, frequency, adversarial)
        self.codes, self.factor, self.kl = codes, net.factor, kl
        self.ladder = Ladder(len(signature.axes), codes, net.wider, network.channels[-1], rungs)
        self.register_buffer("scale", torch.ones(()))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        groups = self.body.groups()
        return {**groups, "model": [*groups["model"], *self.ladder.parameters()]}

    def encode(self, x: Tensor) -> Tensor:
        """Means over their deviation, without a condition; x as targets are (labels one-hot)."""
        return self.body.net.encoded(x, Condition())[:, : self.codes] / self.scale

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """Logits of labels become chances."""
        return answer(self.body.net.decoded(z * self.scale, self.body.net.beside(z, condition)), self.fields)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        target = _target(problem)
        mean, log_variance = self.body.net.encoded(target, problem.condition).chunk(2, 1)
        codes = mean, log_variance.clamp(*LOG_VARIANCES)
        z = drawn_from(codes, rng.child("code"))
        if self.training and group == "model":
            with torch.no_grad():  # follows the codes' own size
                self.scale.lerp_((mean**2 + codes[1].exp()).mean().sqrt(), 0.02)
        beside = self.body.net.beside(z, problem.condition)
        terms = self.body.terms(problem, group, self.body.net.decoded(z, beside))
        if group == "model":
            pairs = self.ladder.told(codes, beside, rng)
            nats = torch.stack([found[0][0].numel() * kl_normal(*found, *likely) for found, likely in pairs]).sum(0)
            terms["KL"] = self.kl * nats / target[0].numel()
        return terms

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        shape = self.body.latent_shape(problem)
        grid = torch.zeros(len(problem.cases), *shape, device=self.scale.device)
        beside = self.body.net.beside(grid, problem.condition)
        z = self.ladder.draw(shape[1:], beside, rng)
        return answer(self.body.net.decoded(z, beside), self.fields)


class Fsq(Codec):
    """Tokens: every code is one of product(levels) words (vector quantisation whose book needs no learning and cannot
    collapse).

    Alone it draws words by chance and is no generator; a prior draws them: `family: {name: flow, in: {stage: codec}}`.
    """

    learns = KINDS

    def __init__(
        self,
        signature: Signature,
        network: UNetShape,
        precision: str,
        *,
        levels: Sequence[int] = (8, 5, 5, 5),
        frequency: float = 0.1,
        adversarial: float = 0.0,
    ) -> None:
        super().__init__()
        if min(levels) < 2:
            raise ValueError(f"vq.levels is {list(levels)}, expected at least 2 values for each channel.")
        net = _Autoencoder(signature, network, precision, len(levels), len(levels))
        self.fields, self.body = signature.x, _Body(signature, net, network, frequency, adversarial)
        self.codes, self.factor = net.codes, net.factor
        self.levels = Levels(levels)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return self.body.groups()

    def encode(self, x: Tensor) -> Tensor:
        """Rounded codes in [-1, 1]; `tokens` numbers them."""
        codes: Tensor = self.levels(self.body.net.encoded(x, Condition()))
        return codes

    def tokens(self, x: Tensor) -> Tensor:
        """(B, *grid) whole numbers below product(levels)."""
        return self.levels.tokens(self.encode(x))

    def used(self, tokens: Tensor) -> tuple[float, float]:
        """(share of the words that are there, perplexity of their use)."""
        counts = torch.bincount(tokens.flatten(), minlength=self.levels.size).float()
        shares = counts / counts.sum()
        entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
        return float((counts > 0).float().mean()), float(entropy.exp())

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """What a prior draws is rounded to the nearest words first."""
        half = ((self.levels.counts - 1) / 2).reshape(1, -1, *[1] * (z.ndim - 2)).to(z.device)
        words = ((z.clamp(-1, 1) + 1) * half).round() / half - 1
        return answer(self.body.net.decoded(words, self.body.net.beside(words, condition)), self.fields)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        codes = self.levels(self.body.net.encoded(_target(problem), problem.condition))
        beside = self.body.net.beside(codes, problem.condition)
        return self.body.terms(problem, group, self.body.net.decoded(codes, beside))

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        shape, device = self.body.latent_shape(problem), next(self.body.parameters()).device
        words = (
            (rng.child("code").uniform(*shape[1:]) * self.levels.size).long().clamp(max=self.levels.size - 1).to(device)
        )
        return self.decode(self.levels.codes(words), problem.condition)


def _target(problem: Problem) -> Tensor:
    if problem.target is None:
        raise ValueError(
            f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
        )
    return problem.target if problem.weight is None else problem.target * problem.weight


def _likelihoods(problem: Problem, output: Tensor, fields: Sequence[Field]) -> dict[str, Tensor]:
    """log of the mean distance: Laplace noise whose width is the best one; labels as elsewhere; each field by its share
    of x.
    """
    known, total = field_terms(problem, output, fields), sum(f.channels for f in fields)
    return {
        n: f.channels / total * ((t + 1e-4).log() if f.kind != "label" else t)
        for f, (n, t) in zip(fields, known.items(), strict=True)
    }

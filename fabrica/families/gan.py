"""Generative adversarial networks: from noise and condition to an image in one pass, taught by a critic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..contracts import Family, Problem, Signature
from ..networks.backbone import backbone
from ..networks.blocks import shown
from ..networks.discriminator import Discriminator
from ..networks.unet import UNetShape
from ..rng import Rng
from .critic import fool, teach
from .losses import ADVERSARIAL
from .misfit import added_terms, answer, check_losses, field_terms

Adversarial = Literal["relativistic", "hinge", "least squares", "non-saturating", "wasserstein"]

NOISE = 8  # channels of it that a draw starts from: channel k is one number for each block of 2^k voxels a side


class Gan(Family):
    """x = generator(noise, condition); the default is R3GAN's relativistic loss with R1 and R2 (Huang et al. 2024).

    Where a condition shows the patient on the grid of x (translation), `pixel` weighs the distance to the paired target
    and `features` the matching of the critic's features (Isola et al. 2017, Wang et al. 2018; 10 and 2 unless told);
    without such a condition neither can be asked for. `losses` adds others of the table by weight, for pairs:
    {structural: 0.5}. Without `penalty` the critic's weights are divided by their largest singular value (Miyato et al.
    2018).
    """

    learns = ("intensity", "complex", "label", "displacement")

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, adversarial: Adversarial = "relativistic",
        penalty: float = 1.0, pixel: float | None = None, features: float | None = None,
        losses: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.losses = check_losses(losses or {})
        self.fields, self.penalty = signature.x, penalty
        paired = bool(signature.axes and shown(signature.condition))
        told = [n for n, v in {"losses": self.losses, "pixel": pixel, "features": features}.items() if v]
        if told and not paired:
            raise ValueError(
                f"{told[0]} compare{'s' if told[0] == 'pixel' else ''} pairs, and this job has none. Take {told[0]}"
                " out, or give an image: from: [T1w]"
            )
        self.pixel = (10.0 if pixel is None else pixel) if paired else 0.0
        self.matching = (2.0 if features is None else features) if paired else 0.0
        self.critic_form, self.generator_form = ADVERSARIAL[adversarial]
        self.generator = backbone(signature, NOISE, network, precision)
        self.critic = Discriminator(len(signature.axes), signature.channels, signature.condition, network, not penalty)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"critic": self.critic.parameters(), "model": self.generator.parameters()}

    def _output(self, problem: Problem, rng: Rng) -> Tensor:
        """Logits for labels, values for the rest."""
        device = next(self.generator.parameters()).device
        noise = in_blocks(rng.child("noise").normal(NOISE, *problem.shape[1:])).to(device)
        out: Tensor = self.generator(noise, torch.zeros(len(noise), device=device), problem.condition)
        return out

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
            )
        weight = 1.0 if problem.weight is None else problem.weight
        with torch.set_grad_enabled(group == "model"):
            output = self._output(problem, rng)
        real, fake = (
            problem.target * weight,
            answer(output, self.fields) * weight,
        )  # what is unknown is zero on both sides
        if group == "critic":
            return teach(self.critic, real, fake, problem.condition, penalty=self.penalty, form=self.critic_form)
        terms = fool(self.critic, real, fake, problem.condition, matching=self.matching, form=self.generator_form)
        if self.pixel:
            known = field_terms(problem, output, self.fields)
            terms |= {f"pixel {name}": self.pixel * term for name, term in known.items()}
        return {**terms, **added_terms(problem, output, self.fields, self.losses)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return answer(self._output(problem, rng), self.fields)


def in_blocks(noise: Tensor) -> Tensor:
    """(B, C, *axes) -> the same: what is common to a whole image is drawn too, which a mean over voxels' noise cannot
    tell.
    """
    channels = []
    for k, channel in enumerate(torch.split(noise, 1, 1)):
        for axis in range(2, noise.ndim):
            channel = channel.index_select(axis, torch.arange(noise.shape[axis]) >> k << k)
        channels.append(channel)
    return torch.cat(channels, 1)

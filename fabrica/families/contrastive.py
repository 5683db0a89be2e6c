"""A small encoder that learns from images alone: two views of a patient agree, features do not collapse (VICReg, Bardes
et al. 2022), or are told from those of the other patients (InfoNCE, van den Oord et al. 2018).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..contracts import Condition, Family, Problem, Signature
from ..data.augment import augmented
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..rng import Rng
from .losses import contrastive


class Contrastive(Family):
    """x = features of the condition's images. Views: turns, scalings, noise and a change of the intensity curve.

    `form: vicreg` holds distance between views, spread of each feature, and covariance between features; `form:
    infonce` tells a patient's view from those of the others in the batch. Rows mix. What is given back is the features
    before nothing else: they have no scale of their own, and are compared after standardising.
    """

    learns = ("embedding",)

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, noise: float = 0.05, turn: float = 1.0,
        form: Literal["vicreg", "infonce"] = "vicreg",
    ) -> None:  # fmt: skip
        super().__init__()
        self.noise, self.turn, self.form = noise, turn, form
        self.images = tuple(f.name for f in signature.condition if f.kind in ("intensity", "label"))
        self.labels = tuple(f.name for f in signature.condition if f.kind == "label")
        self.net = backbone(signature, 0, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _features(self, problem: Problem, condition: Condition) -> Tensor:
        device = next(self.net.parameters()).device
        rows = len(problem.cases)
        found: Tensor = self.net(torch.zeros(rows, 0, device=device), torch.zeros(rows, device=device), condition)
        return found

    def _view(self, condition: Condition, rng: Rng) -> Condition:
        moved = augmented({n: condition.values[n] for n in self.images}, self.labels, self.turn, rng)
        values = dict(condition.values)
        for name, image in moved.items():
            if name not in self.labels:
                curve = (0.2 * rng.child("curve", name).normal()).exp().reshape(-1, *[1] * (image.ndim - 1))
                rough = self.noise * rng.child("noise", name).normal(*image.shape[1:])
                power = curve.to(image.device)
                image = image.sign() * image.abs().clamp(min=1e-6) ** power + rough.to(image.device)
            values[name] = image
        return Condition(values, condition.present)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        one, other = (self._features(problem, self._view(problem.condition, rng.child("view", k))) for k in (0, 1))
        if self.form == "infonce":
            return {"views": (contrastive(one, other) + contrastive(other, one)) / 2}
        terms = {"views": 25 * ((one - other) ** 2).flatten(1).mean(1)}
        spread = [torch.relu(1 - (z.var(0, unbiased=False) + 1e-4).sqrt()).mean() for z in (one, other)]
        return {**terms, "spread": 25 * (spread[0] + spread[1]), "covariance": _covariance(one) + _covariance(other)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return self._features(problem, problem.condition)


def _covariance(z: Tensor) -> Tensor:
    """Squared covariances between different features, over their number."""
    centred = z - z.mean(0)
    matrix = centred.T @ centred / max(1, len(z) - 1)
    return (matrix**2).sum() / z.shape[1] - (matrix.diagonal() ** 2).sum() / z.shape[1]

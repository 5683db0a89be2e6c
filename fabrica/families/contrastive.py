"""A small encoder that learns from images alone: two views of a patient agree, features do not collapse (VICReg, Bardes
et al. 2022), or are told from those of the other patients (InfoNCE, van den Oord et al. 2018); and from images beside
their texts (CLIP, Radford et al. 2021).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..contracts import Condition, Matcher, Problem, Signature
from ..data.augment import augmented
from ..networks.backbone import backbone
from ..networks.reader import Reader, worded
from ..networks.unet import UNetShape
from ..rng import Rng
from .losses import contrastive

BLOCKS = 8  # a side, of which a view may lack some


class Contrastive(Matcher):
    """x = features of the condition's images. Views: turns, scalings, noise and a change of the intensity curve.

    `form: vicreg` holds distance between views, spread of each feature, and covariance between features; `form:
    infonce` tells a patient's view from those of the others in the batch. Rows mix. What is given back is the features
    before nothing else: they have no scale of their own, and are compared after standardising.

    Where the job names texts, they are read by a transformer that is trained with the encoder: each view finds the text
    of its own row among those of the batch, and back, where rows that say the same belong to one another (Yang et al.
    2022, UniCL); `words` weighs that against the rest. `hide` is the share of blocks that a view lacks.
    """

    learns = ("embedding",)

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, noise: float = 0.05, turn: float = 1.0,
        form: Literal["vicreg", "infonce"] = "vicreg", words: float = 10.0, hide: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__()
        if not (0 <= hide < 1 and words >= 0):
            raise ValueError(f"hide is {hide} and words {words}, expected a share below 1 and a weight of 0 or more.")
        self.words, self.hide = words, hide
        self.noise, self.turn, self.form = noise, turn, form
        self.images = tuple(f.name for f in signature.condition if f.kind in ("intensity", "label"))
        self.labels = tuple(f.name for f in signature.condition if f.kind == "label")
        self.texts = worded(signature.condition)
        seen = replace(signature, condition=tuple(f for f in signature.condition if f not in self.texts))
        self.net = backbone(seen, 0, network, precision)
        if self.texts:
            width = network.channels[-1]
            self.reader, self.told = Reader(self.texts, width), nn.Linear(width, signature.channels)
            self.sharpness = nn.Parameter(torch.tensor(math.log(10.0)))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.parameters()}

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
            values[name] = self._hidden(image, rng.child("hide", name)) if self.hide else image
        return Condition(values, condition.present)

    def _hidden(self, image: Tensor, rng: Rng) -> Tensor:
        """Without some of its blocks of an eighth of a side, a share of `hide` by chance."""
        blocks = [min(BLOCKS, n) for n in image.shape[2:]]
        chance = rng.uniform(math.prod(blocks)).reshape(len(image), 1, *blocks).to(image.device)
        return image * F.interpolate((chance >= self.hide).to(image.dtype), image.shape[2:], mode="nearest")

    def worded(self, condition: Condition, rows: int) -> Tensor:
        if not self.texts:
            raise ValueError("This encoder was trained without texts. Write: job: {name: representation, text: {...}}")
        read = self.reader(condition, rows, next(self.net.parameters()).device)
        found: Tensor = self.told(read.whole)
        return found

    def _matched(self, views: Sequence[Tensor], condition: Condition) -> Tensor:
        """(B,): how surprising the texts of views are, and the views of texts; rows without a text count nothing."""
        told = F.normalize(self.worded(condition, len(views[0])), dim=1)
        words = torch.cat([condition.values[f.name].long().reshape(len(told), f.length) for f in self.texts], 1)
        there = torch.ones(len(told), dtype=torch.bool, device=told.device)
        known = torch.stack([condition.present.get(f.name, there) for f in self.texts]).any(0) & (words > 0).any(1)
        same = (words[:, None] == words[None]).all(2) & known[:, None] & known[None]
        wanted = same.float() / same.sum(1, keepdim=True).clamp(min=1)
        total, far = torch.zeros(len(told), device=told.device), torch.finfo(torch.float32).min
        for view in views:
            logits = self.sharpness.exp().clamp(max=100) * F.normalize(view, dim=1) @ told.T
            for way in (logits, logits.T):
                chances = way.masked_fill(~known[None], far).log_softmax(1)
                total = total - (wanted * chances.masked_fill(~known[None], 0.0)).sum(1)
        return total * known / (2 * len(views))

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        one, other = (self._features(problem, self._view(problem.condition, rng.child("view", k))) for k in (0, 1))
        told = {"words": self.words * self._matched((one, other), problem.condition)} if self.texts else {}
        if self.form == "infonce":
            return {"views": (contrastive(one, other) + contrastive(other, one)) / 2, **told}
        terms = {"views": 25 * ((one - other) ** 2).flatten(1).mean(1)}
        spread = [torch.relu(1 - (z.var(0, unbiased=False) + 1e-4).sqrt()).mean() for z in (one, other)]
        return {
            **terms,
            **told,
            "spread": 25 * (spread[0] + spread[1]),
            "covariance": _covariance(one) + _covariance(other),
        }

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return self._features(problem, problem.condition)


def _covariance(z: Tensor) -> Tensor:
    """Squared covariances between different features, over their number."""
    centred = z - z.mean(0)
    matrix = centred.T @ centred / max(1, len(z) - 1)
    return (matrix**2).sum() / z.shape[1] - (matrix.diagonal() ** 2).sum() / z.shape[1]

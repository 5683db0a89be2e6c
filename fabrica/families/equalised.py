"""Intensities on a scale where common ones have room (histogram equalisation, Gonzalez and Woods 2018, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor, nn

from ..contracts import Codec, Condition, Problem, Signature
from ..rng import Rng

KNOTS = 2049  # of a curve, evenly spread over the intensities
ENDS = (0.0005, 0.9995)  # quantiles between which a curve bends; a little beyond, it goes straight on
# knots that a value stands for: a step of 8-bit greys has eight, and draws near a common grey fall to both its sides
BLUR = 9


class Equalised(Codec):
    """A codec of single voxels: u = (1 - share) x + share F(x), with F the share of the training cohort's voxels below
    x.

    Narrow ranges of intensity that many voxels have (soft tissue of a CT beside air and bone) become wide ones for
    whatever learns and draws u, and no range keeps less than 1 - `share` of its room. Channels of `signature.x` that
    are no intensities pass untouched. There is nothing to train: `fit` reads the curves from the training cohort's
    voxels.
    """

    low: Tensor
    high: Tensor
    levels: Tensor

    def __init__(self, signature: Signature, share: float) -> None:
        super().__init__()
        self.share = share
        kinds = [f.kind for f in signature.x for _ in range(f.channels)]
        self.bent = tuple(k for k, kind in enumerate(kinds) if kind == "intensity")
        self.codes, self.factor = len(kinds), 1
        self.register_buffer("low", torch.zeros(len(kinds)))
        self.register_buffer("high", torch.ones(len(kinds)))
        self.register_buffer("levels", torch.linspace(0, 1, KNOTS).repeat(len(kinds), 1))

    def fit(self, voxels: Mapping[int, Sequence[NDArray[np.floating]]]) -> None:
        """The curve of each channel from what training images have there, one flat array an image; one that is
        constant, or that no image has, stays straight. What is no number is left to training, which names its
        patient.
        """
        for channel in (k for k in self.bent if k in voxels):
            values = np.concatenate([np.asarray(v, np.float64).ravel() for v in voxels[channel]])
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            low, high = np.quantile(values, ENDS)
            if not high > low:
                continue
            margin = BLUR * (high - low) / KNOTS
            low, high = low - margin, high + margin
            counts, _ = np.histogram(values, np.linspace(low, high, KNOTS))
            spread = ndimage.uniform_filter1d(counts.astype(np.float64), BLUR, mode="constant")
            below = np.concatenate([[0.0], np.cumsum(spread)]) / spread.sum()
            curve = (1 - self.share) * np.linspace(0, 1, KNOTS) + self.share * below
            self.low[channel], self.high[channel] = float(low), float(high)
            self.levels[channel] = torch.from_numpy(curve)

    @property
    def widest(self) -> float:
        """How many times its room the most common intensity has."""
        return float((self.levels[list(self.bent)].diff() * (KNOTS - 1)).max())

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {}

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        raise TypeError("Equalised intensities have nothing to train; train what draws them.")

    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        raise TypeError("Equalised intensities are drawn by the family that works in them.")

    def encode(self, x: Tensor) -> Tensor:
        """(B, C, *axes) in the model's scale to u, about [0, 1]."""
        return self._channelwise(x, self._bend)

    def decode(self, z: Tensor, condition: Condition) -> Tensor:
        """The exact inverse of `encode`, up to rounding."""
        return self._channelwise(z, self._straighten)

    def _channelwise(self, x: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
        parts = [change(part, k) if k in self.bent else part for k, part in enumerate(x.float().unbind(1))]
        return torch.stack(parts, 1)

    def _bend(self, x: Tensor, channel: int) -> Tensor:
        place = (x - self.low[channel]) / (self.high[channel] - self.low[channel])
        levels = self.levels[channel]
        knot = (place.nan_to_num() * (KNOTS - 1)).floor().clamp(0, KNOTS - 2)
        left = levels[knot.long()]
        within = left + (place * (KNOTS - 1) - knot) * (levels[knot.long() + 1] - left)
        inside = (place >= 0) & (place <= 1)
        return torch.where(inside, within, self._beyond(place, 1 - self.share))

    def _straighten(self, u: Tensor, channel: int) -> Tensor:
        levels = self.levels[channel]
        knot = (torch.searchsorted(levels, u.contiguous(), right=True) - 1).clamp(0, KNOTS - 2)
        left = levels[knot]
        place = (knot + (u - left) / (levels[knot + 1] - left)) / (KNOTS - 1)
        place = torch.where((u >= 0) & (u <= 1), place, self._beyond(u, 1 / (1 - self.share)))
        return self.low[channel] + place * (self.high[channel] - self.low[channel])

    @staticmethod
    def _beyond(value: Tensor, slope: float) -> Tensor:
        """Straight on, below 0 and above 1."""
        return slope * value + (1 - slope) * (value > 1)

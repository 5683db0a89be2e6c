"""The closest pairs of a draw and a training image, for a person to look at: never a p value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .copies import Copies
from .spaces import pixels

NEIGHBOURS = 50  # training images around a draw that its nearest is held against
TILES = 4  # a side, for the patch-wise distance
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A draw beside a training image (1, z, y, x) each. Distances are root mean squares in deviations of the image.

    `patchwise`: the largest over tiles: small only where every part is alike (Carlini et al. 2023). `registered`: after
    the best flip and shift. `ratio`: its distance beside the mean of that to NEIGHBOURS training images.
    """

    draw: Tensor
    real: Tensor
    distance: float
    patchwise: float
    registered: float
    ratio: float


def gallery(found: Copies, draws: Sequence[Tensor], train: Sequence[Tensor]) -> list[Pair]:
    """The pairs that the test looked at first, as they are and as far as they can be brought together."""
    pairs = [(draws[d], train[t], gap) for d, t, gap in found.pairs if t < len(train)]
    if not pairs:
        return []
    known = pixels(train)
    shown = []
    for draw, real, gap in pairs:
        aligned = registered(draw, real)
        off = np.sort(np.linalg.norm(known - pixels([draw]), axis=1))
        around = off[1 : NEIGHBOURS + 1].mean() if len(off) > 1 else off[0]
        shown.append(Pair(draw, real, gap, _patchwise(aligned, real), _apart(aligned, real), float(off[0] / around)))
    return shown


def registered(draw: Tensor, real: Tensor) -> Tensor:
    """The draw, mirrored and moved in its planes so that it correlates best with the other (phase correlation)."""
    best, least = draw, np.inf
    for turned in (draw, draw.flip(-1), draw.flip(-2)):
        product = torch.fft.fft2(_standard(real)) * torch.fft.fft2(_standard(turned)).conj()
        peaks = torch.fft.ifft2(product).real.sum((0, 1))
        y, x = divmod(int(peaks.argmax()), peaks.shape[-1])
        moved = torch.roll(turned, (y, x), (-2, -1))
        if (off := _apart(moved, real)) < least:
            best, least = moved, off
    return best


def _standard(image: Tensor) -> Tensor:
    image = image.double()
    return (image - image.mean()) / image.std().clamp(min=1e-9)


def _apart(a: Tensor, b: Tensor) -> float:
    return float((_standard(a) - _standard(b)).square().mean().sqrt())


def _patchwise(a: Tensor, b: Tensor) -> float:
    square = (_standard(a) - _standard(b)).square().mean((0, 1))
    tiles = torch.nn.functional.adaptive_avg_pool2d(square[None], min(TILES, *square.shape))
    return float(tiles.max().sqrt())

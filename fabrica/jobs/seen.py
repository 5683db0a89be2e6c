"""An image of x itself as what was measured, as if it had noise: what healthy twins and counterfactuals start from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..contracts import Batch, Measured, Measurement
from ..physics import Gaussian, Mask

SEEN = "image as it is"  # what the measurement is called
KIND: Mapping[str, Measured] = {SEEN: Measured(Mask, Gaussian)}


def check_deviation(job: str, deviation: float) -> None:
    """Raises ValueError for no noise at all, and for more than any image has."""
    if not 0 < deviation < 2:
        raise ValueError(f"{job}.deviation is {deviation:g}, expected above 0 and below 2.")


def as_it_is(batch: Batch, names: Sequence[str], deviation: float) -> dict[str, Measurement]:
    """Images of a batch as y = x + N(0, deviation^2), hidden by nothing."""
    seen = torch.cat([batch.images[name] for name in names], 1)
    whole = torch.ones(1, *seen.shape[1:], dtype=torch.bool, device=seen.device)
    return {SEEN: Measurement(seen, Mask(whole), Gaussian(deviation))}

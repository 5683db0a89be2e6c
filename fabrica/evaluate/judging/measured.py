"""One metric of one pair, by the evidence that it names: in physical units where there are some, else in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...contracts import Scale
from ...registry import NotEvaluated, measure
from .. import METRICS
from ..metrics.structure import ssim_map

Array = NDArray[np.floating[Any]]


def in_words(value: Any) -> float | str:
    """A number, or the words why there is none."""
    if isinstance(value, NotEvaluated):
        return str(value)
    return "infinite: the images are equal" if value == float("inf") else float(value)


def ssim_masked(image: Array, reference: Array, mask: NDArray[np.bool_], span: float, axes: str) -> float:
    """Wang 2004 per axial slice (slices) or in 3D (volumes), averaged over the voxels of the mask."""
    x, y = image.astype(np.float64), reference.astype(np.float64)
    if axes == "zyx" and min(x.shape) >= 11:
        return float(ssim_map(x, y, span, True)[mask].mean())
    planes = [z for z in range(len(x)) if mask[z].any()]
    total = sum(float(ssim_map(x[z], y[z], span, True)[mask[z]].sum()) for z in planes)
    return total / float(mask.sum())


def measured(
    metric: str, image: Array, reference: Array, mask: NDArray[np.bool_], physical: tuple[Scale, str] | None, axes: str,
    more: Mapping[str, Any],
) -> tuple[float | str, str]:  # fmt: skip
    """In physical units where there are some: HU over the SynthRAD range, others over the width of their scale.

    Arbitrary units on the scale where 1 = the foreground's 99.5th percentile. A metric is found whatever its tier, and
    called with the evidence that it names; `more`: spacing_mm, and masks of the case by name.
    """
    convention, span = "plain", 1.0
    if physical is not None:
        scale, unit = physical
        image, reference = in_units(image, scale), in_units(reference, scale)
        convention, span = ("synthrad2025", 4095.0) if unit == "HU" else ("plain", scale.width)
    if metric == "ssim":
        return ssim_masked(image, reference, mask, span, axes), ""
    known = METRICS.find(metric)
    given = {
        "generated": image,
        "reference": reference,
        "mask": mask,
        "data_range": span,
        "convention": convention,
        **more,
    }
    own = physical[1] if physical is not None else ""
    return in_words(measure(known, given)), own if known.unit == "unit of the image" else known.unit


def in_units(values: Array, scale: Scale) -> Array:
    """From the model's scale to the unit that has it."""
    return values * scale.width + scale.offset

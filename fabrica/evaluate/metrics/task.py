"""Tier 3: what a clinic would do with the image. One name for each function; the files beside hold them by subject."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from ...contracts import Metric
from .agreement import bland_altman, concordance_correlation, intraclass_correlation
from .discrimination import auc_delong, auc_delong_paired, brier, calibration
from .dose import dose_volume_histogram, gamma_pass_rate, openkbp_scores
from .observer import hotelling_observer, ideal_observer, laguerre_gauss
from .overlap import dice, hausdorff95, lesion_detection, normalised_surface_dice
from .readers import forced_choice, obuchowski_rockette
from .survival import concordance_index, concordance_uno, integrated_brier, kaplan_meier

__all__ = [
    "METRICS",
    "auc_delong",
    "auc_delong_paired",
    "bland_altman",
    "brier",
    "calibration",
    "concordance_correlation",
    "concordance_index",
    "concordance_uno",
    "csf_volume_error",
    "dice",
    "dose_volume_histogram",
    "forced_choice",
    "gamma_pass_rate",
    "hausdorff95",
    "hotelling_observer",
    "ideal_observer",
    "integrated_brier",
    "intraclass_correlation",
    "kaplan_meier",
    "laguerre_gauss",
    "lesion_contrast",
    "lesion_detection",
    "normalised_surface_dice",
    "obuchowski_rockette",
    "openkbp_scores",
]


def lesion_contrast(image: ArrayLike, lesion: ArrayLike, *, tissue: ArrayLike | None = None) -> float:
    """Mean inside the lesions minus mean of the shell 2 to 5 voxels around them (inside `tissue` when given).

    The contrast that a model keeps is this number for its image over the same for the truth: 1 = as in the truth,
    0 = invisible. Raises ValueError when lesion or shell is empty.
    """
    values, inside = np.asarray(image, np.float64), np.asarray(lesion).astype(bool)
    shell = ndimage.binary_dilation(inside, iterations=5) & ~ndimage.binary_dilation(inside, iterations=2)
    if tissue is not None:
        shell &= np.asarray(tissue).astype(bool)
    if not inside.any() or not shell.any():
        raise ValueError("lesion_contrast needs a lesion and tissue around it.")
    return float(values[inside].mean() - values[shell].mean())


def csf_volume_error(
    generated: ArrayLike, reference: ArrayLike, *, brain_mask: ArrayLike, spacing_mm: Sequence[float]
) -> float:
    """How far off the volume of fluid is, in ml: what is darker than half the reference's median inside its brain.

    One segmentation for both images, of T1-weighted intensities. Raises ValueError for shapes that differ and for an
    empty brain.
    """
    x, y, inside = np.asarray(generated, np.float64), np.asarray(reference, np.float64), np.asarray(brain_mask) > 0.5
    if x.shape != y.shape or inside.shape != y.shape or not inside.any():
        raise ValueError(f"Got {x.shape}, {y.shape} and a brain of {inside.shape}, expected one shape and some brain.")
    limit = 0.5 * float(np.median(y[inside]))
    amounts = [fluid_ml(image, inside, limit, spacing_mm) for image in (x, y)]
    return abs(amounts[0] - amounts[1])


def fluid_ml(image: ArrayLike, inside: ArrayLike, limit: float, spacing_mm: Sequence[float]) -> float:
    """What of a brain is darker than a limit, in ml: of T1-weighted images, fluid."""
    values = np.asarray(image)[np.asarray(inside).astype(bool)]
    return int((values < limit).sum()) * float(np.prod(spacing_mm)) / 1000


METRICS = {
    "csf_volume_error": Metric(csf_volume_error, ("generated", "reference"), "task", "lower", "ml"),
    "dice": Metric(dice, ("labels", "reference_labels"), "task", "higher", ""),
}

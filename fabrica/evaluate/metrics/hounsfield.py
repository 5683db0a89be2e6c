"""CT: errors by tissue and in display windows. Tissue is told by the reference alone, never by what was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..result import Result
from .pairs import images

AIR_BELOW_HU, BONE_ABOVE_HU = -200.0, 250.0
LEAST_HU = -3100.0  # below air lies what scanners write beside the patient, and what resampling adds
WINDOWS_HU: Mapping[str, tuple[float, float]] = {
    "soft-tissue": (-160.0, 240.0),
    "lung": (-1350.0, 150.0),
    "bone": (-500.0, 1300.0),
}


UNITS: Mapping[str, str] = {
    **{f"mae of {tissue}": "HU" for tissue in ("air", "soft tissue", "bone")},
    **{f"psnr in the {name} window": "dB" for name in WINDOWS_HU},
}
BETTER: Mapping[str, str] = {name: "lower" if unit == "HU" else "higher" for name, unit in UNITS.items()}


def tissue_errors(
    generated: ArrayLike, reference: ArrayLike, *, mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None, air_below: float = AIR_BELOW_HU, bone_above: float = BONE_ABOVE_HU,
) -> Result:  # fmt: skip
    """Mean absolute error, HU, of all voxels inside the mask; details: `air`, `soft tissue` and `bone` of the
    reference.

    Each has `mae`, `me` (mean error, signed) and `voxels`, and is left out where the reference has none. Air lies below
    `air_below` and bone at or above `bone_above`. Raises ValueError as `mae`, and for bounds that cross.
    """
    if not air_below < bone_above:
        raise ValueError(f"air_below is {air_below} and bone_above {bone_above}, expected the first below the second.")
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    region = np.ones(y.shape, bool) if inside is None else inside
    classes = {"air": y < air_below, "soft tissue": (y >= air_below) & (y < bone_above), "bone": y >= bone_above}
    found = {}
    for name, tissue in classes.items():
        errors = (x - y)[tissue & region]
        if errors.size:
            found[name] = {"mae": float(np.abs(errors).mean()), "me": float(errors.mean()), "voxels": errors.size}
    whole = (x - y)[region]
    details = {**found, "me": float(whole.mean())}
    convention = f"tissue by the reference: air below {air_below:g} HU, bone from {bone_above:g} HU"
    return Result(float(np.abs(whole).mean()), int(region.sum()), convention, details=details)


def window_psnr(
    generated: ArrayLike, reference: ArrayLike, *, window: tuple[float, float], mask: ArrayLike | None = None,
    spacing_mm: Sequence[float] | None = None,
) -> float:  # fmt: skip
    """PSNR of what a display window shows: both images cut to [low, high], whose width is the range; dB.

    A narrow window lowers it by ten and more dB: never compare values of two windows. Raises ValueError as `psnr`, and
    for a window that is not one.
    """
    low, high = window
    if not low < high:
        raise ValueError(f"window is {list(window)}, expected low below high, such as [-160, 240] HU.")
    x, y, inside = images(generated, reference, mask, "plain", ("plain",))
    errors = np.clip(x, low, high) - np.clip(y, low, high)
    error = float(((errors if inside is None else errors[inside]) ** 2).mean())
    return float("inf") if error == 0 else float(10 * np.log10((high - low) ** 2 / error))


def in_hounsfield(known: Mapping[str, Any]) -> bool:
    """Whether a pair says that it is in HU on both sides, or says nothing and its reference holds air at -1000 and more
    than water.
    """
    if "series" in known:
        return False
    if said := set(known["units"]) - {"", "a.u."}:
        return said == {"HU"} and known["units"][0] == known["units"][1]
    reference = known["reference"]
    return bool(LEAST_HU <= reference.min() <= -900 and reference.max() >= 100)


def rows_of(known: Mapping[str, object]) -> dict[str, tuple[float | str, str]]:
    """Name -> (value or why there is none, unit) of a pair whose reference is in HU: tissues and windows."""
    pair = [np.asarray(known[side], np.float64) for side in ("generated", "reference")]
    mask = known.get("mask")
    given = None if mask is None else np.asarray(mask)
    try:
        tissues = tissue_errors(*pair, mask=given).details
    except ValueError as error:
        return {"mae of soft tissue": (f"not evaluated: {error}", "HU")}
    found: dict[str, tuple[float | str, str]] = {}
    for name in ("air", "soft tissue", "bone"):
        own = tissues.get(name)
        found[f"mae of {name}"] = (own["mae"], "HU") if own else (f"not evaluated: needs voxels of {name}", "HU")
    for name, window in WINDOWS_HU.items():
        value = window_psnr(*pair, window=window, mask=given)
        shown = "infinite: the images are equal in this window" if np.isinf(value) else value
        found[f"psnr in the {name} window"] = (shown, "dB")
    return found

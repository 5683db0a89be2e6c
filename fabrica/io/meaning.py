"""What the stored numbers of a DICOM image mean: unit, padding, how a screen shows them. Stated meaning wins over
defaults.

Modality transform: PS3.3 C.11.1. Real-world values: C.7.6.16.2.11. PET units: C.8.9.1. Padding: C.7.5.1.1.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

PET_UNITS = {"BQML": "Bq/ml", "GML": "SUV"}  # GML: g/ml, the standardised uptake value by body weight
RESCALE_TYPES = {"HU": "HU", "MGML": "mg/ml", "PCT": "%", "OD": "OD"}  # C.11.1.1.2; others are no unit known here
CODES = {  # UCUM and DCM codes of real-world value maps -> unit and the factor into it
    "[hnsf'U]": ("HU", 1.0),
    "Bq/ml": ("Bq/ml", 1.0),
    "kBq/ml": ("Bq/ml", 1000.0),
    "g/ml{SUVbw}": ("SUV", 1.0),
    "{SUVbw}g/ml": ("SUV", 1.0),
    "g/ml": ("SUV", 1.0),
    "Gy": ("Gy", 1.0),
    "cGy": ("Gy", 0.01),
    "mm": ("mm", 1.0),
    "ms": ("ms", 1.0),
    "s": ("ms", 1000.0),
}
# Pictures for a screen: what MONOCHROME1 turns round.
SCREEN = ("CR", "DX", "MG", "RG", "RF", "XA", "IO", "PX", "OT", "SC", "XC", "GM")

RealWorldMap = tuple[float, float, str]  # slope, intercept, unit


def unit_of(header: Any) -> tuple[str, str]:
    """(unit, the element that says so); a.u. where nothing does."""
    if (mapped := real_world(header)) is not None:
        return mapped[2], "real-world value map"
    modality = str(header.get("Modality") or "")
    if modality == "PT":
        stated = str(header.get("Units") or "")
        kind = str(header.get("SUVType") or "BW")
        known = PET_UNITS.get(stated, "a.u.")
        unit = known if known != "SUV" or kind == "BW" else "a.u."
        return unit, f"Units {stated}" if stated else "Units, which is missing"
    kind = str(header.get("RescaleType") or "")
    if kind:
        return RESCALE_TYPES.get(kind, "a.u."), f"RescaleType {kind}"
    if modality == "CT":
        whole = header.get("RescaleSlope") is not None and header.get("RescaleIntercept") is not None
        if "PerFrameFunctionalGroupsSequence" in header:
            return _of_enhanced_ct(header)
        return ("HU", "Modality CT") if whole else ("a.u.", "CT without a rescale")
    return "a.u.", "nothing"


def _of_enhanced_ct(header: Any) -> tuple[str, str]:
    """By the rescale type of its frames (C.7.6.16.2.9), which they all have."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    own = (header.get("PerFrameFunctionalGroupsSequence") or [{}])[0]
    stated = own.get("PixelValueTransformationSequence") or shared.get("PixelValueTransformationSequence")
    if not stated:
        return "a.u.", "CT without a rescale"
    kind = str(stated[0].get("RescaleType") or "HU")
    return RESCALE_TYPES.get(kind, "a.u."), f"RescaleType {kind}"


def real_world(header: Any) -> RealWorldMap | None:
    """(slope, intercept, unit) of the one linear map of stored to real-world values; None where there is none, or
    several.
    """
    items = _maps(header)
    if len(items) != 1:
        return None
    return _linear(items[0], str(header.get("Modality") or ""))


def of_frame(group: Any, shared: Any, modality: str) -> RealWorldMap | None:
    """The same for one frame of an enhanced image."""
    for place in (group, shared):
        items = list(place.get("RealWorldValueMappingSequence") or []) if place else []
        if len(items) == 1:
            return _linear(items[0], modality)
    return None


def _maps(header: Any) -> Sequence[Any]:
    own = list(header.get("RealWorldValueMappingSequence") or [])
    if own or "SharedFunctionalGroupsSequence" not in header:
        return own
    shared = header.SharedFunctionalGroupsSequence[0] if header.SharedFunctionalGroupsSequence else {}
    first = (header.get("PerFrameFunctionalGroupsSequence") or [{}])[0]
    return list(shared.get("RealWorldValueMappingSequence") or first.get("RealWorldValueMappingSequence") or [])


def _linear(item: Any, modality: str) -> RealWorldMap | None:
    slope, intercept = item.get("RealWorldValueSlope"), item.get("RealWorldValueIntercept")
    codes = item.get("MeasurementUnitsCodeSequence") or []
    if slope is None or intercept is None or not codes:
        return None
    unit, factor = CODES.get(str(codes[0].get("CodeValue") or ""), ("a.u.", 1.0))
    if unit == "a.u." or (unit == "SUV" and modality != "PT"):  # g/ml of a CT is a density
        return None
    return factor * float(slope), factor * float(intercept), unit


def padded(header: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Where the stored numbers say that nothing was measured; None where nothing says so.

    The value is of the pixels' own sign, whatever its element's: 63536 in an unsigned one is -2000 where pixels are
    signed.
    """
    if isinstance(first := header.get("FloatPixelPaddingValue"), float):
        nothing: NDArray[np.bool_] = stored == np.float32(first)
        return nothing if nothing.any() and not nothing.all() else None
    first = header.get("PixelPaddingValue")
    if not isinstance(first, int) or not str(header.get("PhotometricInterpretation", "")).startswith("MONO"):
        return None
    last = header.get("PixelPaddingRangeLimit")
    ends = [_signed_as(header, first), _signed_as(header, last) if isinstance(last, int) else _signed_as(header, first)]
    outside: NDArray[np.bool_] = (stored >= min(ends)) & (stored <= max(ends))
    return outside if outside.any() and not outside.all() else None


def _signed_as(header: Any, value: int) -> int:
    bits = int(header.get("BitsAllocated") or 16)
    if header.get("PixelRepresentation") == 1:
        return value - (1 << bits) if value >= 1 << (bits - 1) else value
    return value + (1 << bits) if value < 0 else value


def turned(header: Any, stored: NDArray[Any]) -> NDArray[Any]:
    """Stored numbers of MONOCHROME1 turned round within all that its bits can hold, so that slices stay comparable.

    Only of pictures for a screen: HU, counts and signals stay what they are (C.7.6.3.1.2).
    """
    shown = str(header.get("Modality") or "") in SCREEN and unit_of(header)[0] == "a.u."
    if header.get("PhotometricInterpretation") != "MONOCHROME1" or not shown:
        return stored
    bits = int(header.get("BitsStored") or header.get("BitsAllocated") or 16)
    low, high = (
        (-(1 << bits - 1), (1 << bits - 1) - 1) if header.get("PixelRepresentation") == 1 else (0, (1 << bits) - 1)
    )
    return (low + high) - stored.astype(np.int64)

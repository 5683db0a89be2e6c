"""In which unit an image is, and who says so: somebody, its header, its sidecar, its name, its values; in this
order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..contracts import ARBITRARY, SCALES, Image
from ..io import VOLUMES, Scan, UnreadableError, stem
from . import vocabulary

STATED = (*SCALES, "a.u.", "mg/ml", "%")  # what a table or --unit may say
_SIDECAR = {  # BIDS "Units", lower case -> unit
    "hu": "HU",
    "hounsfield": "HU",
    "suv": "SUV",
    "suvbw": "SUV",
    "g/ml": "SUV",
    "bq/ml": "Bq/ml",
    "gy": "Gy",
    "ms": "ms",
    "mm": "mm",
}
NO_AIR = -200.0  # HU: a CT that shows nothing below is none, or is cropped inside an organ
MOST_GY = 200.0  # no plan reaches it: such a dose is in cGy


def check_unit(name: str, unit: str) -> str:
    """The unit as it stands; raises ValueError for one that is not known."""
    known = {u.lower(): u for u in STATED}
    if unit.lower() not in known:
        raise ValueError(f"{unit!r} is no unit that is known here. Known: {', '.join(STATED)}. Write: --unit {name}=HU")
    return known[unit.lower()]


def with_unit(scan: Scan, contrast: str, said: Mapping[str, str] | None = None) -> Scan:
    """The scan with its unit and where that comes from; `said`: contrast -> unit by somebody who knows."""
    if scan.kind == "label":
        return replace(scan, unit="")
    if said and contrast in said:
        if scan.format == "dicom" and scan.unit not in (*ARBITRARY, said[contrast]):
            raise ValueError(
                f"{scan.name} states {scan.unit}, and --unit says {contrast}={said[contrast]}. Leave --unit out, or"
                " convert it."
            )
        return replace(scan, unit=said[contrast], unit_from="said")
    if scan.unit_from == "table" or scan.format == "dicom" or scan.unit != "a.u.":
        return replace(scan, unit_from=scan.unit_from or "header")
    if scan.format in VOLUMES and (unit := _by_sidecar(scan.files[0])):
        return replace(scan, unit=unit, unit_from="sidecar")
    words = vocabulary.tokens(scan.files[0].name)
    if contrast == "PET":
        return (
            replace(scan, unit="SUV", unit_from="name")
            if "suv" in words
            else replace(scan, unit="SUV?", unit_from="nothing")
        )
    if contrast in vocabulary.UNITS and scan.format != "raster":
        return replace(scan, unit=vocabulary.UNITS[contrast], unit_from="name")
    return scan


def _by_sidecar(path: Path) -> str:
    """What a JSON file of the same name says; '' where there is none or it says nothing."""
    try:
        plain = json.loads((path.parent / f"{stem(path.name)}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    stated = plain.get("Units") if isinstance(plain, dict) else None
    return _SIDECAR.get(str(stated).strip().lower(), "a.u.") if stated else ""


def check_by_values(image: Image, scan: Scan) -> None:
    """Raises UnreadableError where a unit that only a name gives cannot be that of the values."""
    if scan.unit_from != "name" or image.meaning.unit in ARBITRARY or image.meaning.kind == "label":
        return
    low, high = float(image.data.min()), float(image.data.max())
    name = image.meaning.name
    if image.meaning.unit == "HU" and low >= NO_AIR:
        raise UnreadableError(
            f"is called CT, but no value is as dark as air (they reach from {low:.4g} to {high:.4g}): these may be"
            " no HU.",
            f"Convert it (HU + 1024 is common), or say that they are: --unit {name}=HU",
            str(scan.files[0]),
        )
    if image.meaning.unit == "Gy" and high > MOST_GY:
        raise UnreadableError(
            f"is called a dose and reaches {high:.0f}: that is no Gy.",
            f"Divide cGy by 100, or say that it is: --unit {name}=Gy", str(scan.files[0]),
        )  # fmt: skip


def supported_by(image: Image, scan: Scan) -> str:
    """How well values and unit go together, in words: for `inspect`; '' where there is nothing to add."""
    values = image.data
    low, high = (
        float(values.min()),
        float(torch.quantile(values.flatten()[:: max(1, values.numel() // 100_000)], 0.999)),
    )
    if scan.unit_from == "name" and image.meaning.unit == "HU":
        return f"values {low:.0f} to {high:.0f}" + ("" if low < NO_AIR else " show no air")
    if image.meaning.unit == "SUV?":
        return f"values {low:.3g} to {high:.3g}" + (" are too large for SUV" if high > 200 else "")
    return ""

"""Drawn dose as an RT Dose object without a plan (PS3.3 A.18, C.8.8.3): no machine was told to give it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import check_plane, place_plane, written
from .marking import FIRST_NUMBER, Making, Series, file_meta, reference
from .planes import directions
from .therapy import begun

RT_DOSE = "1.2.840.10008.5.1.4.1.1.481.2"  # SOP class
NUMBER = FIRST_NUMBER + 700
OBLIQUE = 1e-3  # mm: how far planes may lie from the line at right angles to the first


def planned_dose(making: Making, dose: NDArray[np.float32], affine: NDArray[np.float64], *, number: int = 0) -> Series:
    """Gy (z, y, x) as one multi-frame object, 16 bits of the largest value: off by less than 1e-5 of it.

    DoseSummationType is PLAN_OVERVIEW: with PLAN a referenced plan would be needed, and there is none. The IOD has no
    place for a derivation in words: the comment and the equipment say it is drawn.
    Negative values are 0 and counted. Raises ValueError for a dose that is not finite, and for planes that are tilted,
    which the offsets cannot say.
    """
    case = making.drawn.case
    if not np.isfinite(dose).all():
        raise ValueError(f"{case}: the dose holds values that are not finite: it is not delivered.")
    check_plane(affine, case)
    offsets = _offsets(affine, len(dose), case)
    top = float(dose.max())
    scaling = written(top / 65535 if top > 0 else 1.0)
    whole = np.rint(dose.astype(np.float64) / scaling)
    pixels = np.clip(whole, 0, 65535).astype("<u2")
    known = {
        **making.known(), "dose": hashlib.sha256(pixels.tobytes()).hexdigest(), "scaling": scaling,
        "affine": np.round(affine, 5).tolist(),
    }  # fmt: skip
    ds = begun(making, known, (RT_DOSE, "RTDOSE"), NUMBER + number, making.drawn.contrast)
    place_plane(ds, affine, 0)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.Rows, ds.Columns = pixels.shape[1:]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    if len(pixels) > 1:
        ds.NumberOfFrames, ds.FrameIncrementPointer, ds.GridFrameOffsetVector = len(pixels), 0x3004000C, offsets
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN_OVERVIEW"
    ds.DoseComment = f"AI PREDICTED, not for treatment; weights {making.record.weights[:16]}"[:64]
    ds.DoseGridScaling, ds.PlanOverviewSequence = _text(scaling), [_overview()]
    ds.ReferencedInstanceSequence = [reference(h) for h in making.headers]
    ds.add_new("PixelData", "OW", pixels.tobytes())
    ds.file_meta = file_meta(ds)
    return Series(ds.SeriesInstanceUID, (ds,), int((whole < 0).sum()))


def _overview() -> Any:
    """Of a plan that nobody made: no site, no prescription."""
    from pydicom.dataset import Dataset

    ds = Dataset()
    ds.PlanOverviewIndex, ds.RTPlanLabel, ds.TreatmentSite = 1, "", ""
    ds.PrescriptionOverviewSequence, ds.TreatmentSiteCodeSequence = [], []
    return ds


def _text(value: float) -> str:
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(value)


def _offsets(affine: NDArray[np.float64], count: int, case: str) -> list[str]:
    """mm from the first plane along its normal; raises ValueError where planes are moved sideways."""
    _, row, column = directions(affine)
    normal = np.cross(row, column)
    along = float(normal @ affine[:3, 0])
    if np.linalg.norm(affine[:3, 0] - along * normal) * max(count - 1, 1) > OBLIQUE:
        raise ValueError(f"{case}: its planes are tilted, which the frames of an RT Dose cannot say.")
    return [_text(z * along) for z in range(count)]

"""Drawn label maps as Segmentation objects, a segment for each class that is no background (PS3.3 A.51)."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import check_plane, frame_of
from .marking import FIRST_NUMBER, MARK, Making, Series, library, named, settled, uid_of
from .planes import planes_of
from .source import one_study

ANATOMY, TISSUE = ("91723000", "SCT", "Anatomical Structure"), ("85756007", "SCT", "Tissue")
ABNORMAL, LESION = ("49755003", "SCT", "Morphologically Abnormal Structure"), ("52988006", "SCT", "Lesion")
MEANINGS = {  # contrast -> (category, type); others are anatomy of a kind that nobody said
    "lesion": (ABNORMAL, LESION), "change": (ABNORMAL, LESION),
    "brain_mask": (ANATOMY, ("12738006", "SCT", "Brain")), "tissue": (ANATOMY, TISSUE),
}  # fmt: skip
NUMBER = FIRST_NUMBER + 800


def segmentation(
    making: Making, labels: NDArray[Any], affine: NDArray[np.float64], *, classes: int, number: int = 0
) -> Series:
    """Classes (z, y, x), 0 is background, on their own grid beside the source; a segment that is empty is written too:
    that a class was looked for and not found is an answer.

    Raises ValueError for sources of several patients, planes that DICOM cannot hold, classes that are no whole numbers
    up to `classes`, and where highdicom is not installed.
    """
    check_plane(affine, making.drawn.case)
    whole = np.rint(labels)
    if not (np.abs(whole - labels) <= 1e-3).all() or whole.min() < 0 or whole.max() >= classes:
        raise ValueError(f"{making.drawn.case}: its label map holds values that are no class below {classes}.")
    hd, source = library(), _one_series(making)
    pixels = np.stack([whole == k for k in range(1, classes)], -1).astype(np.uint8)
    known = {
        **making.known(), "segments": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "affine": np.round(affine, 5).tolist(),
    }  # fmt: skip
    ds = hd.seg.Segmentation(
        source_images=source, pixel_array=pixels, segmentation_type="BINARY", omit_empty_frames=False,
        segment_descriptions=[_described(hd, making, k) for k in range(1, classes)], content_label="DRAWN",
        content_description=making.told()[:64], **planes_of(hd, affine, len(pixels)),
        **named(making, known, NUMBER + number),
    )  # fmt: skip
    ds.SeriesDescription = f"{MARK} {making.drawn.contrast} from {making.given}"[:64]
    ds.FrameOfReferenceUID = frame_of(making.template)
    return Series(uid_of(known), (settled(ds, making, known),))


def _described(hd: Any, making: Making, segment: int) -> Any:
    category, kind = (hd.sr.CodedConcept(*c) for c in MEANINGS.get(making.drawn.contrast, (ANATOMY, TISSUE)))
    return hd.seg.SegmentDescription(
        segment_number=segment, segment_label=f"{making.drawn.contrast} {segment}"[:64],
        segmented_property_category=category, segmented_property_type=kind, algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=f"Fabrica {making.record.job}"[:64], version=making.record.version[:64],
            family=hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"),
            parameters={"weights": making.record.weights, "seed": str(making.record.seed)},
        ),
    )  # fmt: skip


def _one_series(making: Making) -> list[Any]:
    """Of the files that it was drawn from, those of the series with the most: references are within one."""
    by_series = defaultdict(list)
    for header in making.headers:
        by_series[str(header.get("SeriesInstanceUID", ""))].append(header)
    one_study(making.headers, making.drawn.case)
    return max(by_series.values(), key=len)

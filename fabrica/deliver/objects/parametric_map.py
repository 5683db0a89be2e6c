"""How far draws lie apart, voxel by voxel, as a Parametric Map beside their mean (PS3.3 A.75)."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .marking import FIRST_NUMBER, MARK, Making, Series, library, named, settled, uid_of

UCUM = {"HU": ("[hnsf'U]", "Hounsfield unit"), "SUV": ("g/ml{SUVbw}", "Standardized Uptake Value body weight"),
        "Bq/ml": ("Bq/ml", "Becquerels/milliliter"), "Gy": ("Gy", "Gray")}  # fmt: skip
NUMBER = FIRST_NUMBER + 900  # of the series: behind those of the draws


def spread_map(making: Making, spread: NDArray[np.float32], mean: Series) -> Series:
    """The standard deviation (z, y, x) of draws, float32, on the planes of the series of their mean and in its numbers:
    those of an MR series are a multiple of what was drawn, and so is its map.

    Raises ValueError for values that are not finite, and where highdicom is not installed.
    """
    if not np.isfinite(spread).all():
        raise ValueError("The spread of the draws is not finite: it is not delivered.")
    hd, spread = library(), (spread * mean.factor).astype(np.float32)
    known = {**making.known(), "map of": mean.uid, "pixels": hashlib.sha256(spread.tobytes()).hexdigest()}
    value, meaning = UCUM.get(making.drawn.unit, ("{a.u.}", "arbitrary unit"))
    top = max(float(spread.max()), 1e-6)
    scale = hd.pm.RealWorldValueMapping(
        lut_label="SPREAD", lut_explanation=f"Standard deviation of {len(making.drawn.files)} draws",
        unit=hd.sr.CodedConcept(value, "UCUM", meaning), value_range=(0.0, top), slope=1.0, intercept=0.0,
        quantity_definition=hd.sr.CodedConcept("113061", "DCM", "Standard Deviation"),
    )  # fmt: skip
    ds = hd.pm.ParametricMap(
        source_images=list(mean.datasets), pixel_array=spread,
        contains_recognizable_visual_features=recognizable(making.template), real_world_value_mappings=[scale],
        voi_lut_transformations=[hd.VOILUTTransformation(window_center=top / 2, window_width=top)],
        content_label="SPREAD", content_description=f"{MARK} spread of draws of {making.drawn.contrast}"[:64],
        content_qualification="RESEARCH", **named(making, known, NUMBER),
    )  # fmt: skip
    ds.SeriesDescription = f"{MARK} spread of {making.drawn.contrast} from {making.given}"[:64]
    return Series(uid_of(known), (settled(ds, making, known),))


def recognizable(template: Any) -> bool:
    """Whether a face may be seen: as the source says, and yes where it does not."""
    return str(template.get("RecognizableVisualFeatures", "YES")) != "NO"

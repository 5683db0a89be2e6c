"""How far draws lie apart, and what no datum fixes of them, voxel by voxel: Parametric Maps beside their mean (PS3.3
A.75).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .marking import FIRST_NUMBER, MARK, SCHEME, Making, Series, library, named, own_scheme, settled, uid_of

UCUM = {"HU": ("[hnsf'U]", "Hounsfield unit"), "SUV": ("g/ml{SUVbw}", "Standardized Uptake Value body weight"),
        "Bq/ml": ("Bq/ml", "Becquerels/milliliter"), "Gy": ("Gy", "Gray")}  # fmt: skip
SPREAD, PRIOR = (
    "SPREAD",
    "PRIOR",
)  # labels of maps, which stand in their objects; series stand behind those of the draws


@dataclass(frozen=True)
class _Said:
    """How a map is told of: its label, what it is of, in words, its quantity, and where its series stands."""

    label: str
    words: str
    explained: str
    quantity: tuple[str, str, str]
    number: int


def spread_map(making: Making, spread: NDArray[np.float32], mean: Series) -> Series:
    """The standard deviation (z, y, x) of draws, float32, on the planes of the series of their mean and in its numbers:
    those of an MR series are a multiple of what was drawn, and so is its map.

    Raises ValueError for values that are not finite, and where highdicom is not installed.
    """
    explained = f"Standard deviation of {len(making.drawn.files)} draws"
    deviation = ("113061", "DCM", "Standard Deviation")
    return _map(making, spread, mean, _Said(SPREAD, "spread", explained, deviation, FIRST_NUMBER + 900))


def prior_map(making: Making, decided: NDArray[np.float32], mean: Series) -> Series:
    """What of the mean of draws no datum fixes (z, y, x), float32, signed, as `spread_map` on its planes and in its
    numbers: a detail that stands in it was added by the model, and was not measured. Raises ValueError as it does.
    """
    explained = "What of the image no measured datum fixes"
    quantity = ("decided-by-prior", SCHEME[0], "Decided by the prior, not by data")
    return _map(making, decided, mean, _Said(PRIOR, "prior's part", explained, quantity, FIRST_NUMBER + 901))


def _map(making: Making, values: NDArray[np.float32], mean: Series, said: _Said) -> Series:
    if not np.isfinite(values).all():
        raise ValueError(f"The {said.words} of the draws is not finite: it is not delivered.")
    hd, values = library(), (values * mean.factor).astype(np.float32)
    known = {**making.known(), "map of": mean.uid, "pixels": hashlib.sha256(values.tobytes()).hexdigest()}
    value, meaning = UCUM.get(making.drawn.unit, ("{a.u.}", "arbitrary unit"))
    low, top = min(float(values.min()), 0.0), max(float(values.max()), 1e-6)
    scale = hd.pm.RealWorldValueMapping(
        lut_label=said.label, lut_explanation=said.explained,
        unit=hd.sr.CodedConcept(value, "UCUM", meaning), value_range=(low, top), slope=1.0, intercept=0.0,
        quantity_definition=hd.sr.CodedConcept(*said.quantity),
    )  # fmt: skip
    window = hd.VOILUTTransformation(window_center=(low + top) / 2, window_width=top - low)
    ds = hd.pm.ParametricMap(
        source_images=list(mean.datasets), pixel_array=values,
        contains_recognizable_visual_features=recognizable(making.template), real_world_value_mappings=[scale],
        voi_lut_transformations=[window],
        content_label=said.label, content_description=f"{MARK} {said.words} of draws of {making.drawn.contrast}"[:64],
        content_qualification="RESEARCH", **named(making, known, said.number),
    )  # fmt: skip
    ds.SeriesDescription = f"{MARK} {said.words} of {making.drawn.contrast} from {making.given}"[:64]
    if said.quantity[1] == SCHEME[0]:
        ds.CodingSchemeIdentificationSequence = [own_scheme()]
    return Series(uid_of(known), (settled(ds, making, known),))


def recognizable(template: Any) -> bool:
    """Whether a face may be seen: as the source says, and yes where it does not."""
    return str(template.get("RecognizableVisualFeatures", "YES")) != "NO"

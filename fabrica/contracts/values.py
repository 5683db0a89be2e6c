"""What is passed along: fields, images, cases, batches. Shapes: B rows, C channels, *axes a grid (t z y x)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .measured import Measured, Measurement

Kind = Literal[
    "intensity", "complex", "label", "displacement", "coordinates", "number", "class", "token", "embedding", "event"
]


# what a job answers with: features have no truth, a twin is what is given as it would be if it were healthy
Answer = Literal["image", "film", "value", "course", "twin", "change", "features", "parts"]
VALUES = ("number", "class", "embedding", "token", "event")  # kinds that are no images


@dataclass(frozen=True, slots=True)
class Scale:
    """How a field's numbers relate to the network's: network = (value - offset) / width."""

    offset: float = 0.0
    width: float = 1.0


SCALES: Mapping[str, Scale] = {  # one stated constant a unit, so that a level is something a model can get wrong
    "HU": Scale(-1024.0, 1024.0),  # air is 0, water is 1
    "grey": Scale(0.0, 255.0),  # what a screen shows
    "SUV": Scale(0.0, 10.0),
    "Bq/ml": Scale(0.0, 50_000.0),  # some 10 SUV of 370 MBq in 70 kg
    "Gy": Scale(0.0, 70.0),
    "mm": Scale(0.0, 10.0),
    "ms": Scale(0.0, 1000.0),
}
ARBITRARY = ("a.u.", "", "SUV?")  # units whose numbers mean nothing between patients, or of which it is not known


@dataclass(frozen=True, slots=True)
class Field:
    """What a group of channels of x, or a condition, means."""

    name: str  # "T1w", "lesion", "age"
    kind: Kind = "intensity"
    channels: int = 1  # number of classes for "class", "label", "token"; width for "embedding"; intervals for "event"
    unit: str = "a.u."  # "HU", "SUV", "Gy", "mm", "year", "grey" (0 to 255); "a.u." = arbitrary, as in most MR
    classes: tuple[str, ...] = ()  # of a class, as tables write them
    frames: int = 1  # of its channels: moments of one image, where it is a film
    moments: tuple[int, ...] = ()  # which frames of a longer film they are; none = all of it
    length: int = 1  # of a text: how many subwords it has at most ("token", whose channels are its vocabulary)
    stated: Scale | None = None  # of a number, where the recipe says it

    @property
    def scale(self) -> Scale | None:
        """Fixed by recipe or unit; None = fitted on the training cohort. Never taken from the case asked about."""
        return self.stated or SCALES.get(self.unit)

    def encoded(self, value: float | str) -> float:
        """A case's value of this field: the index of its class, or its number in its unit."""
        return float(self.classes.index(class_name(value))) if self.classes else float(value)

    def in_unit(self, answer: NDArray[np.float64]) -> NDArray[np.float64]:
        """Answers leave the network's scale; chances of classes stay."""
        return answer if self.stated is None else answer * self.stated.width + self.stated.offset

    def says(self, value: object) -> bool:
        """Whether a value is one of its classes, or a number where it has none."""
        if self.classes:
            return isinstance(value, str | float | int) and class_name(value) in self.classes
        return isinstance(value, int | float)


POSITION = Field("position", "number", 1, "")  # of a slice between feet (-1) and head (1): of no value of a case
PLACE = Field("place", "coordinates", 3, "")  # of voxels in the whole patient, so that patches know theirs


def class_name(value: float | str) -> str:
    """A class as its recipe writes it: tables hold 1, which reads as 1.0."""
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a job asks for, known before any data: enough to build a network and to refuse a recipe."""

    x: tuple[Field, ...]
    axes: str  # "yx", "zyx", "tyx", "tzyx"; "" for numbers
    condition: tuple[Field, ...] = ()
    measurements: Mapping[str, Measured] = field(default_factory=dict)  # the kinds of physics it comes with, by name
    given_axes: str = ""  # of conditions on a grid where x has none: images -> numbers
    beside: tuple[Field, ...] = ()  # parts of x on no grid, drawn before its images: words, classes, numbers

    @property
    def channels(self) -> int:
        """Channels of x, all fields together."""
        return sum(f.channels for f in self.x)

    @property
    def grid_axes(self) -> str:
        """Axes of the images of a job: those it asks for, else those it is given."""
        return self.axes or self.given_axes

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the images that the condition is made of, as the cohort knows them."""
        return tuple(f.name for f in self.condition if f.kind in ("intensity", "complex", "label"))

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the images that are asked for; none where x is a value of the case."""
        return tuple(f.name for f in self.x if f.kind not in VALUES)

    @property
    def values(self) -> tuple[Field, ...]:
        """Values of the case that the condition is made of: classes, numbers, words."""
        return tuple(f for f in self.condition if f.kind in VALUES and f != POSITION)

    @property
    def labels(self) -> dict[str, int]:
        """Name of each label map, given or asked for -> number of its classes."""
        return {f.name: f.channels for f in (*self.condition, *self.x) if f.kind == "label"}


@dataclass(frozen=True, slots=True)
class Image:
    """Pixels that know where they are in the patient and what they mean."""

    data: Tensor  # (C, *axes)
    axes: str  # as in Signature
    affine: Tensor  # (4, 4) float64, index (z, y, x, 1) -> LPS millimetres; a 2D image has z = 0
    meaning: Field
    times: Tensor | None = None  # (t,) seconds after the first frame
    frame_of_reference: str | None = None
    source: str | None = None  # what it derives from
    calibrated: bool = True  # False: the file states no pixel size, the affine only counts pixels

    def __post_init__(self) -> None:
        if self.axes not in ("yx", "zyx", "tyx", "tzyx"):
            raise ValueError(f"Image axes are {self.axes!r}, expected yx, zyx, tyx or tzyx.")
        if self.data.ndim != len(self.axes) + 1:
            raise ValueError(f"Image data has shape {tuple(self.data.shape)}, expected (C, {', '.join(self.axes)}).")
        if (a := self.affine).shape != (4, 4) or not a.isfinite().all() or a[:3, :3].double().det().abs() < 1e-9:
            raise ValueError(f"Image affine is {a.tolist()}, expected an invertible (4, 4) matrix.")

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along z, y and x."""
        z, y, x = self.affine[:3, :3].double().norm(dim=0).tolist()
        return z, y, x


@dataclass(frozen=True, slots=True)
class Case:
    """One patient at one visit: what a cohort holds; patients are what every interval is taken over."""

    patient: str
    images: Mapping[str, Image]
    values: Mapping[str, float | str] = field(default_factory=dict)  # "age", "report"; absent = unknown
    visit: str = ""
    days: float = 0.0  # since the patient's first visit
    site: str = ""
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # of one row each: k-space, sinogram, counts


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases of one grid size, stacked by name: what a loader yields and a job reads."""

    cases: tuple[str, ...]  # B names, printed when a row fails
    images: Mapping[str, Tensor]  # (B, C, *axes), scaled
    affine: Tensor  # (B, 4, 4)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)  # bool (B,); absent key = present
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # of B rows


@dataclass(frozen=True, slots=True)
class Trace:
    """What a Preparation did to one image: all that is needed to undo it."""

    like: Image  # the source without its pixels (zeros that take no memory): grid, meaning, origin
    grid: Tensor  # (4, 4) affine of the prepared grid
    scale: float  # prepared = (source - offset) / scale
    offset: float
    own: bool = False  # whether answers leave by this scale: what restores an image keeps its brightness

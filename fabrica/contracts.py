"""The nouns of Fabrica; imports nothing of ours but `rng`. Every job draws x from p(x | condition, y = A(x) + noise).

Shapes: B rows, C channels, *axes a grid in the order t z y x. x is always ONE tensor (B, C, *axes): its channels are
explained by `Field`s. Numbers (risk, ejection fraction) are x without axes, (B, C); text is tokens, (B, 1, length)."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from .rng import Rng

Kind = Literal["intensity", "complex", "label", "displacement", "coordinates", "number", "class", "token", "embedding"]


@dataclass(frozen=True, slots=True)
class Field:
    """What a group of channels of x, or a condition, means."""

    name: str  # "T1w", "lesion", "age"
    kind: Kind = "intensity"
    channels: int = 1  # number of classes for "class", "label", "token"; width for "embedding"
    unit: str = "a.u."  # "HU", "SUV", "Gy", "mm", "year", "grey" (0 to 255); "a.u." = arbitrary, as in most MR


@dataclass(frozen=True, slots=True)
class Signature:
    """What a job asks for, known before any data: enough to build a network and to refuse a recipe."""

    x: tuple[Field, ...]
    axes: str  # "yx", "zyx", "tyx", "tzyx"; "" for numbers
    condition: tuple[Field, ...] = ()
    measurements: tuple[tuple[type[Operator], type[Noise]], ...] = ()  # the kinds of physics it comes with
    given_axes: str = ""  # of conditions on a grid where x has none: images -> numbers

    @property
    def channels(self) -> int:
        """Channels of x, all fields together."""
        return sum(f.channels for f in self.x)


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


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases of one grid size, stacked by name: what a loader yields and a job reads."""

    cases: tuple[str, ...]  # B names, printed when a row fails
    images: Mapping[str, Tensor]  # (B, C, *axes), scaled
    affine: Tensor  # (B, 4, 4)
    values: Mapping[str, Tensor] = field(default_factory=dict)
    present: Mapping[str, Tensor] = field(default_factory=dict)  # bool (B,); absent key = present


@dataclass(frozen=True, slots=True)
class Trace:
    """What a Preparation did to one image: all that is needed to undo it."""

    like: Image  # the source without its pixels (zeros that take no memory): grid, meaning, origin
    grid: Tensor  # (4, 4) affine of the prepared grid
    scale: float  # prepared = (source - offset) / scale
    offset: float


class Preparation(ABC):
    """Resample, crop, pad, scale: an invertible value stored in the checkpoint."""

    @abstractmethod
    def forward(self, image: Image) -> tuple[Tensor, Trace]:
        """(C, *axes) on the prepared grid and scale, and what undoes it."""

    @abstractmethod
    def back(self, tensor: Tensor, trace: Trace) -> Image:
        """On the source's grid; in physical units where the field has them, else on the training cohort's scale."""


class Rowwise(nn.Module, ABC):
    """A module that says which of its buffers and parameters have one entry per row."""

    per_row: tuple[str, ...] = ()  # their first axis is B, or 1 when the rows share it

    def rows(self, index: Tensor) -> Self:
        """The same module for some rows; everything that is not per row is shared, not copied."""
        twin = copy.copy(self)
        for store in ("_buffers", "_parameters"):
            own = {n: t[index] if n in self.per_row and len(t) > 1 else t for n, t in getattr(self, store).items()}
            object.__setattr__(twin, store, own)
        parts = {name: m.rows(index) if isinstance(m, Rowwise) else m for name, m in self._modules.items()}
        object.__setattr__(twin, "_modules", parts)
        return twin


class Operator(Rowwise):
    """Forward physics y = A(x), called as operator(x); its unknowns (coils, motion) are its nn.Parameters."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor: ...


class Noise(Rowwise):
    """How y scatters around A(x): Gaussian, Rician, Poisson with a background, a categorical answer."""

    @abstractmethod
    def draw(self, mean: Tensor, rng: Rng) -> Tensor: ...

    @abstractmethod
    def nll(self, y: Tensor, mean: Tensor) -> Tensor:
        """-log p(y | mean) up to a constant, (B,)."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A value with the physics that made it."""

    value: Tensor  # (B, ...)
    operator: Operator
    noise: Noise

    def nll(self, x: Tensor) -> Tensor:
        """-log p(y | x), (B,); its gradient is the pull of the data."""
        return self.noise.nll(self.value, self.operator(x))

    def rows(self, index: Tensor) -> Measurement:
        return Measurement(self.value[index], self.operator.rows(index), self.noise.rows(index))


@dataclass(frozen=True, slots=True)
class Condition:
    """What is known about each row, and which of it is missing."""

    values: Mapping[str, Tensor] = field(default_factory=dict)  # (B, C, *axes), (B, K), (B,) or (B, length, width)
    present: Mapping[str, Tensor] = field(default_factory=dict)  # bool (B,) or (B, length); absent key = present

    def drop(self, *names: str) -> Condition:
        """Say of these, on every row, that they are not known (guidance, random subsets)."""
        gone = {n: torch.zeros(len(self.values[n]), dtype=torch.bool, device=self.values[n].device) for n in names}
        return replace(self, present={**self.present, **gone})

    def rows(self, index: Tensor) -> Condition:
        return Condition(*({n: t[index] for n, t in stored.items()} for stored in (self.values, self.present)))


@dataclass(frozen=True, slots=True)
class Problem:
    """One batch of p(x | condition, y = A(x) + noise), with what training may compare x with."""

    cases: tuple[str, ...]  # B names
    shape: tuple[int, ...]  # (C, *axes) of one answer
    condition: Condition = Condition()
    measurements: tuple[Measurement, ...] = ()
    target: Tensor | None = None  # (B, C, *axes)
    weight: Tensor | None = None  # broadcasts to target; 0 where the target is unknown
    paired: Tensor | None = None  # bool (B,): is the target of the same patient as the condition? None = yes
    held_out: Measurement | None = None  # what x is compared with where no target exists

    def rows(self, index: Tensor) -> Problem:
        """Some rows, in any order and number: (0, 0, 1, 1) asks for two draws of each of two."""
        some: dict[str, Any] = {n: getattr(self, n) for n in ("target", "weight", "paired")}
        optional: dict[str, Any] = {n: t if t is None else t[index] for n, t in some.items()}
        return replace(
            self,
            cases=tuple(self.cases[i] for i in index.tolist()),
            condition=self.condition.rows(index),
            measurements=tuple(m.rows(index) for m in self.measurements),
            held_out=self.held_out.rows(index) if self.held_out else None,
            **optional,
        )


class Job(ABC):
    """Turns a batch of cases into a Problem, on the device of the batch."""

    metrics: tuple[str, ...] = ()  # names from the table of metrics that its answers are measured by
    hidden: tuple[str, ...] = ()  # conditions that training hides together at times: guidance may leave them out

    @abstractmethod
    def signature(self) -> Signature: ...

    @abstractmethod
    def problem(self, batch: Batch, rng: Rng) -> Problem:
        """What training sees; its target is set where the batch holds it."""

    @abstractmethod
    def question(self, batch: Batch) -> Problem:
        """What drawing sees: nothing random, nothing of the answer."""


class Family(nn.Module, ABC):
    """A way to learn p(x | condition) and to draw from it; `learns` names the kinds of x that it can."""

    unpaired: bool = False  # learns from conditions and targets of different patients
    learns: tuple[str, ...] = ("intensity", "complex", "label", "displacement", "number", "class", "token")

    @abstractmethod
    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        """Parameters per optimiser, in the order of their steps; empty when there is nothing to train."""

    @abstractmethod
    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        """Named terms to minimise over that group, (B,) or, where rows mix, (); progress in [0, 1]."""

    @abstractmethod
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        """(B, C, *axes): one draw per row."""


class Denoiser(Family):
    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[clean | x = clean + sigma * N(0, 1)]; sigma (B,) in units of x."""


class Decoder(Family):
    codes: int  # channels of a latent
    factor: int  # voxels a side that one stands for

    @abstractmethod
    def decode(self, z: Tensor, condition: Condition) -> Tensor: ...


class Codec(Decoder):
    @abstractmethod
    def encode(self, x: Tensor) -> Tensor:
        """The mean latent in unit scale, or its tokens; the codec owns the scale."""


class Density(Family):
    @abstractmethod
    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        """(B,) in nats."""


class Reconstructor(Family):
    """A family whose draws use `problem.measurements`: unrolled networks, or a prior joined with a sampler."""


@dataclass(frozen=True, slots=True)
class Sampler:
    """A plain function (prior, problem, rng) -> x with what it requires; with an operator it is a restorer."""

    draw: Callable[..., Tensor]
    prior: Any  # subclass of Family: a capability, often abstract
    operator: type[Operator] | None = None  # None: it does not look at measurements
    noise: type[Noise] | None = None
    order: int = 1  # of convergence in the step size, proven in the tests; 0 for a stochastic sampler


@dataclass(frozen=True, slots=True)
class Metric:
    """One public function and the names of the evidence that it is called with (see `registry.measure`)."""

    function: Callable[..., Any]  # f(*inputs, *, keyword): keywords are evidence too
    inputs: tuple[str, ...]  # "generated", "reference", "features", "patients", "generate"
    tier: Literal["pixel", "feature", "task", "safeguard"]
    better: Literal["higher", "lower", "neither"]
    unit: str

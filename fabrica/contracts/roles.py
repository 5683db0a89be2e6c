"""Who does what: preparations, jobs, families, samplers, metrics, and the problem that they pass on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..rng import Rng
from .clinical import Course, Health
from .measured import Measurement, Noise, Operator
from .values import Answer, Batch, Case, Field, Image, Signature, Trace


class Preparation(ABC):
    """Resample, crop, pad, scale: an invertible value stored in the checkpoint."""

    @abstractmethod
    def forward(self, image: Image) -> tuple[Tensor, Trace]:
        """(C, *axes) on the prepared grid and scale, and what undoes it."""

    @abstractmethod
    def back(self, tensor: Tensor, trace: Trace) -> Image:
        """On the source's grid; in physical units where the field has them, else on the training cohort's scale."""


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
    measurements: Mapping[str, Measurement] = field(default_factory=dict)  # y with its physics, by name
    target: Tensor | None = None  # (B, C, *axes)
    weight: Tensor | None = None  # broadcasts to target; 0 where the target is unknown
    paired: Tensor | None = None  # bool (B,): is the target of the same patient as the condition? None = yes
    held_out: Measurement | None = None  # what x is compared with where no target exists
    beside: Mapping[str, Tensor] = field(default_factory=dict)  # targets on no grid: (B, length) words, else (B,)
    wanted: Mapping[str, Tensor] = field(default_factory=dict)  # bool (B,): rows in which they are asked for
    regions: Mapping[str, Tensor] = field(default_factory=dict)  # bool (B, 1, *axes): where its values are compared
    ground: Tensor | None = None  # (B, C, *axes): what x is added to, on its scale; None = nothing

    def rows(self, index: Tensor) -> Problem:
        """Some rows, in any order and number: (0, 0, 1, 1) asks for two draws of each of two."""
        some: dict[str, Any] = {n: getattr(self, n) for n in ("target", "weight", "paired", "ground")}
        optional: dict[str, Any] = {n: t if t is None else t[index] for n, t in some.items()}
        return replace(
            self,
            cases=tuple(self.cases[i] for i in index.tolist()),
            condition=self.condition.rows(index),
            measurements={name: m.rows(index) for name, m in self.measurements.items()},
            held_out=self.held_out.rows(index) if self.held_out else None,
            beside={name: t[index] for name, t in self.beside.items()},
            wanted={name: t[index] for name, t in self.wanted.items()},
            regions={name: t[index] for name, t in self.regions.items()},
            **optional,
        )


class Job(ABC):
    """Turns a batch of cases into a Problem, on the device of the batch, and declares what others need to know of it.

    What it is given and asked for, and which values of a case it knows, stands in its signature.
    """

    answer: Answer = "image"
    metrics: tuple[str, ...] = ()  # names from the table of metrics that its answers are measured by
    hidden: tuple[str, ...] = ()  # conditions that training hides together at times: guidance may leave them out
    simulates: tuple[str, ...] = ()  # images from which its question makes the y that they would have given
    restores: bool = False  # whether new images are what was measured of x, to be brought to the voxels it learned
    asked_frames: tuple[int, ...] = ()  # of a film: those that nothing gives
    reference: str = ""  # on whose grid and box cases are prepared; the first that is asked for where none is named
    judged_with: tuple[str, ...] = ()  # images that judging needs, where a case has them
    recorded: tuple[Field, ...] = ()  # values of a case that its answer is told from, where x is none of them
    weighed_by: tuple[str, ...] = ()  # label maps that training reads and no network is shown, where a case has them
    described: Mapping[str, str] = MappingProxyType({})  # text -> label map of the same grid that it is written from
    competitors: tuple[str, ...] = ("copied", "histogram", "mean", "crude")  # trivial answers that make sense for it
    names: tuple[str, ...] = ()  # of its parts, where any can be given and any asked for
    directions: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()  # names given and asked, where it has several
    regional: bool = False  # whether its problems name regions, in which losses may compare
    treated: str = ""  # a value: the share of the time ahead under treatment, where it is told of one
    standardises: tuple[str, str] | None = None  # the image given and the one asked, as one site makes it
    course: Course | None = None  # until an event, where x is one
    changes: Mapping[str, str] | None = None  # the value that is otherwise, where x is a counterfactual
    health: Health | None = None  # who is healthy, where x is a healthy twin of what is given
    moves: tuple[str, str] | None = None  # the fixed and the moving image, where x is the velocity between them

    @property
    def baseline(self) -> bool:
        """Whether a regression could answer: it has a truth, and images are given to start from."""
        return self.answer not in ("features", "parts") and bool(self.signature().given)

    @abstractmethod
    def signature(self) -> Signature: ...

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        """Cases (`data.cohort.Member`) as the job asks about them: with images that it computes, or of several visits.
        `new`: cases that are asked about for the first time, without what is asked for.
        """
        return tuple(members)

    def fitted(self, members: Sequence[Any], home: Path, seed: int, say: Callable[[str], None]) -> Job:
        """Itself with what it learns of the training patients before any network does, kept in `home` and found there.

        `members`: gathered cases of the training part; nobody where a trained stage is put to use.
        """
        return self

    def completed(self, members: Sequence[Any]) -> tuple[Any, ...]:
        """Gathered cases with the images that come from what `fitted` learned."""
        return tuple(members)

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        """Plain answers (B, C, *axes) that a model of this job has to beat, by name."""
        return {}

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        """Draws (B, C, *axes) without what an answer can never be."""
        return x

    def measured(
        self, images: Mapping[str, Image], grid: Tensor, shape: Sequence[int], preparation: Preparation
    ) -> Mapping[str, Measurement]:
        """What the images of a new case measured of x, for jobs whose y is an image: a row for each slice of the grid.
        grid (4, 4): index (z, y, x, 1) -> LPS mm of x. Nothing for other jobs.
        """
        return {}

    @abstractmethod
    def problem(self, batch: Batch, rng: Rng) -> Problem:
        """What training sees; its target is set where the batch holds it."""

    @abstractmethod
    def question(self, batch: Batch, rng: Rng) -> Problem:
        """What drawing sees: nothing of the answer but through A and its noise.

        The same rng gives the same y, whatever the batch.
        """


class Computation(ABC):
    """What is computed of a case by rules and learned from nobody: what moved, contours of the day, doses.

    `answer`: what its results are judged as. `exact`: of true inputs its result is the truth. `looks_back`: it is shown
    the days of the patient before the one that is asked about, too. `on_planning`: which results lie on the images of
    planning, and not of the day.
    """

    answer: Literal["motion", "contours", "dose"]
    exact: bool = False
    looks_back: bool = False
    on_planning: tuple[str, ...] = ()

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """Names of the images that it can use of a day."""

    @abstractmethod
    def makes(self) -> tuple[Field, ...]:
        """What it can make; of a case that lacks some of what it reads, perhaps less."""

    @abstractmethod
    def compute(self, days: Sequence[Case]) -> dict[str, Image]:
        """Of the last of these days, which holds what `reads` says; raises UnreadableError where it cannot."""

    def words(self) -> str:
        """What a reader of its results has to know."""
        return ""

    def measured(self, image: Image) -> Image:
        """An image of planning in the measure of its results."""
        return image


class Backbone(nn.Module, ABC):
    """A network that knows the noise level: what costs are counted in, and what grids must suit."""

    multiple: int = 1  # of which sides must be multiples


class Family(nn.Module, ABC):
    """A way to learn p(x | condition) and to draw from it; `learns` names the kinds of x that it can."""

    unpaired: bool = False  # learns from conditions and targets of different patients
    deterministic: bool = False  # its draws are all the same: one is enough
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

    @property
    def multiple(self) -> int:
        """What sides of a grid must be multiples of: the most that any network in it asks for."""
        return max([1, *(m.multiple for m in self.modules() if isinstance(m, Backbone))])

    def with_steps(self, count: int) -> Family | None:
        """Itself told to draw in about `count` evaluations of its network; None when it cannot be told."""
        return None


class Denoiser(Family):
    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """E[clean | x = clean + sigma * N(0, 1)]; sigma (B,) in units of x."""


class Speaker(Family):
    """A family that learns parts of x on no grid, too: signatures with `beside` are refused to others."""

    @abstractmethod
    def tell(self, problem: Problem, names: Sequence[str], rng: Rng) -> Mapping[str, Tensor]:
        """One draw of these parts, by name, each knowing those before it; what a row's condition has stays as it is."""

    @abstractmethod
    def expected(self, problem: Problem, name: str, rng: Rng) -> Tensor:
        """Before anything is drawn: chances (B, K) of a class, or the mean (B,) of a number on the network's scale."""


class Decoder(Family):
    codes: int  # channels of a latent
    factor: int  # voxels a side that one stands for

    @abstractmethod
    def decode(self, z: Tensor, condition: Condition) -> Tensor: ...


class Codec(Decoder):
    @property
    def multiple(self) -> int:
        return max(self.factor, super().multiple)

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
    needs_gradient: bool = False  # of the network's answer with respect to x: drawing opens one for it
    deterministic: bool = False  # its draws are all the same: one is enough


@dataclass(frozen=True, slots=True)
class Metric:
    """One public function and the names of the evidence that it is called with (see `registry.measure`)."""

    function: Callable[..., Any]  # f(*inputs, *, keyword): keywords are evidence too
    inputs: tuple[str, ...]  # "generated", "reference", "features", "patients", "generate"
    tier: Literal["pixel", "feature", "task", "safeguard"]
    better: Literal["higher", "lower", "neither"]
    unit: str

"""What a checked recipe holds, as values; how it is checked stands in `config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..computations import COMPUTATIONS
from ..contracts import Computation, Job, Reconstructor
from ..data.cohort import Cohort, find
from ..data.cone_beam import ConeBeam
from ..data.simulated_days import SimulatedDays
from ..data.simulated_events import SimulatedEvents
from ..data.simulated_plans import SimulatedPlans
from ..data.virtual import VirtualCohort, VirtualHearts
from ..evaluate.judging.dose_check import DoseCheck
from ..families import FAMILIES
from ..jobs import JOBS, job_options
from ..jobs.posed import Posed
from ..jobs.unpaired import Unpaired
from ..machine.stores import fetched
from ..networks.tiled import OVERLAP, Windows
from ..networks.unet import UNetShape
from ..registry import build, unknown
from .text import unfrozen


@dataclass(frozen=True)
class CohortPlan:
    """Where patients come from: a folder with an optional table, or a simulator."""

    path: Path | None = None
    table: Path | None = None
    virtual: VirtualCohort | VirtualHearts | None = None
    units: Mapping[str, str] = field(
        default_factory=dict
    )  # contrast -> unit, where somebody knows better than the files
    cone_beam: ConeBeam | None = None  # a machine that makes a CBCT of every CT
    plans: SimulatedPlans | None = None  # targets, organs and a dose for every CT that has none
    events: SimulatedEvents | None = None  # when it happens to simulated patients, and until when they are followed
    days: SimulatedDays | None = None  # visits after that of the plan, moved, for whoever has none

    def find(self) -> Cohort:
        """Its patients; raises UnreadableError for a folder that is none."""
        if self.virtual:
            found = self.virtual.cohort()
        else:
            table = None if self.table is None else fetched(self.table)
            found = find(fetched(self.path or Path()), table, self.units)
        for added in (self.events, self.plans, self.days, self.cone_beam):
            found = found if added is None else added.added_to(found)
        return found


@dataclass(frozen=True)
class PrivacyPlan:
    """(epsilon, delta) differential privacy: what one patient, or one image, adds to the weights is bounded and hidden
    in noise (Abadi et al. 2016). `scales`: what MR and other arbitrary units are brought to by, known beforehand.
    """

    epsilon: float
    delta: float
    per: Literal["patient", "image"] = "patient"
    clip: float = 1.0  # largest norm of what one of them adds to a step
    scales: Mapping[str, float] = field(default_factory=dict)  # contrast -> the value that draws leave 1 as


@dataclass(frozen=True)
class TrainPlan:
    """How long and how: a budget in steps or in minutes (which become steps, counted again as it goes), and the
    optimiser.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int | None = None  # 8, or what memory allows
    learning_rate: float | None = None  # 0.003; 0.0005 where networks play against one another
    optimiser: Literal["auto", "muon", "adamw"] = "auto"  # muon (orthogonal steps of matrices); adamw for rivals
    average: float = 0.999  # decay of the moving average that draws use
    clip: float = 1.0  # largest gradient norm
    precision: str = "auto"  # auto, bf16, fp32
    checkpoint_minutes: float = 1.0
    augment: float = 0.0  # strength of random turns and scalings; 1: about 10 degrees and 10 %
    start: str | None = None  # a run folder whose weights training starts from
    rank: int | None = None  # of a low-rank change of the weights in `start`, which stay as they are
    privacy: PrivacyPlan | None = None  # none = without a guarantee
    canaries: int = 0  # training images that are marked, so that an audit can tell whether marks were learned


@dataclass(frozen=True)
class PreparePlan:
    """The grid that a network sees: spacing in mm (z, y, x) or (y, x); none = as the scans, where they are alike, else
    their median. `resample: false`: every scan's own voxels, however they differ.
    """

    spacing_mm: Sequence[float] | None = None
    resample: bool = True
    size: Sequence[int] | None = None  # of training patches (z, y, x) or (y, x); none = the whole patient
    multiple: int = (
        16  # of which sides are multiples: less wastes fewer voxels on small organs, and suits fewer networks
    )
    store: Literal["memory-map", "zarr"] = "memory-map"  # zarr: sharded and compressed, where disk is scarce


@dataclass(frozen=True)
class Named:
    """A name from a table with its options, as it stands in a recipe."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InputPlan:
    """An earlier stage whose draws stand for the images that a stage is given, when it is judged and when it is
    used.
    """

    stage: str
    draws: Literal["all", "mean", "one"] = "all"  # all: draw k is made from draw k of the earlier stage


@dataclass(frozen=True)
class GuidancePlan:
    """How much more than learned a draw obeys its condition (1: as learned), and at which noise levels."""

    strength: float = 2.0
    low: float = 0.15
    high: float = 3.0


@dataclass(frozen=True)
class TrainedPlan:
    """A stage of another run whose weights, preparation and precision are used as they are."""

    run: Path
    stage: str = "model"

    @property
    def folder(self) -> Path:
        return self.run / "stages" / self.stage


@dataclass(frozen=True)
class Stage:
    """One job learned by one family on some cohorts, or answered by a family that another run has trained."""

    name: str
    job: Named
    family: Named
    sampler: Named | None
    train: TrainPlan
    prepare: PreparePlan
    network: UNetShape
    cohorts: tuple[str, ...]
    inputs: Mapping[str, InputPlan] = field(default_factory=dict)  # image -> the stage whose draws stand for it
    trained: TrainedPlan | None = None
    guidance: GuidancePlan | None = None
    codec: str | None = None  # an earlier stage in whose codes this one works
    paired: bool = True  # False: targets are of other patients
    equalised: float = 0.0  # share of equalisation of the intensities in which it works; 0 = as they are

    def home(self, run: Path) -> Path:
        """Where its checkpoint lies: in the run, or in the run that trained it."""
        return self.trained.folder if self.trained else run / "stages" / self.name

    def build_job(self) -> Job:
        return build(f"job {self.job.name!r}", JOBS.find(self.job.name), job_options(self.job.options))

    def training_job(self) -> Job:
        """The job as training sees it: what was measured too, where the family learns from that."""
        job = self.build_job()
        if job.signature().measurements and issubclass(FAMILIES.find(self.family.name), Reconstructor):
            return Posed(job)
        return job if self.paired else Unpaired(job)


@dataclass(frozen=True)
class ComputedStage:
    """A stage that computes and learns nothing; `inputs`: image -> the stage whose draws stand for it. Where none does,
    it is the patient's own.
    """

    name: str
    computation: Named
    inputs: Mapping[str, InputPlan] = field(default_factory=dict)

    def build(self) -> Computation:
        named = self.computation
        return build(f"compute {named.name!r}", COMPUTATIONS.find(named.name), named.options)

    def stands_for(self, name: str) -> tuple[str, ...]:
        """The images that an input is: itself, or its parts (`motion` is motion z, motion y and motion x)."""
        return tuple(n for n in self.build().reads() if n == name or n.startswith(f"{name} "))


@dataclass(frozen=True)
class LesionPlan:
    """Known lesions that are put into what is measured of so many slices: how wide, and how much brighter or darker."""

    slices: int = 20
    diameters_mm: Sequence[float] = (3.0, 5.0, 8.0)
    contrast: float = 0.2  # on the network's scale: of MR 1 is the brightest tissue, of CT 1024 HU


@dataclass(frozen=True)
class EvaluatePlan:
    """What is measured on the test part; draws per case."""

    metrics: tuple[str, ...] = ()
    draws: int = 4
    mask: str | None = None  # a label of the cohort: metrics inside it; none = the patient's foreground
    realism: int = 60  # pictures of each side that sets are compared by; volumes: two fifths of it; 0 = none
    evaluations: tuple[int, ...] | None = (
        None  # of the network for a draw, that quality is also measured at; none named:
    )
    # 1, 2, 4 and 8, in at most a fifth of the training's time
    likelihood: int = 0  # test cases whose exact log-probability is counted, an evaluation of the network a word
    window: Sequence[int] | None = None  # sides that networks draw by; none = the whole grid where memory allows
    overlap: float = OVERLAP  # share of a window's side that is blended with each neighbour's
    coverage: float | None = None  # of intervals calibrated on validation patients, 0.9 for instance; none = none
    lesions: LesionPlan | None = None  # none = none
    paths: int = 0  # draws that are followed through a whole chain of stages; 0 = none
    constraints: tuple[str, ...] = ()  # that doses are told by, such as "SpinalCord D0.1cc <= 45 Gy"
    dose: DoseCheck | None = None  # of drawn CTs: what a plan made on the true one gives there; none = none

    @property
    def windows(self) -> Windows | None:
        return None if self.window is None else Windows(tuple(self.window), self.overlap)


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `plain()` gives it back as the data that a run folder keeps."""

    cohorts: Mapping[str, CohortPlan]
    split: Mapping[str, Any]
    stages: tuple[Stage, ...]
    evaluate: EvaluatePlan
    seed: int
    source: Mapping[str, Any]  # the resolved plain data
    computed: tuple[ComputedStage, ...] = ()  # after those that learn, each after those that it builds on

    def stage(self, name: str) -> Stage:
        """Raises ValueError when there is none of this name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise unknown("stage", name, [s.name for s in self.stages])

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = unfrozen(self.source)
        return plain

"""A cohort of simulated patients from a seed: covariates with known effects, visits, findings in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...contracts import Case, Field, Image
from ...machine.device import free_bytes
from ...rng import Rng
from ..cohort import Cohort, Member
from ..followed import TREATED_YEARS
from . import anatomy, scan
from .courses import Course, Courses
from .kept import Kept

UNITS = {"CT": "HU", "PET": "SUV"}
MR_SCALE = 400.0  # white matter in the arbitrary units of a simulated scanner; scanner B has its own gain
GAIN = {"A": 1.0, "B": 0.62}
AGES = (20.0, 85.0)  # years, evenly
LABELS = ("lesion", "tissue", "brain_mask")


@dataclass(frozen=True)
class VirtualCohort:
    """What a recipe says of a simulated cohort: `virtual: {patients: 24, seed: 0, spacing_mm: 2}`."""

    patients: int = 24
    seed: int = 0
    spacing_mm: int = 2
    disease: str = "mixed"  # mixed, none, ms, tumour, stroke
    visits: int = 1
    years_between: float = 1.0
    courses: Mapping[str, Any] | None = None  # visits at uneven times, treatment: see `Courses`; none = even and plain
    skull: bool = False  # False: brain only, as brain-extracted scans are
    scanners: Sequence[str] = ("A", "B")
    travelling: bool = False  # every patient is scanned at every scanner, on one day
    first: int = 0  # number of the first patient: cohorts of one recipe are other people by other numbers
    severity: Sequence[float] = (1.0, 1.0)  # of atrophy, between which each patient's lies
    lesion_ml: Sequence[float] | None = None  # between which the volume of each patient's lesions lies; none = as drawn
    planes: Sequence[int] | None = None  # [first, last) along z in voxels: a thin stack costs less to train on

    def cohort(self) -> Cohort:
        """The members, none of them simulated yet; raises ValueError for impossible settings."""
        diseases = ("none", "ms", "tumour", "stroke")
        if self.patients < 1 or self.visits < 1 or self.first < 0 or self.disease not in (*diseases, "mixed"):
            raise ValueError(
                f"A virtual cohort of {self.patients} patients, {self.visits} visits, disease {self.disease!r} is "
                f"impossible; expected at least 1 and 1, disease mixed or one of {', '.join(diseases)}."
            )
        for name, ends in (("severity", self.severity), ("lesion_ml", self.lesion_ml)):
            if ends is not None and (len(ends) != 2 or not 0 < ends[0] <= ends[-1] <= 100):
                raise ValueError(f"virtual.{name} is {list(ends)}, expected its lowest and highest, above 0.")
        if self.courses is not None:
            Courses.of(self.courses)
        scan.check_request(self.scanners[0], [], self.spacing_mm)
        members: list[Member] = []
        for number in range(self.first, self.first + self.patients):
            for visit in range(self.visits):
                member = self._member(number, visit)
                members += self._everywhere(member) if self.travelling else [member]
        return Cohort(tuple(members))

    def _everywhere(self, member: VirtualMember) -> list[VirtualMember]:
        """The same head at each scanner, as visits of one day that are named by it."""
        names = [f"{member.visit}-{site}" if member.visit else site for site in self.scanners]
        return [replace(member, visit=name, site=site) for name, site in zip(names, self.scanners, strict=True)]

    def _member(self, number: int, visit: int) -> VirtualMember:
        rng = Rng([self.seed]).child("patient", number)
        u = rng.uniform(4)[0].tolist()
        disease = ("none", "ms", "ms", "tumour", "stroke")[int(5 * u[1])] if self.disease == "mixed" else self.disease
        site = self.scanners[int(u[2] * len(self.scanners))]
        course = None if self.courses is None else Courses.of(self.courses).drawn(self.visits, rng.child("course"))
        years = visit * self.years_between if course is None else course.visits[visit]
        patient = anatomy.Patient(
            seed=rng.child("head").keys[0],
            age=round(AGES[0] + (AGES[1] - AGES[0]) * u[0], 1),
            sex="F" if u[3] < 0.5 else "M",
            disease=disease,
            years=years,
            worn=None if course is None else course.worn(years),
            severity=_between(self.severity, rng.child("severity")),
            lesion_volume_ml=None if self.lesion_ml is None else _between(self.lesion_ml, rng.child("lesion volume")),
        )
        name = f"virtual{number:04d}"
        return VirtualMember(
            name, f"visit{visit}" if self.visits > 1 else "", site, 365.25 * patient.years, patient, self.spacing_mm,
            self.skull, tuple(self.planes) if self.planes else None, course,
        )  # fmt: skip


def _between(ends: Sequence[float], rng: Rng) -> float:
    return ends[0] if ends[0] == ends[-1] else ends[0] + (ends[-1] - ends[0]) * float(rng.uniform())


@dataclass(frozen=True)
class VirtualMember(Member):
    """One simulated patient at one visit; every contrast, mask and number is known and true."""

    patient: str
    visit: str
    site: str
    days: float
    truth: anatomy.Patient
    spacing_mm: int
    skull: bool = False
    planes: tuple[int, ...] | None = None
    course: Course | None = None

    @property
    def values(self) -> Mapping[str, float | str]:  # type: ignore[override]
        t = self.truth
        known: dict[str, float | str] = {
            "age": t.age + t.years,
            "sex": t.sex,
            "disease": t.disease,
            "site": self.site,
            "severity": t.severity,
        }
        return known if self.course is None else {**known, TREATED_YEARS: self.course.treated(t.years)}

    def otherwise(self, after: float, treated: bool) -> VirtualMember:
        """The same patient at the same visit, treated or not since `after` years; itself without a course."""
        if self.course is None:
            return self
        other = self.course.otherwise(after, treated)
        return replace(self, course=other, truth=replace(self.truth, worn=other.worn(self.truth.years)))

    def contrasts(self) -> tuple[str, ...]:
        return (*scan.CONTRASTS, *LABELS)

    def load(self, contrasts: Iterable[str]) -> Case:
        """Simulate; asking for fewer contrasts costs less."""
        asked = list(contrasts)
        wanted = [c for c in scan.CONTRASTS if c in asked]
        # in exactly these contrasts: company would change the last bits of a voxel
        key = (self.truth, self.site, tuple(wanted), self.spacing_mm)
        made = HEADS.get(key, lambda: scan.simulate(self.truth, self.site, wanted, self.spacing_mm))
        brain = made.brain
        images = {name: self._image(name, self._scaled(name, volume, brain)) for name, volume in made.images.items()}
        images |= {name: self._image(name, _label(made, name).float()) for name in LABELS if name in asked}
        values = {**self.values, "findings": findings(self.truth, made), **volumes(made)}
        return Case(self.patient, images, values, self.visit, self.days, self.site)

    def _scaled(self, name: str, volume: Tensor, brain: Tensor) -> Tensor:
        if name in UNITS:
            return volume if self.skull or name != "CT" else torch.where(brain > 0.5, volume, torch.tensor(-1024.0))
        volume = volume * (MR_SCALE * GAIN[self.site])
        return volume if self.skull else volume * (brain > 0.5)

    def _image(self, name: str, volume: Tensor) -> Image:
        """(x, y, z) RAS -> (z, y, x) LPS."""
        data = volume.permute(2, 1, 0)[None].contiguous()
        s, (x, y, z) = float(self.spacing_mm), anatomy.ORIGIN
        if self.planes is not None:
            first, last = self.planes[0], self.planes[-1]
            data, z = data[:, first:last].contiguous(), z + first * s
        affine = torch.zeros(4, 4, dtype=torch.float64)
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = s, -s, -s, 1.0
        affine[:3, 3] = torch.tensor([-x, -y, z])
        label = name in LABELS
        meaning = Field(name, "label" if label else "intensity", 1, "" if label else UNITS.get(name, "a.u."))
        return Image(data, "zyx", affine, meaning, source=f"virtual/{self.name}/{name}")


def _bytes(made: scan.Simulated) -> int:
    volumes = (*made.images.values(), *made.masks.values(), made.fractions, made.brain)
    return sum(v.nbytes for v in volumes)


# a run looks at each head several times: to fit, store, check, draw
HEADS = Kept(min(8_000_000_000, (free_bytes() or 12_000_000_000) // 6), _bytes)


def _label(made: scan.Simulated, name: str) -> Tensor:
    if name == "tissue":
        return _tissue(made)
    return (made.masks["lesion"] if name == "lesion" else made.brain) > 0.5


def _tissue(made: scan.Simulated) -> Tensor:
    """0 outside, 1 CSF, 2 grey, 3 white (and what lesions replaced) where the brain fills half the voxel."""
    largest = torch.where(made.masks["lesion"] > 0.5, 3, made.fractions.argmax(0) + 1)
    return torch.where(made.brain > 0.5, largest, 0)


def volumes(made: scan.Simulated) -> dict[str, float]:
    """True volumes in ml."""
    voxel = made.spacing_mm**3 / 1000
    csf, grey, white = (float(f.double().sum()) * voxel for f in made.fractions)
    return {
        "csf_ml": csf,
        "grey_ml": grey,
        "white_ml": white,
        "lesion_ml": float(made.masks["lesion"].double().sum()) * voxel,
    }


def findings(truth: anatomy.Patient, made: scan.Simulated) -> str:
    """A short structured report: what, how much, how old it looks."""
    amount = volumes(made)["lesion_ml"]
    words = {
        "none": "No focal lesion.",
        "ms": f"Multiple periventricular and deep white-matter lesions, {amount:.1f} ml.",
        "tumour": f"Intra-axial mass, {amount:.1f} ml, with surrounding oedema.",
        "stroke": f"Territorial infarct, {amount:.1f} ml, in the middle cerebral artery territory.",
    }
    grade = ("no", "mild", "moderate", "marked")[min(3, int(truth.atrophy * 2.5))]
    return f"{words[truth.disease]} Atrophy: {grade}."


def follow_up(patient: anatomy.Patient, years: float) -> anatomy.Patient:
    """The same head later."""
    return replace(patient, years=patient.years + years)

"""A stage that says what does not look healthy, judged: its ruler and threshold told by healthy validation patients."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .. import io
from ..contracts import Family, Field, Health, Image
from ..data.cases import Prepared
from ..data.cohort import Member
from ..data.grid import foreground, grid_of, resample
from ..data.store import Store
from ..evaluate.judging.anomalies import Anomalies, Seen
from ..evaluate.metrics.anomaly import ANOMALY, MARKED, Ruler, threshold
from ..evaluate.report.pictures import Beside, Pictures
from ..evaluate.report.results import Report, StageResult
from ..evaluate.result import Figure
from ..machine.device import writing
from .cases import each_drawn, write_draws
from .stage import PreparedStage

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Say = Callable[[str], None]
FILE = "anomaly.json"  # beside a stage's checkpoint
MODEL, MEAN = "model", "distance to the healthy mean"
FEW = 24  # training patients who are looked at for lesions
TOP = 0.995  # of a patient's voxels: how far those above lie says whether he holds what others do not
ODD = 5.0  # robust deviations above the median of all who count as healthy, and half as much again
SHOWN = 8.0  # of the ruler: the brightest of a map


@dataclass(frozen=True)
class Told:
    """What healthy validation patients say: a ruler for each image, and from where on a voxel is marked."""

    rulers: Mapping[str, Ruler]
    threshold: float
    false_positives: float
    patients: int
    draws: int

    def anomaly(self, images: Mapping[str, Array], draws: Mapping[str, Array], spacing_mm: Sequence[float]) -> Array:
        """(z, y, x): root mean square over the images."""
        maps = [ruler.anomaly(images[n], draws[n], spacing_mm) ** 2 for n, ruler in self.rulers.items()]
        return np.asarray(np.sqrt(np.mean(maps, axis=0)))

    def write(self, home: Path) -> None:
        with writing(home / FILE):
            (home / FILE).write_text(json.dumps(asdict(self), allow_nan=False))

    @staticmethod
    def read(home: Path) -> Told:
        """Raises ValueError for a stage that was not judged, or a damaged file."""
        file = home / FILE
        if not file.is_file():
            raise ValueError(
                f"{home.name} has no threshold yet: it is told when the run is judged. Type: fabrica run RUN"
            )
        try:
            plain = json.loads(file.read_text())
            rulers = {
                str(n): Ruler(tuple(r["edges"]), tuple(r["left"]), float(r["floor"]), float(r["smooth_mm"]))
                for n, r in plain["rulers"].items()
            }
            return Told(
                rulers, float(plain["threshold"]), float(plain["false_positives"]), int(plain["patients"]),
                int(plain["draws"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged ({error}). Delete it and judge the run again.") from error


@dataclass(frozen=True)
class Looked:
    """One case: its images, their healthy twins, and where the patient is."""

    case: Prepared
    x: Tensor  # (draws, C, z, y, x)
    images: Mapping[str, Array]
    draws: Mapping[str, Array]
    inside: Mask

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        z, y, x = self.case.grid.spacing_mm
        return z, y, x


def judge_anomalies(ready: PreparedStage, family: Family, result: StageResult, say: Say, report: Report) -> StageResult:
    """Rows of every test patient, by the model and by plain ways; maps and marks are written."""
    health = ready.job.health
    assert health is not None  # what answers with healthy twins
    plain = _Plain(ready.store, [f.name for f in ready.signature.x])
    told, limits = _told(ready, family, health, plain, say, report)
    told.write(ready.home)
    result.figures.append(
        Figure(ready.name, MODEL, "threshold", told.threshold, None, told.patients,
               f"{100 * health.false_positives:g} % of the voxels of healthy validation patients lie above")
    )  # fmt: skip
    found, pictures = Anomalies(ready.name, {MODEL: told.threshold, **limits}), Pictures()
    members = sorted(ready.test, key=lambda m: health.holds(m.values))  # the first few are shown: those who are ill
    for member, one in zip(members, _looked(ready, family, members, say), strict=True):
        map_of = told.anomaly(one.images, one.draws, one.spacing_mm)
        lesion = one.case.tensors.get(health.mask)
        truth = None if lesion is None else lesion[0].numpy() > 0.5
        healthy = health.holds(member.values) if health.known(member.values) else None
        seen = Seen(one.case.name, member.patient, health.mask, healthy, one.inside, truth, one.spacing_mm)
        for by, scores in {MODEL: map_of, **plain.maps(one.images)}.items():
            result.cases += found.judged(by, scores, seen)
        _write(ready, one, told)
        marked = torch.from_numpy((map_of > told.threshold) & one.inside).float()[None]
        shown = {"anomaly (as healthy people leave: 1)": Beside(_channel(map_of * one.inside), 0.0, SHOWN, "heat"),
                 "marked": Beside(marked, 0.0, 1.0, "grey")}  # fmt: skip
        if lesion is not None:
            shown["true lesion"] = Beside(lesion, 0.0, 1.0, "grey")
        pictures.add(one.case.name, one.case, one.x, ready.signature.x, ready.signature.given, "", {}, shown)
    result.pictures = pictures.rows
    result.figures += found.figures()
    say(f"{ready.name}: {len(members)} patients looked at.")
    return result


def _channel(image: Array) -> Tensor:
    return torch.from_numpy(image).float()[None]


def _told(
    ready: PreparedStage, family: Family, health: Health, plain: _Plain, say: Say, report: Report
) -> tuple[Told, dict[str, float]]:
    """The model's, and the limits of the plain ways at the same share of false positives.

    Raises ValueError where nobody healthy validates.
    """
    people = [m for m in ready.split.parts["validate"] if health.holds(m.values)]
    if not people:
        raise ValueError(
            f"{ready.name}: nobody healthy validates, and a threshold is set by nobody else. "
            "Write: split: {train: 0.6, validate: 0.2, test: 0.2}"
        )
    looked = list(_looked(ready, family, people, say))
    rulers = {}
    for f in ready.signature.x:
        healthy = [(one.images[f.name], one.draws[f.name], one.inside) for one in looked]
        rulers[f.name] = Ruler.of(healthy, looked[0].spacing_mm, health.smooth_mm)
    open_ = Told(rulers, 0.0, health.false_positives, len(people), len(looked[0].x))
    maps = [open_.anomaly(one.images, one.draws, one.spacing_mm)[one.inside] for one in looked]
    told = Told(rulers, threshold(maps, health.false_positives), health.false_positives, len(people), len(looked[0].x))
    limits: dict[str, list[Array]] = {}
    for one in looked:
        for by, scores in plain.maps(one.images).items():
            limits.setdefault(by, []).append(scores[one.inside])
    few = ready.split.parts["train"][:FEW]
    tops = {m.name: float(np.quantile(own, TOP)) for m, own in zip(people, maps, strict=True)}
    for member, one in zip(few, _looked(ready, family, few, say), strict=True):
        tops[member.name] = float(np.quantile(told.anomaly(one.images, one.draws, one.spacing_mm)[one.inside], TOP))
    _say_odd(ready.name, tops, say, report)
    return told, {by: threshold(own, health.false_positives) for by, own in limits.items()}


def _say_odd(stage: str, tops: Mapping[str, float], say: Say, report: Report) -> None:
    """Healthy people who hold what the others do not may hold lesions: looked at, not left out."""
    low, middle, high = np.quantile(list(tops.values()), [0.25, 0.5, 0.75])
    limit = max(middle + ODD * (high - low) / 1.349, 1.5 * middle)
    if odd := {name: s for name, s in tops.items() if s > limit}:
        most = ", ".join(f"{name} ({s:.1f})" for name, s in sorted(odd.items(), key=lambda p: -p[1])[:5])
        text = (
            f"{stage}: {len(odd)} of {len(tops)} patients who count as healthy hold what the others do not: {most}, "
            f"others {middle:.1f} times what healthy people leave. Look at them: a lesion that is learned as healthy"
            " is not found."
        )
        say(text)
        report.remark(text)


def _looked(ready: PreparedStage, family: Family, members: Sequence[Member], say: Say) -> Iterator[Looked]:
    mask, names = ready.evaluate.mask, [f.name for f in ready.signature.x]
    more = (*ready.job.judged_with, *((mask,) if mask else ()))
    for one in each_drawn(ready, family, members, more, say):
        yield looked_at(one.case, one.x, names, one.case.tensors.get(mask) if mask else None)


def looked_at(case: Prepared, x: Tensor, names: Sequence[str], mask: Tensor | None = None) -> Looked:
    """A case whose images are shown, with draws (draws, C, z, y, x) of what they would be if it were healthy."""
    images = {n: case.tensors[n][0].double().numpy() for n in names}
    draws = {n: x[:, k].double().numpy() for k, n in enumerate(names)}
    inside = mask[0] > 0.5 if mask is not None else foreground_of(case, names)
    return Looked(case, x, images, draws, inside.numpy())


def foreground_of(case: Prepared, names: Sequence[str]) -> Tensor:
    """bool (z, y, x): where the patient is by any of his images."""
    found: Tensor = torch.stack([foreground(case.tensors[n][0]) for n in names]).any(0)
    return found


class _Plain:
    """Ways without a model of health: how bright, how dark, how far from the mean of healthy training images."""

    def __init__(self, store: Store, names: Sequence[str]) -> None:
        self.names, self.known = list(names), {n: _moments(store, n) for n in names}

    def maps(self, images: Mapping[str, Array]) -> dict[str, Array]:
        found: dict[str, Array] = {}
        several = len(self.names) > 1
        for name in self.names:
            suffix = f" of {name}" if several else ""
            found[f"intensity, bright{suffix}"] = images[name]
            found[f"intensity, dark{suffix}"] = -images[name]
        apart = [
            np.abs(images[n] - _to(m, images[n])) / np.maximum(_to(s, images[n]), 0.02)
            for n, (m, s) in self.known.items()
        ]
        found[MEAN] = np.asarray(np.sqrt(np.mean(np.square(apart), axis=0)))
        return found


def _moments(store: Store, name: str) -> tuple[Array, Array]:
    """Mean and deviation of the training images, laid onto the first one's box."""
    arrays = [store.array(e, name)[0].astype(np.float64) for e in store.entries if name in e.files]
    laid = [_to(a, arrays[0]) for a in arrays]
    mean = np.mean(laid, axis=0)
    return mean, np.asarray(np.sqrt(np.mean([(a - mean) ** 2 for a in laid], axis=0)))


def _to(image: Array, like: Array) -> Array:
    if image.shape == like.shape:
        return image
    one = torch.from_numpy(image)[None, None]
    return F.interpolate(one, like.shape, mode="trilinear", align_corners=False)[0, 0].numpy()


def maps_of(one: Looked, told: Told) -> dict[str, Image]:
    """anomaly and anomaly-mask on the case's own grid."""
    scores = told.anomaly(one.images, one.draws, one.spacing_mm)
    marked = (scores > told.threshold) & one.inside
    return {
        ANOMALY: _image(one.case, scores * one.inside, ANOMALY, False),
        MARKED: _image(one.case, marked, MARKED, True),
    }


def _image(case: Prepared, values: NDArray[np.generic], name: str, label: bool) -> Image:
    meaning = Field(name, "label", 2, "") if label else Field(name, "intensity", 1, "")
    like = next(iter(case.traces.values())).like
    volume = Image(torch.from_numpy(values.astype(np.float32))[None], "zyx", case.grid.affine, meaning)
    moved = resample(volume, grid_of(like), fill=0.0)
    return replace(like, data=moved.data if like.axes == "zyx" else moved.data[:, 0], meaning=meaning)


def _write(ready: PreparedStage, one: Looked, told: Told) -> None:
    """Draws, and the map and its marks beside them, on the case's own grid."""
    write_draws(ready, one.case.name, one.case, one.x)
    for name, image in maps_of(one, told).items():
        io.write_nifti(image, ready.home / ANOMALY / one.case.name / f"{name}.nii.gz")

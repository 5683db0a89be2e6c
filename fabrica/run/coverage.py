"""Intervals of a stage: calibrated on its validation patients, judged on its test part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from ..contracts import Family, Field
from ..data.cases import Prepared
from ..evaluate.result import Figure, Result, Row
from ..evaluate.statistics import interval
from ..io import UnreadableError
from ..safeguards.uncertainty import Intervals, calibrated, ratios_of, write_intervals
from .dose_bands import DoseBands
from .draw import draw
from .question import Asked, Shown, questions, without
from .stage import PreparedStage, draws_of

Say = Callable[[str], None]
BODY = 0.08  # of the model's scale: brighter than this in any image is the patient
GROUPS = ("sex", "site", "disease")  # values of a case whose classes are looked at by themselves


class Coverage:
    """Does what a stage draws hold the truth as often as it says? Nothing where the recipe does not ask."""

    def __init__(self, ready: PreparedStage, family: Family, say: Say) -> None:
        self.ready, self.level = ready, ready.evaluate.coverage
        self.found: list[tuple[str, Mapping[str, object], float]] = []
        self.intervals: dict[str, Intervals] = {}
        self.doses = DoseBands(ready)
        if self.level is None:
            return
        if films := [f.name for f in ready.signature.x if f.frames > 1]:
            say(f"{ready.name}: no intervals of {', '.join(films)}: films have none.")
        if not any(map(_has_intervals, ready.signature.x)):
            return
        self.intervals = _calibrated(ready, family, self.level, say, self.doses)
        self.doses.calibrate(self.level, say)
        write_intervals(ready.home, self.intervals)

    def judged(self, asked: Asked, x: Tensor) -> tuple[list[Row], str]:
        """Of one test case, x (draws, C, z, y, x): the share of its voxels inside, in lesions too, and how wide; of
        doses the same of their figures, and what is to be shown of them (HTML).
        """
        rows, shown = self.doses.judged(asked.case, x)
        start, case = 0, asked.case
        for f in self.ready.signature.x:
            part = x[:, start].numpy()
            start += f.channels
            truth, own = case.tensors.get(f.name), self.intervals.get(f.name)
            if truth is None or own is None or (asked.hidden and asked.hidden != f.name):
                continue
            mean, spread = _moments(part)
            inside, held = body_of(case), own.covered(truth[0].numpy(), mean, spread)
            share = float(held[inside].mean())
            name = (asked.name, case.case.patient, f.name, f"model: intervals of {own.level:.0%}")
            width = 2 * float(own.reach(spread)[inside].mean())
            rows += [Row(*name, "coverage", share), Row(*name, "mean width", width)]
            lesion = case.tensors.get("lesion")
            ill = None if lesion is None or f.name == "lesion" else (lesion[0].numpy() > 0.5) & inside
            if ill is not None and ill.any():
                rows.append(Row(*name, "coverage in lesions", float(held[ill].mean())))
            self.found.append((case.case.patient, case.case.values, share))
        return rows, shown

    def figures(self) -> list[Figure]:
        """Over patients: mean coverage beside what was promised, the worst patient, and groups of them."""
        if not self.found or self.level is None:
            return self.doses.figures()
        name, own = self.ready.name, next(iter(self.intervals.values()))
        how = (
            f"promised {self.level:.0%}, at most {own.slack:.0%} above; calibrated on {own.patients} patients, "
            f"{own.draws} draws"
        )
        shares, patients = [s for _, _, s in self.found], [p for p, _, _ in self.found]
        found = interval(shares, patients)
        figures = [self._figure("mean coverage", found, f"{how}; {found.convention}")]
        figures.append(
            Figure(name, "model", "coverage of the worst patient", min(shares), None, found.n, "not promised")
        )
        for value in GROUPS:
            known = sorted({str(v[value]) for _, v, _ in self.found if value in v})
            for group in known if len(known) > 1 else ():
                some = [(p, s) for p, v, s in self.found if str(v.get(value)) == group]
                found = interval([s for _, s in some], [p for p, _ in some])
                figures.append(self._figure(f"mean coverage, {value} {group}", found, "not promised by group"))
        return figures + self.doses.figures()

    def _figure(self, what: str, found: Result, how: str) -> Figure:
        return Figure(self.ready.name, "model", what, found.value, found.interval, found.n, how)


def body_of(case: Prepared) -> NDArray[np.bool_]:
    """(z, y, x): bright in any image, holes filled slice by slice; everything where nothing is."""
    inside = np.zeros(case.grid.shape, bool)
    for name, tensor in case.tensors.items():
        if case.traces[name].like.meaning.kind == "intensity":
            inside |= tensor[0].numpy() > BODY
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in inside])
    return filled if filled.any() else np.ones_like(filled)


def _moments(part: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and deviation over draws; of one draw no deviation."""
    return part.mean(0), part.std(0, ddof=1) if len(part) > 1 else np.zeros_like(part[0])


def _has_intervals(field: Field) -> bool:
    return field.kind == "intensity" and field.frames == 1


def _calibrated(ready: PreparedStage, family: Family, level: float, say: Say, doses: DoseBands) -> dict[str, Intervals]:
    """By validation patients, who are shown to `doses` too."""
    count, ratios = draws_of(ready, family), dict[str, dict[str, list[NDArray[np.floating]]]]()
    for member in ready.split.parts["validate"]:
        try:
            cases = ready.shown(member, ready.job.judged_with)
        except UnreadableError:
            continue  # said where the split was made
        for hidden in questions(ready.job, cases[0]):
            shown = [Shown(without(cases[k % len(cases)], hidden), k) for k in range(count)]
            x = torch.stack(draw(family, ready.job, shown, ready.layout, ready.seed, say, ready.evaluate.windows))
            doses.add(cases[0], x)
            for name, found in _ratios(ready, cases[0], x, hidden).items():
                ratios.setdefault(name, {}).setdefault(member.patient, []).append(found)
    names = [f.name for f in ready.signature.x if _has_intervals(f)]
    made = {n: calibrated(_by_patient(ratios.get(n, {})), level, count) for n in names}
    for name, own in made.items():
        say(
            f"{ready.name}: intervals of {level:.0%} of {name} are {own.factor:.1f} times the spread of {count} draws, "
            f"by {own.patients} validation patients."
        )
    return made


def _ratios(ready: PreparedStage, case: Prepared, x: Tensor, hidden: str) -> dict[str, NDArray[np.floating]]:
    """Of each image that was asked for and is known."""
    found, start = dict[str, NDArray[np.floating]](), 0
    for f in ready.signature.x:
        part, truth = x[:, start].numpy(), case.tensors.get(f.name)
        start += f.channels
        if _has_intervals(f) and truth is not None and hidden in ("", f.name):
            found[f.name] = ratios_of(truth[0].numpy(), *_moments(part), body_of(case))
    return found


def _by_patient(found: Mapping[str, Sequence[NDArray[np.floating]]]) -> list[NDArray[np.floating]]:
    """Visits of a patient are one unit."""
    return [np.concatenate(own) for own in found.values()]

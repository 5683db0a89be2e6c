"""Shift and robustness of a subject: are scans like those of training, and what happens where they are not?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from ..contracts import Image
from ..data.cohort import Member, Source, one_each, overlaid
from ..rng import derive
from ..run.likeness import likeness
from ..run.shift import rows_of, seen
from ..safeguards.gate import Check
from ..safeguards.ladder import LADDER, RUNGS, degraded
from ..safeguards.shift import MOST, shift_check
from ..safeguards.sites import LeftOut, leave_one_site_out
from .subject import Subject

LOST_DB = 1.0  # of PSNR: a loss that a reader sees
NOTICED = 0.5  # share of scans that the safeguard has to tell before that
METRICS = ("psnr", "ssim", "mae")
FEWEST = 3
WORST = {"psnr": 0.0, "ssim": 0.0, "mae": 1.0}


def shift(subject: Subject, data: Path | Source | None = None) -> Check:
    """Scans of a folder, or of the test part, held against those of training."""
    reference, contrasts = subject.answering.scans, subject.answering.scanned
    members = subject.held if data is None else subject.answering.job.gathered(Source.of(data).find().members, True)
    looked = [seen(m, reference, contrasts) for m in one_each(members)]
    return shift_check(
        [one for one in looked if one is not None], reference, "test patients" if data is None else "new patients"
    )


def sites(subject: Subject) -> tuple[list[LeftOut], list[str]]:
    """Every site of the run in turn, held against its others; one visit of each patient, at most MOST a site."""
    contrasts = subject.answering.scanned
    if not contrasts:
        return [], ["nothing that a scanner made is given to it"]
    people = [m for part in subject.split.parts.values() for m in part]
    by_site: dict[str, list[Member]] = {}
    for member in sorted(one_each(people), key=lambda m: derive(subject.seed, "sites", m.patient)):
        by_site.setdefault(_site(member), []).append(member)
    nobodys = len(by_site.pop("", []))
    if len(by_site) < 2:
        return [], ["all scans come from one site, or nobody says from which (a column site of the patients' table)"]
    rows = {site: [r for m in own[:MOST] if (r := rows_of(m, contrasts))] for site, own in sorted(by_site.items())}
    found, unseen = leave_one_site_out(rows, subject.seed)
    return found, [*unseen, *([f"of {nobodys} patients nobody says the site"] if nobodys else [])]


def _site(member: Member) -> str:
    """Where a scan was made: by its place among files, or by the patients' table."""
    known = member.values.get("site", "")
    return member.site or (known if isinstance(known, str) else f"{known:.17g}")


@dataclass(frozen=True)
class Rung:
    """One fault at one strength: what it costs, and how many scans the safeguard tells."""

    kind: str
    rung: int
    figures: dict[str, float]  # mean over patients
    told: float | None  # share; None where the safeguard has no reference


@dataclass(frozen=True)
class Ladder:
    """The subject's answers without and with faults of acquisition, on the same patients."""

    patients: int
    clean: dict[str, float]
    rungs: tuple[Rung, ...]

    def slope(self, kind: str, metric: str) -> float:
        """Of a metric over the rungs of a fault, from none at 0."""
        values = [self.clean[metric], *(r.figures[metric] for r in self.rungs if r.kind == kind)]
        return float(stats.linregress(np.arange(len(values)), values).slope)

    def lost(self, rung: Rung) -> float:
        return self.clean["psnr"] - rung.figures["psnr"]


def ladder(subject: Subject, patients: int) -> Ladder | str:
    """Draws of test patients whose given scans are made worse; or why there are none."""
    answering = subject.answering
    field = subject.drawn
    if field is None or not answering.scanned:
        return "nothing that a scanner made is given to it"
    usable = [m for m in one_each(subject.held) if field.name in m.contrasts() and answering.can(m)]
    if len(usable) < FEWEST:
        return f"{len(usable)} test patients have what is asked for, {FEWEST} are needed"
    judged = {m.patient: (m, figures) for m in usable[:patients] if (figures := _figures(subject, m, m)) is not None}
    if len(judged) < FEWEST:
        return f"{len(judged)} test patients could be judged, {FEWEST} are needed"
    members, clean = [m for m, _ in judged.values()], [figures for _, figures in judged.values()]
    rungs = []
    for kind in LADDER:
        rungs += [_rung(subject, members, kind, rung) for rung in RUNGS]
        subject.say(f"robustness: {kind} looked at.")
    return Ladder(len(clean), _mean(clean), tuple(rungs))


def _rung(subject: Subject, members: Sequence[Member], kind: str, rung: int) -> Rung:
    found, told = [], list[bool]()
    reference = subject.answering.scans
    for member in members:
        images = _images(subject, member)
        worse = overlaid(member, {n: degraded(image, kind, rung, subject.seed) for n, image in images.items()})
        found.append(_figures(subject, worse, member) or WORST)  # what fails counts, as the worst
        if (one := seen(worse, reference, subject.answering.scanned)) is not None:
            told.append(reference.shifted(one))
    return Rung(kind, rung, _mean(found), float(np.mean(told)) if told else None)


def _images(subject: Subject, member: Member) -> dict[str, Image]:
    wanted = [n for n in subject.answering.scanned if n in member.contrasts()]
    return {n: i for n, i in member.load(wanted).images.items() if i.meaning.kind == "intensity"}


def _figures(subject: Subject, shown: Member, true: Member) -> dict[str, float] | None:
    """Of one draw beside the truth, inside the patient; None where the case cannot be used."""
    assert subject.drawn is not None  # asked only where there is one
    return likeness(subject.answering, subject.drawn, shown, true)


def _mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {m: float(np.mean([row[m] for row in rows])) for m in METRICS}


def robustness_check(found: Ladder | str) -> Check:
    """The verdict: does the safeguard notice before quality is lost?"""
    if isinstance(found, str):
        return Check("NOT ASSESSABLE", None, None, LOST_DB, f"Robustness: {found}.")
    worst = max(found.rungs, key=found.lost)
    said = f"the worst, {worst.kind} at rung {worst.rung} of {RUNGS[-1]}, costs {found.lost(worst):.1f} dB of PSNR"
    said += f" on {found.patients} patients"
    unseen = [r for r in found.rungs if found.lost(r) >= LOST_DB and (r.told is None or r.told < NOTICED)]
    if unseen and all(r.told is None for r in unseen):
        kinds = ", ".join(dict.fromkeys(r.kind for r in unseen))
        reason = f"Quality is lost by {kinds}, and no reference of training's scans notices it: {said}."
        return Check("WARN", found.lost(worst), None, LOST_DB, reason)
    if unseen:
        kinds = ", ".join(dict.fromkeys(f"{r.kind} (rung {r.rung})" for r in unseen))
        return Check(
            "WARN", found.lost(worst), None, LOST_DB, f"Quality is lost before anybody is warned by {kinds}: {said}."
        )
    return Check("PASS", found.lost(worst), None, LOST_DB, f"Whatever costs {LOST_DB:g} dB is noticed: {said}.")

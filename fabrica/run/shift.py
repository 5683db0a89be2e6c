"""What the scans that a stage was trained on look like, kept beside its weights; and how unlike them a scan is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..contracts import Image
from ..data.cohort import Member, one_each
from ..io import UnreadableError
from ..rng import derive
from ..safeguards.shift import FEWEST, FILE, MOST, Reference, Seen, features, fit
from .stage import PreparedStage

Rows = dict[str, dict[str, NDArray[np.float64]]]  # contrast -> kind -> features


def keep_reference(ready: PreparedStage) -> Reference:
    """Of a trained stage, from its training scans and those of validation patients; kept where it was made before."""
    weights = weights_of(ready.home)
    if (ready.home / FILE).is_file():
        known = Reference.read(ready.home, weights)
        if known.weights == weights:
            return known
    contrasts = scanned(ready.job.signature().given, ready.job.simulates, ready.stage.inputs)
    parts = {p: _by_chance(ready.split.parts[p], ready.seed) for p in ("train", "validate")}
    if not contrasts:
        made = Reference(weights, {}, float("inf"), 0, "nothing that a scanner made is given to it")
    elif ready.stage.train.privacy is not None:
        made = Reference(weights, {}, float("inf"), 0, "a private training keeps no statistics of its patients")
    elif len(parts["validate"]) < FEWEST:
        made = fit(weights, [], [{}] * len(parts["validate"]))  # says how many are needed, and reads nobody's scans
    else:
        made = fit(weights, *([rows for m in parts[p] if (rows := rows_of(m, contrasts))] for p in parts))
    made.write(ready.home)
    return made


def scanned(given: Iterable[str], simulates: Iterable[str], drawn: Iterable[str]) -> tuple[str, ...]:
    """The images that come from a scanner: those that are given and no earlier stage draws."""
    made = set(drawn)
    return tuple(name for name in dict.fromkeys((*given, *simulates)) if name not in made)


def rows_of(member: Member, contrasts: Sequence[str]) -> Rows:
    """Features of what a case has of these contrasts; nothing where it has none, or they cannot be read."""
    try:
        return rows_in(member.load([c for c in contrasts if c in member.contrasts()]).images)
    except UnreadableError:
        return {}


def rows_in(images: Mapping[str, Image]) -> Rows:
    """Features of intensities in which there is something."""
    found: Rows = {}
    for name, image in images.items():
        if image.meaning.kind != "intensity" or image.axes not in ("yx", "zyx"):
            continue
        try:
            found[name] = features(image)
        except ValueError:
            continue
    return found


def seen(member: Member, reference: Reference, contrasts: Sequence[str]) -> Seen | None:
    """How unlike training a case is; None where nothing of it can be held against training."""
    if reference.why_not or not (rows := rows_of(member, contrasts)):
        return None
    try:
        return reference.look(rows)
    except ValueError:
        return None


def weights_of(home: Path) -> str:
    """sha256 of the checkpoint that draws."""
    return str(json.loads((home / "checkpoint.json").read_text())["sha256"])


def _by_chance(members: Sequence[Member], seed: int) -> list[Member]:
    """One visit of each patient, at most MOST patients."""
    return sorted(one_each(members), key=lambda m: derive(seed, "shift", m.patient))[:MOST]


@dataclass(frozen=True)
class Looked:
    """What was found of a case that somebody wants drawn; no score where there is nothing to hold it against."""

    score: float | None = None
    shifted: bool = False
    words: str = ""
    unknown: bool = False  # there is a reference, and the scan could not be held against it

    @property
    def refused(self) -> bool:
        """Whether nobody should draw it who asked for scans like those of training."""
        return self.shifted or self.unknown

    def plain(self) -> dict[str, float | bool | None]:
        return {"score": self.score, "shifted": self.shifted}


def look(reference: Reference, member: Member, contrasts: Sequence[str]) -> Looked:
    found = seen(member, reference, contrasts)
    if found is None:
        if reference.why_not:
            return Looked()
        return Looked(words="it could not be held against the scans of training", unknown=True)
    shifted = reference.shifted(found)
    return Looked(round(found.score, 4), shifted, reference.words(found) if shifted else "")

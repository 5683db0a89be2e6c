"""Simulated patients as files: NIfTI per contrast and label, a participants table, findings in words."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...io import write_nifti
from ...machine.device import threads
from ...machine.executors import Executor, Local, SetAside
from ...machine.folders import writing_into
from ..cohort import Member
from .patients import LABELS, VirtualCohort
from .scan import CONTRASTS

WRITE = f"{__name__}:write_member"  # what an executor calls
NOTES = ".made"  # OUT/.made/CASE.json: of which plan a case was written


def write_cohort(
    plan: VirtualCohort, folder: Path, say: Callable[[str], None], executor: Executor | None = None
) -> int:
    """PATIENT[/VISIT]/CONTRAST.nii.gz and participants.tsv; returns the number of images. What the same plan has
    written before is kept. `executor`: who simulates the cases, this process when left out.

    Raises ValueError where a case could not be written by any worker.
    """
    said = json.dumps(asdict(plan), sort_keys=True)
    members = plan.cohort().members
    shared = {"plan": said, "folder": str(folder.resolve()), "threads": torch.get_num_threads()}
    tasks = [{**shared, "number": number} for number in range(len(members))]
    found: dict[int, Mapping[str, Any]] = {}
    with writing_into(folder):
        for number, made in (executor or Local()).results(WRITE, tasks):
            if isinstance(made, SetAside):
                raise ValueError(f"{members[number].name} cannot be simulated: {made.reason}.")
            found[number] = made
            say(f"{members[number].name}: {made['row']['findings']}")
        rows = [found[number]["row"] for number in range(len(members))]
        with (folder / "participants.tsv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    return sum(len(one["files"]) for one in found.values())


def write_member(task: Mapping[str, Any]) -> dict[str, Any]:
    """Simulates one case and writes its images; {"row": of the table, "files": paths below the folder}."""
    with threads(task["threads"]):
        return _written(task)


@lru_cache(maxsize=2)
def _members(plan: str) -> tuple[Member, ...]:
    return VirtualCohort(**json.loads(plan)).cohort().members


def _before(note: Path, key: str, folder: Path) -> dict[str, Any] | None:
    """What the same plan has made of the case, where all of it is still there."""
    try:
        known = json.loads(note.read_text()) if note.is_file() else {}
    except ValueError:  # cut short: the case is made again
        return None
    made: dict[str, Any] = known.get("made", {})
    whole = known.get("key") == key and all((folder / name).is_file() for name in made["files"])
    return made if whole else None


def _written(task: Mapping[str, Any]) -> dict[str, Any]:
    member, folder = _members(task["plan"])[task["number"]], Path(task["folder"])
    note, key = (
        folder / NOTES / f"{member.name}.json",
        hashlib.sha256(f"{__version__} {task['plan']}".encode()).hexdigest(),
    )
    if (before := _before(note, key, folder)) is not None:
        return before
    case, files = member.load([*CONTRASTS, *LABELS]), list[str]()
    place = folder / case.patient / case.visit if case.visit else folder / case.patient
    for name, image in case.images.items():
        write_nifti(image, place / f"{name}.nii.gz")
        files.append(str((place / f"{name}.nii.gz").relative_to(folder)))
    row = {"participant_id": case.patient, "visit": case.visit, "days": case.days, **case.values}
    made = {"row": row, "files": files}
    note.parent.mkdir(parents=True, exist_ok=True)
    part = note.with_name(f"{note.name}.part")
    part.write_text(json.dumps({"key": key, "made": made}))
    part.replace(note)
    return made

"""A case drawn as a task of its own: plain data in, plain data out, done once for the same inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .. import __version__, io
from ..data import cohort as cohorts
from ..data.cases import left_out
from ..data.cohort import Member, Source
from ..deliver.outbox import write_whole
from ..deliver.record import hash_of
from ..io import UnreadableError
from ..jobs.values import said
from ..machine.device import find_device
from ..run.answering import Answering
from ..run.folder import RunFolder

DONE = ".done"  # beside the results: a file for each case that was drawn whole
DRAW = "fabrica.generate.tasks:draw_case"


@lru_cache(maxsize=1)  # of one call of generate, whose token is in the task
def _answering(token: str, run: str, stage: str | None, device: str) -> Answering:
    opened = RunFolder.open(Path(run))
    return Answering(opened, opened.last_stage(stage), find_device(device))


@lru_cache(maxsize=1)
def _cases(token: str, answering: Answering, folder: str, units: tuple[tuple[str, str], ...]) -> dict[str, Member]:
    found = Source(Path(folder), dict(units)).find()
    return {m.name: m for m in answering.job.gathered(found.members, True)}


def draw_case(task: Mapping[str, Any]) -> dict[str, Any]:
    """Draws one case and writes its files; {"files": contrast -> paths below `out`, "said": lines}.

    Its threads are those of whoever asked, so that bytes are the same wherever it is done.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(task["threads"])
    try:
        return _draw(task)
    finally:
        torch.set_num_threads(before)


def _draw(task: Mapping[str, Any]) -> dict[str, Any]:
    answering = _answering(task["token"], task["run"], task["stage"], task["device"])
    found = _cases(task["token"], answering, task["folder"], tuple(map(tuple, task["units"])))[task["case"]]
    asked = said(answering.signature.values, task["values"])
    member, lines, out = cohorts.overlaid(found, {}, asked), list[str](), Path(task["out"])
    if not answering.can(member):
        needed = ", ".join(dict.fromkeys((*answering.signature.given, *answering.job.simulates)))
        return {"files": {}, "said": [f"{member.name}: has none of {needed}; left out."]}
    known = [f.name for f in answering.signature.values]
    if missing := [name for name in known if name not in member.values]:
        lines.append(
            f"{member.name}: drawn without its {', '.join(missing)}, which nothing says. Name it: --value"
            f" {missing[0]}=..."
        )
    try:
        drawn = answering.draws(member, task["draws"], lines.append)
    except UnreadableError as error:
        return {"files": {}, "said": [*lines, left_out(member, error)]}
    files: dict[str, list[str]] = {}
    for number, images in enumerate(drawn):
        for name, image in images.items():
            path = out / member.name / f"{name}-{number}.nii.gz"
            io.write_nifti(image, path)
            files.setdefault(name, []).append(str(path.relative_to(out)))
    lines.append(f"{member.name}: {task['draws']} draw{'s' * (task['draws'] > 1)} written.")
    result = {"files": files, "said": lines}
    _note(out, member.name, task["key"], result)
    return result


def key_of(weights: str, recipe: str, task: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """What a case's bytes depend on; the same key is not drawn again. `sources`: path -> sha256."""
    part = {k: task[k] for k in ("stage", "draws", "values", "units", "device", "threads", "case")}
    known = {"weights": weights, "recipe": recipe, "version": __version__, "sources": sorted(sources.values()), **part}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _note(out: Path, case: str, key: str, result: Mapping[str, Any]) -> None:
    """Only when all files of a case are on disk."""
    hashes = {name: hash_of(out / name) for own in result["files"].values() for name in own}
    plain = {"key": key, "hashes": hashes, **result}
    write_whole(out / DONE / f"{case}.json", json.dumps(plain).encode())


def done_before(out: Path, case: str, key: str) -> dict[str, Any] | None:
    """The result of a case that was drawn from the same inputs and whose files are as they were; else None."""
    path = out / DONE / f"{case}.json"
    try:
        plain = json.loads(path.read_text())
        whole = plain["key"] == key and all(hash_of(out / name) == h for name, h in plain["hashes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return {"files": plain["files"], "said": [f"{case}: drawn before from the same; kept."]} if whole else None

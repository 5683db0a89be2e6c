"""A case drawn as a task of its own: plain data in, plain data out, done once for the same inputs."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor

from .. import __version__, io
from ..contracts import Image
from ..data import cohort as cohorts
from ..data.cases import Prepared, left_out
from ..data.cohort import Member, Source
from ..deliver.files import write_whole
from ..deliver.outbox import now
from ..deliver.record import check_inside, hash_of
from ..io import UnreadableError
from ..jobs.values import said
from ..machine.device import find_device, threads
from ..machine.executors import Executor, SetAside
from ..machine.stores import fetched, named, place, sent
from ..run.answering import Answering
from ..run.costs import CHOICE
from ..run.folder import RECIPE, RunFolder
from ..run.judge_anomalies import FILE as ANOMALIES
from ..run.judge_anomalies import Told, looked_at, maps_of
from ..run.shift import Looked, look
from ..safeguards.shift import FILE as SHIFT
from ..safeguards.uncertainty import FILE as INTERVALS
from ..safeguards.watermark import read_key
from .intervals import wanted_of, write_interval
from .motion import write_motion
from .watermarks import with_mark

DONE = ".done"  # beside the results: a file for each case that was drawn whole
DECIDED = "decided"  # CONTRAST-decided.nii.gz: what of the mean of draws no datum fixes
REFUSED = ".refused"  # a file for each case that was left out, with the kind of reason
DRAW = "fabrica.generate.tasks:draw_case"


class Order(TypedDict, total=False):
    """What is wanted of every case; what is left out is as in PLAIN."""

    draws: int
    stage: str | None  # which one draws, None: the last
    values: Mapping[str, str]  # stand for those that the cases say: a class, a covariate, words
    shift: Literal["warn", "refuse"]  # whether a scan unlike those of training is drawn and said so, or left out
    registry: str | None  # the folder that says which models may be used, None: any
    watermark: str | None  # the file of the key that drawn images are marked with, None: not marked
    compiled: bool  # whether networks are compiled first


PLAIN: Order = {
    "draws": 1, "stage": None, "values": {}, "shift": "warn", "registry": None, "watermark": None, "compiled": False,
}  # fmt: skip


def places_of(run: Path, source: Source, out: Path) -> dict[str, Any]:
    """What every task of a call says of where it reads and writes, and by how many threads, as plain data."""
    return {
        "run": named(run), "folder": named(source.folder), "units": sorted(source.units.items()), "out": named(out),
        "threads": torch.get_num_threads(),
    }  # fmt: skip


@lru_cache(maxsize=1)  # of one call of generate, whose token is in the task
def answering_of(token: str, run: str, stage: str | None, device: str, compiled: bool = False) -> Answering:
    """The stage that answers, loaded once for all tasks of a call that this process does."""
    opened = RunFolder.open(fetched(run))
    return Answering(opened, opened.last_stage(stage), find_device(device), compiled)


@lru_cache(maxsize=1)
def cases_of(token: str, answering: Answering, folder: str, units: tuple[tuple[str, str], ...]) -> dict[str, Member]:
    """The cases of a folder by name, found once for all tasks of a call that this process does."""
    found = Source(fetched(folder), dict(units)).find()
    return {m.name: m for m in answering.job.gathered(found.members, True)}


def draw_case(task: Mapping[str, Any]) -> dict[str, Any]:
    """Draws one case and writes its files; {"files": contrast -> paths below `out`, "said": lines}.

    Its threads are those of whoever asked, so that bytes are the same wherever it is done.
    """
    with threads(task["threads"]):
        drawn = _draw(task)
    out = place(task["out"])
    for made in (out / task["case"], out / REFUSED / f"{task['case']}.json", out / DONE / f"{task['case']}.json"):
        sent(made)
    return drawn


def _draw(task: Mapping[str, Any]) -> dict[str, Any]:
    answering = answering_of(task["token"], task["run"], task["stage"], task["device"], task["compiled"])
    found = cases_of(task["token"], answering, task["folder"], tuple(map(tuple, task["units"])))[task["case"]]
    asked = said(answering.signature.values, task["values"])
    answering.listen(task["values"])
    member, lines, out = cohorts.overlaid(found, {}, asked), list[str](), place(task["out"])
    if not answering.can(member):
        needed = ", ".join(dict.fromkeys((*answering.signature.given, *answering.job.simulates)))
        return {"files": {}, "said": [f"{member.name}: has none of {needed}; left out."]}
    known = [f.name for f in answering.signature.values]
    if missing := [name for name in known if name not in member.values]:
        lines.append(
            f"{member.name}: drawn without its {', '.join(missing)}, which nothing says. Name it: --value"
            f" {missing[0]}=..."
        )
    looked = look(answering.scans, member, answering.scanned)
    lines += [f"{member.name}: {looked.words}."] if looked.words else []
    weights = answering.scans.weights
    if looked.refused and task["shift"] == "refuse":
        _note_refusal(out, member.name, "shift", looked, weights)
        return {"files": {}, "said": [*lines, f"{member.name} is left out: --shift refuse."]}
    began = time.perf_counter()
    files: dict[str, list[str]] = {}
    beside: list[Path] = []
    try:
        _write_draws(answering, member, task, lines, (files, beside))
    except UnreadableError as error:
        for path in (*beside, *(out / name for own in files.values() for name in own)):
            path.unlink(missing_ok=True)  # of a case that is left out nothing stays
        _note_refusal(out, member.name, "unreadable", looked, weights)
        return {"files": {}, "said": [*lines, left_out(member, error)]}
    result = {
        "files": files, "said": lines, "beside": [str(path.relative_to(out)) for path in beside],
        "shift": looked.plain(), "doubt": looked.words, "watermarked": bool(task["watermark"]),
        "weights": weights, "seconds": round(time.perf_counter() - began, 3), "made": now(),
    }  # fmt: skip
    _note(out, member.name, task["key"], result)
    return result


def _write_draws(
    answering: Answering, member: Member, task: Mapping[str, Any], lines: list[str],
    written: tuple[dict[str, list[str]], list[Path]],
) -> None:  # fmt: skip
    """Each draw is written and let go before the next. `written`: contrast -> paths below `out`, and what lies beside
    them; both are added to.
    """
    (files, beside), out = written, place(task["out"])
    key = read_key(Path(task["watermark"])) if task["watermark"] else None
    like: dict[str, Image] = {}
    held: list[Tensor] = []  # of twins alone, whose map needs all of them
    mean: Tensor | None = None  # of what was measured alone, to tell what no datum fixes of it
    folder, moments = out / member.name, wanted_of(answering, task["draws"], lines)
    prepared, draws = answering.in_turn(member, task["draws"], lines.append)
    for number in range(task["draws"]):
        x = next(draws)  # what enumerates them would hold the last one
        images = answering.image(member, prepared, x, number)
        held += [x] if answering.job.answer == "twin" else []
        if answering.signature.measurements:
            mean = x.float() / task["draws"] if mean is None else mean.add_(x, alpha=1 / task["draws"])
        del x
        if answering.job.moves is not None:
            moved, told = write_motion(images, member, answering.job.moves, folder, number)
            beside += moved
            lines.append(told)
        for name, own in moments.items():
            own.see(images[name].data)
        for name, image in images.items():
            path = folder / f"{name}-{number}.nii.gz"
            if key is not None:
                image, doubt = with_mark(image, key)
                lines += [f"{member.name}: {doubt}."] if doubt and not number else []
            io.write_nifti(image, path)
            files.setdefault(name, []).append(str(path.relative_to(out)))
        like = {name: images[name] for name in moments}
        del images, image
    lines.append(f"{member.name}: {task['draws']} draw{'s' * (task['draws'] > 1)} written.")
    for name, own in moments.items():
        beside += write_interval(answering, like[name], own, folder)
    if mean is not None:
        for name, image in answering.decided(member, prepared, mean).items():
            io.write_nifti(image, folder / f"{name}-{DECIDED}.nii.gz")
            beside.append(folder / f"{name}-{DECIDED}.nii.gz")
    if held:
        beside += _write_anomaly(answering, prepared, torch.stack(held), folder, lines)


def _write_anomaly(answering: Answering, prepared: Prepared, x: Tensor, folder: Path, lines: list[str]) -> list[Path]:
    """anomaly.nii.gz and anomaly-mask.nii.gz, by the threshold that healthy validation patients told."""
    told = Told.read(answering.run.home(answering.stage))
    if told.draws != len(x):
        lines.append(f"No anomaly map: its threshold holds for {told.draws} draws. Type: --draws {told.draws}")
        return []
    written = []
    for name, image in maps_of(looked_at(prepared, x, [f.name for f in answering.signature.x]), told).items():
        io.write_nifti(image, folder / f"{name}.nii.gz")
        written.append(folder / f"{name}.nii.gz")
    return written


def state_of(run: RunFolder) -> str:
    """sha256 of a run as it draws: its recipe, the checkpoints of all its stages, and their numbers of evaluations."""
    files = [run.path / RECIPE]
    for stage in run.recipe.stages:
        files += [run.home(stage) / name for name in ("checkpoint.json", CHOICE, INTERVALS, ANOMALIES, SHIFT)]
    known = [hash_of(file) if file.is_file() else "" for file in files]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def key_of(state: str, task: Mapping[str, Any], member: Member, given: Sequence[str]) -> str:
    """What a case's bytes depend on: run, question, files, units, values. The same key is not drawn again."""
    asked = {k: task[k] for k in ("stage", "draws", "values", "units", "device", "threads", "case", "shift")}
    sources = [[scan.unit, scan.member, *map(hash_of, scan.files)] for scan in member.scans_of(given)]
    if task["watermark"]:
        asked["watermark"] = hash_of(Path(task["watermark"]))
    if task.get("compiled"):  # nothing of other draws, so that their keys are as before
        asked["compiled"] = True
    said_of = {"values": dict(member.values), "days": member.days, "given": list(given)}
    known = {"state": state, "version": __version__, "sources": sources, **said_of, "asked": asked}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def _note(out: Path, case: str, key: str, result: Mapping[str, Any]) -> None:
    """Only when all files of a case are on disk."""
    names = [*(name for own in result["files"].values() for name in own), *result["beside"]]
    note_done(out, case, key, names, result)


def note_done(out: Path, name: str, key: str, files: Sequence[str], result: Mapping[str, Any]) -> None:
    """That all of these files of a task are on disk, and what came of it."""
    hashes = {file: hash_of(out / file) for file in files}
    write_whole(out / DONE / f"{name}.json", json.dumps({"key": key, "hashes": hashes, **result}).encode())


def _note_refusal(out: Path, case: str, why: str, looked: Looked, weights: str) -> None:
    """For whoever watches the model: a case that nothing was drawn of."""
    plain = {"why": why, "shift": looked.plain(), "weights": weights, "made": now()}
    write_whole(out / REFUSED / f"{case}.json", json.dumps(plain).encode())


def done_before(out: Path, case: str, key: str) -> dict[str, Any] | None:
    """The result of a case that was drawn from the same inputs and whose files are as they were; else None."""
    plain = noted(out, case, key)
    if plain is None or not isinstance(plain.get("files"), dict):
        return None
    kept = [f"{case}: drawn before from the same; kept."]
    more = {"beside": plain.get("beside", []), "doubt": plain.get("doubt", "")}
    return {"files": plain["files"], "said": kept, **more}


def noted(out: Path, name: str, key: str) -> dict[str, Any] | None:
    """What was noted of a task with this key whose files are as they were; else None."""
    try:
        plain: dict[str, Any] = json.loads((out / DONE / f"{name}.json").read_text())
        for file in plain["hashes"]:
            check_inside(out, file)
        whole = plain["key"] == key and all(hash_of(out / file) == h for file, h in plain["hashes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return plain if whole else None


def results_of(
    doing: str, tasks: Sequence[dict[str, Any]], before: Callable[[dict[str, Any]], dict[str, Any] | None],
    executor: Executor, say: Callable[[str], None],
) -> Iterator[tuple[str, dict[str, Any]]]:  # fmt: skip
    """(case, what came of it), those of before first; what is said of a case is said together. `doing`: the task's
    function; `before`: what came of a task that need not be done again.
    """
    waiting = []
    for task in tasks:
        known = before(task)
        if known is None:
            waiting.append(task)
            continue
        say(known["said"][0])
        yield task["case"], known
    for number, result in executor.results(doing, waiting):
        name = waiting[number]["case"]
        if isinstance(result, SetAside):
            say(f"{name} is left out: {result.reason}.")
            continue
        for line in result["said"]:
            say(line)
        yield name, result

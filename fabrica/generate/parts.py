"""A model of any parts from any others put to use: what new cases have, or what somebody says, and what is asked."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import io
from ..contracts import Field
from ..data.cases import Prepared, left_out, prepare_case
from ..data.cohort import Member, Source, overlaid, unreadable
from ..data.store import Layout
from ..data.subwords import Subwords
from ..deliver.files import write_whole
from ..deliver.outbox import now
from ..io import UnreadableError
from ..jobs.values import said
from ..machine.device import threads
from ..machine.executors import Executor, Local
from ..machine.folders import writing_into
from ..machine.stores import fetched, named, place, sent
from ..networks.joint import beyond
from ..registry import unknown
from ..run.answering import Answering
from ..run.directions import Asking, Direction, Parts, chosen
from ..run.draw import images_of
from ..run.folder import RunFolder
from ..run.sequence import Say
from .record import record_of
from .tasks import (
    DONE,
    answering_of,
    cases_of,
    key_of,
    note_done,
    noted,
    places_of,
    results_of,
    state_of,
)

ASKED = "fabrica.generate.parts:ask_case"
TOLD = "parts"  # CASE/parts-0.json: words, classes and numbers of a draw
EXAMPLE = "--given T1w,findings --ask FLAIR,lesion"


@dataclass(frozen=True)
class Wanted:
    """What is given and what is asked for; nothing named: all that a case has is given, all else is asked for."""

    given: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)  # as somebody typed them

    @staticmethod
    def of(given: str | None, ask: str | None, values: Mapping[str, str]) -> Wanted:
        """From comma-separated names."""
        split = [tuple(n.strip() for n in (text or "").split(",") if n.strip()) for text in (given, ask)]
        return Wanted(split[0], split[1], values)


def generate_parts(
    run: Path, data: Source, out: Path, wanted: Wanted, draws: int = 1, stage: str | None = None,
    executor: Executor | None = None, say: Say = print,
) -> list[Path]:  # fmt: skip
    """Files of every case that has what is given: OUT/CASE/CONTRAST-N.nii.gz, and OUT/CASE/parts-N.json of words. A
    case that was asked the same before is kept. `executor`: who asks, this process when left out.

    Raises ValueError for a run that gives no parts, for names and words that it does not know, and for asking for what
    is given; UnreadableError for the scans.
    """
    by, token = executor or Local(), secrets.token_hex(8)
    answering = answering_of(token, named(run), stage, by.device)
    if answering.job.answer != "parts":
        raise ValueError(f"{run} answers one question alone. Leave --given and --ask out: fabrica generate {run}")
    check_wanted(answering, wanted)
    if answering.unfinished:
        say(answering.unfinished)
    cohort = data.find()
    for line in unreadable(cohort):
        say(line)
    cases = {m.name: m for m in answering.job.gathered(cohort.members, True)}
    shared = {
        **places_of(run, data, out), "token": token, "stage": stage, "device": by.device, "draws": draws,
        "given": list(wanted.given), "ask": list(wanted.ask), "values": dict(wanted.values),
    }  # fmt: skip
    tasks = [{**shared, "case": name} for name in cases]
    with writing_into(out):
        _keyed(answering, tasks, cases)
        found = dict(results_of(ASKED, tasks, partial(_asked_before, out), by, say))
    answering_of.cache_clear()  # the model is not kept beyond the call
    fetched(out)  # of a place in a store, what workers of other machines sent there
    written = [out / file for name in cases if name in found for file in found[name]["written"]]
    if not written:
        needed = ", ".join(wanted.given) or "anything that the run knows"
        raise ValueError(f"No case in {data.folder} has {needed}. See what is there: fabrica inspect {data.folder}")
    drawn = {name: found[name]["images"] for name in cases if name in found and found[name]["images"]}
    recorded = [(cases[n], {c: [out / p for p in own] for c, own in images.items()}) for n, images in drawn.items()]
    if recorded:
        record_of(answering.run, answering.stage, out, recorded, given=wanted.given or None).write()
    return written


def _keyed(answering: Answering, tasks: Sequence[dict[str, Any]], cases: Mapping[str, Member]) -> None:
    """Each task with the key of its inputs, and of what is asked."""
    state = state_of(answering.run)
    for task in tasks:
        member = cases[task["case"]]
        read = [f.name for f in answering.signature.x if f.name in member.contrasts()]
        own = key_of(state, {**task, "shift": "warn", "watermark": None, "compiled": False}, member, read)
        asked = json.dumps([own, task["given"], task["ask"]])
        task["key"] = hashlib.sha256(asked.encode()).hexdigest()


def _asked_before(out: Path, task: Mapping[str, Any]) -> dict[str, Any] | None:
    """What came of a case that was asked the same and whose files are as they were; else None."""
    before = noted(out, task["case"], task["key"])
    if before is None or "written" not in before:
        return None
    return {**before, "said": [f"{task['case']}: asked before the same; kept."]}


def ask_case(task: Mapping[str, Any]) -> dict[str, Any]:
    """Asks about one case and writes its files; {"images": contrast -> paths below `out`, "written": all, "said"}.

    Its threads are those of whoever asked, so that bytes are the same wherever it is done.
    """
    answering = answering_of(task["token"], task["run"], task["stage"], task["device"])
    found = cases_of(task["token"], answering, task["folder"], tuple(map(tuple, task["units"])))[task["case"]]
    wanted = Wanted(tuple(task["given"]), tuple(task["ask"]), task["values"])
    member, lines = overlaid(found, {}, said(answering.signature.values, wanted.values)), list[str]()
    out, none = place(task["out"]), {"images": {}, "written": [], "said": lines}
    began = time.perf_counter()
    try:
        with threads(task["threads"]):
            images, files = _case(answering, member, out, wanted, task["draws"], lines.append)
    except UnreadableError as error:
        lines.append(left_out(member, error))
        return none
    if not files:
        return none
    written = [str(path.relative_to(out)) for path in files]
    told = {name: [str(path.relative_to(out)) for path in own] for name, own in images.items()}
    result = {
        "images": told, "written": written, "said": lines, "weights": answering.scans.weights,
        "seconds": round(time.perf_counter() - began, 3), "made": now(),
    }  # fmt: skip
    note_done(out, task["case"], task["key"], written, result)
    for made in (out / task["case"], out / DONE / f"{task['case']}.json"):
        sent(made)
    return result


def gives_parts(run: Path, stage: str | None) -> bool:
    """Whether a run's stage gives any part from any others."""
    return RunFolder.open(run).last_stage(stage).build_job().answer == "parts"


def check_wanted(answering: Answering, wanted: Wanted) -> None:
    """Raises ValueError for names that are no part of the model, twice the same, or words that it cannot understand."""
    signature = answering.signature
    names = [f.name for f in (*signature.x, *signature.beside)]
    for name in (*wanted.given, *wanted.ask):
        if name not in names:
            raise unknown("part of the model", name, names)
    if both := sorted({*wanted.given, *wanted.values} & {*wanted.ask}):
        raise ValueError(f"{', '.join(both)} is given and asked for. Take it out of one: {EXAMPLE}")
    if wanted.given and (idle := sorted(set(wanted.values) - set(wanted.given))):
        raise ValueError(f"--value says {', '.join(idle)}, which --given leaves out. Write: --given {idle[0]},...")
    typed = said(signature.values, wanted.values)
    for f in signature.beside:
        if isinstance(value := typed.get(f.name), int | float) and (why := beyond(f, value)):
            raise ValueError(why)
    for name, text in wanted.values.items():
        if (how := answering.layout.words.get(name)) is not None:
            if not text.strip():
                raise ValueError(f"{name} is empty. Say something, or leave --value {name}=... out.")
            if why := how.fault(text):
                raise ValueError(f"{name} {text!r} cannot be understood: {why}. Write it as the cohort's texts are.")


def _case(
    answering: Answering, member: Member, out: Path, wanted: Wanted, draws: int, say: Say
) -> tuple[dict[str, list[Path]], list[Path]]:  # fmt: skip
    """(images by contrast, all files); nothing where a case lacks what is given."""
    prepared, layout = _prepared(answering, member, wanted)
    asking = Asking(answering.family, answering.job, layout, answering.seed)
    present = asking.rows(prepared).present
    has = [n for n in answering.job.names if bool(present[n].any())]
    given = wanted.given or tuple(n for n in has if n not in wanted.ask)
    if lacking := [n for n in given if n not in has]:
        say(f"{member.name}: has no {', '.join(lacking)}; left out.")
        return {}, []
    odd = _not_understood(asking, prepared, given)
    for why in odd.values():
        say(f"{member.name}: {why}; {'left out' if wanted.given else 'not used'}.")
    if odd and wanted.given:
        return {}, []
    given = tuple(n for n in given if n not in odd)
    asked = wanted.ask or tuple(n for n in answering.job.names if n not in given)
    if not asked:
        say(f"{member.name}: has all that the model could give. Name what is asked: --ask FLAIR")
        return {}, []
    direction = Direction(tuple(given), asked)
    parts = asking.answer(prepared, direction, draws, say)
    images = _write_images(answering, prepared, direction, parts, out / member.name, member.name)
    files = [path for own in images.values() for path in own]
    files += _write_told(asking, prepared, direction, parts, out / member.name)
    say(f"{member.name}: {direction}, {draws} draw{'s' * (draws > 1)} written.")
    return images, files


def _not_understood(asking: Asking, prepared: Prepared, given: Sequence[str]) -> dict[str, str]:
    """Part -> why a case's own number or text cannot be told to the model."""
    found = {}
    for f in asking.job.signature().beside:
        value, how = prepared.case.values.get(f.name), asking.layout.words.get(f.name)
        if f.name not in given:
            continue
        why = beyond(f, value) if isinstance(value, int | float) else ""
        if how is not None and isinstance(value, str) and how.written_from not in prepared.tensors:
            why = how.fault(value)  # else the masks of its slices are described
        if why:
            found[f.name] = f"its {f.name} cannot be understood: {why}"
    return found


def _prepared(answering: Answering, member: Member, wanted: Wanted) -> tuple[Prepared, Layout]:
    """The case with the images that are given, on the grid of one that it has; words that were typed count as typed."""
    images = [f.name for f in answering.signature.x if f.name in member.contrasts()]
    used = [n for n in images if n in wanted.given or not (wanted.given or n in wanted.ask)]
    grid = used or images or list(member.contrasts())[:1]
    prepared = prepare_case(member, grid, grid[0], answering.preparation)
    shown = {n: t for n, t in prepared.tensors.items() if n in used}
    typed = {n: replace(w, written_from="") for n, w in answering.layout.words.items() if n in wanted.values}
    layout = replace(answering.layout, words={**answering.layout.words, **typed})
    return replace(prepared, tensors=shown), layout


def _write_images(
    answering: Answering, prepared: Prepared, direction: Direction, parts: Parts, folder: Path, case: str
) -> dict[str, list[Path]]:  # fmt: skip
    files: dict[str, list[Path]] = {}
    fields = tuple(f for f in answering.signature.x if f.name in direction.asked)
    if parts.images is None:
        return files
    for number, x in enumerate(chosen(answering.signature.x, parts.images, direction.asked)):
        source = f"{answering.run.name}/{answering.stage.name}/{case}/{number}"
        for name, image in images_of(x, fields, prepared, answering.preparation, source).items():
            path = folder / f"{name}-{number}.nii.gz"
            io.write_nifti(image, path)
            files.setdefault(name, []).append(path)
    return files


def _write_told(
    asking: Asking, prepared: Prepared, direction: Direction, parts: Parts, folder: Path
) -> list[Path]:  # fmt: skip
    """Words of each slice that shows something; of numbers and classes what is expected over all of them."""
    beside = [f for f in asking.job.signature().beside if f.name in direction.asked]
    if not beside:
        return []
    values = {f.name: _expected(asking, prepared, direction, f) for f in beside if f.kind != "token"}
    texts = {f.name: asking.layout.words[f.name] for f in beside if f.kind == "token"}
    files = []
    for number, told in enumerate(parts.told):
        plain: dict[str, Any] = {
            "draft": "by a model, for a person to check", "given": list(direction.given), **values,
            **{name: _texts(how, told[name], parts.shown) for name, how in texts.items()},
        }  # fmt: skip
        path = folder / f"{TOLD}-{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, (json.dumps(plain, indent=1) + "\n").encode())
        files.append(path)
    return files


def _texts(how: Subwords, words: Tensor, shown: Tensor) -> list[dict[str, Any]]:
    return [{"slice": k, "text": how.text(words[k].cpu())} for k in range(len(words)) if bool(shown[k])]


def _expected(asking: Asking, prepared: Prepared, direction: Direction, f: Field) -> Any:
    """{class: chance}, or a number in its unit."""
    found = f.in_unit(asking.expected(prepared, direction, f.name).double().numpy())
    return dict(zip(f.classes, found.tolist(), strict=True)) if f.classes else float(found[0])

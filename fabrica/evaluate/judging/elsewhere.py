"""Pairs measured by worker processes: which files they are, as plain data, and the rows that come back."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ... import __version__, io
from ...deliver.files import write_whole
from ...deliver.record import hash_of
from ...io import Scan, UnreadableError
from ...machine.executors import Executor, SetAside
from ...machine.stores import fetched, named
from ..result import Row

PAIR = "fabrica.evaluate.judging.folders:pair_task"
SIDES = ("generated", "reference", "masks")
KEPT = ".pairs"  # below the report: a file for each pair that was measured
EVERY_S = 10.0  # between lines on how far it is


def plain_scans(found: Mapping[str, Mapping[str, Scan]]) -> dict[str, dict[str, Any]]:
    """Side -> name -> the files and the member that a scan lies in."""
    return {
        side: {name: {"files": [named(p) for p in s.files], "member": s.member} for name, s in found[side].items()}
        for side in SIDES if side in found
    }  # fmt: skip


def scans_of(plain: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Scan]:
    """The scans of one name, found again in their files; raises UnreadableError where they are gone."""
    return {side: _again(own[name]) for side, own in plain.items() if name in own}


def _again(plain: Mapping[str, Any]) -> Scan:
    files = [fetched(p) for p in plain["files"]]
    if len(files) == 1:
        scans = list(io.scan_folder(files[0]).scans)
    else:
        from ...io import dicom

        scans = dicom.listing(files)[0]
    for scan in scans:
        if scan.member == plain["member"]:
            return scan
    raise UnreadableError("is gone, or was changed while it was measured.", "Judge again.", plain["files"][0])


def measured_elsewhere(
    executor: Executor, tasks: Mapping[str, dict[str, Any]], out: Path, say: Callable[[str], None]
) -> list[list[Row]]:
    """Rows of each pair, in the order of the pairs; a pair that ended its workers has none, and is said. Rows of the
    same files that were asked the same before lie below `out`, and are not measured again.
    """
    sent, rows = dict[str, dict[str, Any]](), dict[str, list[Row]]()
    for name, task in tasks.items():
        own = {side: {name: by_name[name]} for side, by_name in task["found"].items() if name in by_name}
        one = {**task, "found": own, "name": name, "threads": torch.get_num_threads()}
        one["kept"] = str(out / KEPT / f"{_key(one)}.json")
        known = _kept(Path(one["kept"]))
        if known is None:
            sent[name] = one
        else:
            rows[name] = known
    if rows:
        say(f"{len(rows)} of {len(tasks)} pairs were measured before.")
    names, told = list(sent), time.monotonic()
    for number, result in executor.results(PAIR, list(sent.values())):
        name = names[number]
        if isinstance(result, SetAside):
            say(f"{name} was not measured: {result.reason}.")
            rows[name] = []
            continue
        rows[name] = [Row(*plain) for plain in result]
        write_whole(Path(sent[name]["kept"]), json.dumps(result).encode(), folder_too=False)
        if time.monotonic() - told > EVERY_S:
            told = time.monotonic()
            say(f"{len(rows)} of {len(tasks)} pairs measured.")
    return [rows[name] for name in tasks]


def _key(task: Mapping[str, Any]) -> str:
    """What a pair's rows depend on: what is asked, and the bytes of its files, wherever they lie."""
    asked = {k: v for k, v in task.items() if k != "found"}
    found = {
        side: [[scan["member"], *(hash_of(fetched(p)) for p in scan["files"])] for scan in by_name.values()]
        for side, by_name in task["found"].items()
    }
    return hashlib.sha256(json.dumps([__version__, asked, found], sort_keys=True).encode()).hexdigest()


def _kept(path: Path) -> list[Row] | None:
    try:
        return [Row(*plain) for plain in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):  # another version's, or cut off: measured again
        return None

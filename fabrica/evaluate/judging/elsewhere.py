"""Pairs measured by worker processes: which files they are, as plain data, and the rows that come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ... import io
from ...io import Scan, UnreadableError
from ...machine.executors import Executor, SetAside
from ...machine.stores import fetched, named
from ..result import Row

PAIR = "fabrica.evaluate.judging.folders:pair_task"
SIDES = ("generated", "reference", "masks")


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
    executor: Executor, tasks: Mapping[str, dict[str, Any]], say: Callable[[str], None]
) -> list[list[Row]]:
    """Rows of each pair, in the order of the pairs; a pair that ended its workers has none, and is said."""
    names = list(tasks)
    sent = []
    for name, task in tasks.items():
        own = {side: {name: by_name[name]} for side, by_name in task["found"].items() if name in by_name}
        sent.append({**task, "found": own, "name": name})
    rows: dict[int, list[Row]] = {}
    for number, result in executor.results(PAIR, sent):
        if isinstance(result, SetAside):
            say(f"{names[number]} was not measured: {result.reason}.")
            result = []
        rows[number] = [Row(*plain) for plain in result]
    return [rows[k] for k in range(len(names))]

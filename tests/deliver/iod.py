"""What the tables of the standard ask of an object: attributes of type 1 and 2 that are missing or empty."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import highdicom

LEFT = ("sr-document-content", "multi-frame-functional-groups")  # whose parts are wanted here or there


@lru_cache
def _table(name: str) -> Any:
    return json.loads((Path(highdicom.__file__).parent / "_standard" / f"{name}.json").read_text())


def missing(ds: Any) -> list[str]:
    """Attributes that modules with usage M ask for: type 1 without a value, type 2 that are not there. What hangs on a
    condition is left to `dciodvfy`, as are the content of structured reports and groups of frames.
    """
    iod = _table("sop_class_iod_map")[str(ds.SOPClassUID)]
    found = []
    for module in _table("iod_module_map")[iod]:
        if module["usage"] != "M" or module["key"].endswith(LEFT):
            continue
        for rule in _table("module_attribute_map")[module["key"]]:
            if rule["type"] in ("1", "2"):
                found += [
                    f"{module['key']}: {'.'.join([*rule['path'], rule['keyword']])}"
                    for _ in _lacks(ds, rule["path"], rule)
                ]
    return sorted(set(found))


def _lacks(ds: Any, path: list[str], rule: dict[str, Any]) -> list[bool]:
    """One for each place that lacks it; sequences that are not there ask for nothing."""
    if path:
        return [lack for item in ds.get(path[0]) or [] for lack in _lacks(item, path[1:], rule)]
    keyword = rule["keyword"]
    if keyword not in ds:
        return [True]
    empty = (
        ds.get(keyword) is None
        or (ds[keyword].VM == 0 and ds[keyword].VR != "SQ")
        or (ds[keyword].VR == "SQ" and not ds.get(keyword))
    )
    return [True] if rule["type"] == "1" and empty else []

"""The text of a recipe: YAML with the line of each key, settings and data folders laid over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..machine.stores import mirror_of, named
from ..registry import unknown


class RecipeError(ValueError):
    """What is wrong with a recipe, where, and the line to type instead."""


def parse(text: str) -> tuple[Any, dict[str, int]]:
    """Plain data and the line of each key; duplicate keys are refused."""
    lines: dict[str, int] = {}
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if node is not None:
        _index(node, "", lines)
    return yaml.safe_load(text) or {}, lines


def _index(node: yaml.Node, at: str, lines: dict[str, int]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    seen = set()
    for key, value in node.value:
        path = f"{at}.{key.value}" if at else str(key.value)
        if key.value in seen:
            raise RecipeError(f"line {key.start_mark.line + 1}: {path} stands twice. Keep one of them.")
        seen.add(key.value)
        lines[path] = key.start_mark.line + 1
        _index(value, path, lines)


def override(plain: Any, settings: Sequence[str], data: Sequence[str]) -> Any:
    plain = unfrozen(plain)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise RecipeError(f"--set {setting!r} has no value. Write: --set train.minutes=5")
        *parents, last = path.split(".")
        place = plain
        for part in parents:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise RecipeError(
                    f"--set {setting!r}: {part} is not a block of the recipe. Write: --set train.minutes=5"
                )
        place[last] = yaml.safe_load(text)
    for item in data:
        name, equals, folder = item.partition("=")
        cohorts = plain.setdefault("cohorts", {})
        if not equals:
            if len(cohorts) > 1:
                raise RecipeError(
                    f"--data {item}: the recipe has cohorts {', '.join(cohorts)}. Write: --data NAME={item}"
                )
            name, folder = next(iter(cohorts), "all"), item
        elif name not in cohorts:
            raise RecipeError(str(unknown("cohort", name, list(cohorts))))
        kept = (
            {k: v for k, v in cohorts.get(name, {}).items() if k in ("table", "units", "cone_beam")}
            if isinstance(cohorts.get(name), dict)
            else {}
        )
        known = mirror_of(Path(folder))
        cohorts[name] = {"path": folder if known is None else named(Path(folder)), **kept}
    return plain


def unfrozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: unfrozen(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [unfrozen(v) for v in value]
    return value

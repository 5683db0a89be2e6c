"""Which run is asked of which series, and where its answers go: an ordered list, the first that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..deliver.destinations.settings import destination
from ..deliver.files import plain_yaml

Accept = Literal["person", "unreviewed"]
WORDS = ("modality", "body_part", "protocol", "description")  # attributes of a series by word
ATTRIBUTES = {"modality": "Modality", "body_part": "BodyPartExamined", "protocol": "ProtocolName",
              "description": "SeriesDescription"}  # fmt: skip
RANGES = ("slices", "thickness_mm")
HOW = "Write a list: - {when: {modality: MR}, run: RUN, to: WHERE}"
KEYS = ("when", "run", "to", "accept", "draws", "lossy", "registry", "shift")


@dataclass(frozen=True, slots=True)
class Rule:
    """`words`: each is found in its attribute, in any case; `ranges`: both ends included."""

    words: Mapping[str, str]
    ranges: Mapping[str, tuple[float, float]]
    run: Path
    to: str  # a destination, as `fabrica deliver --to` takes it
    accept: Accept = "person"
    draws: int = 4
    lossy: bool = False  # whether images are taken that were compressed with loss
    shift: Literal["warn", "refuse"] = "warn"  # whether a series unlike those of training is answered, with that said
    registry: Path | None = None  # the folder of approved models, without whose approval nothing is drawn

    def misfit(self, headers: Sequence[Any]) -> str:
        """Why it does not fit a series, or nothing."""
        for name, word in self.words.items():
            for found in sorted({str(h.get(ATTRIBUTES[name], "")).casefold() for h in headers}):
                if word.casefold() not in found or (name == "modality" and word.casefold() != found):
                    said = found.upper() if name == "modality" else "another"  # other words may name somebody
                    return f"{name} is {said if found else 'not said'}, asked for {word}"
        planes = float(sum(int(h.get("NumberOfFrames") or 1) for h in headers))
        for name, (low, high) in self.ranges.items():
            for value in {planes} if name == "slices" else {h.get("SliceThickness") for h in headers}:
                if value is None or not low <= float(value) <= high:
                    said = "not said" if value is None else f"{float(value):g}"
                    return f"{name} is {said}, asked for {low:g} to {high:g}"
        return ""


def read_rules(path: Path) -> list[Rule]:
    """Raises ValueError for a file that says anything that is not known, and for a rule whose run is none."""
    plain = plain_yaml(path, HOW)
    if not isinstance(plain, list) or not plain:
        raise ValueError(f"{path} is no list of rules. {HOW}")
    return [_rule(one, number, path) for number, one in enumerate(plain, 1)]


def _rule(plain: Any, number: int, path: Path) -> Rule:
    where = f"{path}, rule {number}"
    if not isinstance(plain, dict) or not isinstance(plain.get("when", {}), dict):
        raise ValueError(f"{where} is no rule. {HOW}")
    when = plain.get("when", {})
    for strange in (*(set(plain) - set(KEYS)), *(set(when) - {*WORDS, *RANGES})):
        known = f"Known: {', '.join(KEYS)}; in when: {', '.join(WORDS + RANGES)}"
        raise ValueError(f"{where}: {strange} is not known. {known}")
    if missing := [name for name in ("run", "to") if name not in plain]:
        raise ValueError(f"{where}: {missing[0]} is missing.")
    accept, draws, lossy = plain.get("accept", "person"), plain.get("draws", 4), plain.get("lossy", False)
    if accept not in ("person", "unreviewed"):
        raise ValueError(f"{where}: accept is {accept!r}. Write person or unreviewed.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1 or not isinstance(lossy, bool):
        raise ValueError(f"{where}: draws is a number from 1, lossy true or false.")
    shift = plain.get("shift", "warn")
    if shift not in ("warn", "refuse"):
        raise ValueError(f"{where}: shift is {shift!r}. Write warn or refuse.")
    run = path.parent / str(plain["run"])
    if not (run / "recipe.yaml").is_file():
        raise ValueError(f"{where}: {run} is no run. Make one: fabrica run RECIPE")
    to = str(plain["to"])
    to = to if ":" in to.split("/")[0] else str(path.parent / to)
    try:
        destination(to)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    registry = path.parent / str(plain["registry"]) if "registry" in plain else None
    if registry is not None and not registry.is_dir():
        raise ValueError(f"{where}: {registry} is no folder of approved models. Make one: fabrica models {registry}")
    words = {name: str(when[name]) for name in WORDS if name in when}
    ranges = {name: _range(when[name], name, where) for name in RANGES if name in when}
    return Rule(words, ranges, run, to, accept, draws, lossy, shift, registry)


def _range(value: Any, name: str, where: str) -> tuple[float, float]:
    numbers = value if isinstance(value, list) else [value, value]
    if len(numbers) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        raise ValueError(f"{where}: {name} is {value!r}. Write one number, or [lowest, highest].")
    return float(numbers[0]), float(numbers[1])


def chosen(rules: Sequence[Rule], headers: Sequence[Any]) -> tuple[Rule | None, str]:
    """The first rule that fits a series; or none, and why none does."""
    why = []
    for number, rule in enumerate(rules, 1):
        if not (misfit := rule.misfit(headers)):
            return rule, ""
        why.append(f"rule {number}: {misfit}")
    return None, "; ".join(why)

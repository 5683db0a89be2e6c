"""The recipe: what to run, as strict plain data. Everything impossible is refused here, before any data is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from .contracts import Family, Job
from .data.virtual import VirtualCohort
from .evaluate import METRICS
from .families import FAMILIES, RUNTIME
from .jobs import JOBS, job_options
from .networks.unet import UNetShape
from .registry import build, check_options, check_type, refusal, unknown
from .sampling import SAMPLERS

_TOP = ("cohorts", "split", "stages", "evaluate", "seed", "baseline")
_FLAT = ("job", "family", "sampler", "train", "prepare")
_STAGE = (*_FLAT, "cohorts")


class RecipeError(ValueError):
    """What is wrong with a recipe, where, and the line to type instead."""


@dataclass(frozen=True)
class CohortPlan:
    """Where patients come from: a folder with an optional table, or a simulator."""

    path: Path | None = None
    table: Path | None = None
    virtual: VirtualCohort | None = None


@dataclass(frozen=True)
class TrainPlan:
    """How long and how: a budget in steps or in minutes (which become steps once), and the optimiser."""

    steps: int | None = None
    minutes: float | None = None
    batch: int = 8
    learning_rate: float = 1e-3
    average: float = 0.999  # decay of the moving average that draws use
    clip: float = 1.0  # largest gradient norm
    precision: str = "auto"  # auto, bf16, fp32
    checkpoint_minutes: float = 1.0
    start: str | None = None  # a run folder whose weights training starts from


@dataclass(frozen=True)
class PreparePlan:
    """The grid that a network sees: spacing in mm (z, y, x) or (y, x); none = as the scans."""

    spacing_mm: Sequence[float] | None = None
    size: Sequence[int] | None = None  # of training patches (z, y, x) or (y, x); none = the whole patient


@dataclass(frozen=True)
class Named:
    """A name from a table with its options, as it stands in a recipe."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """One job learned by one family on some cohorts."""

    name: str
    job: Named
    family: Named
    sampler: Named | None
    train: TrainPlan
    prepare: PreparePlan
    network: UNetShape
    cohorts: tuple[str, ...]

    def build_job(self) -> Job:
        return build(f"job {self.job.name!r}", JOBS.find(self.job.name), job_options(self.job.options))


@dataclass(frozen=True)
class EvaluatePlan:
    """What is measured on the test part; draws per case."""

    metrics: tuple[str, ...] = ()
    draws: int = 4
    mask: str | None = None  # a label of the cohort: metrics inside it; none = the patient's foreground


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `plain()` gives it back as the data that a run folder keeps."""

    cohorts: Mapping[str, CohortPlan]
    split: Mapping[str, Any]
    stages: tuple[Stage, ...]
    evaluate: EvaluatePlan
    seed: int
    source: Mapping[str, Any]  # the resolved plain data

    def plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = _unfrozen(self.source)
        return plain


def load(path: Path, settings: Sequence[str] = (), data: Sequence[str] = ()) -> Recipe:
    """Read, override (`train.steps=10`), replace cohorts (`DIR` or `NAME=DIR`) and check; raises RecipeError."""
    if not path.is_file():
        raise RecipeError(f"There is no recipe at {path}. See what is there: ls recipes/")
    try:
        plain, lines = _parse(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {str(error).splitlines()[0]}. Check its indentation.") from error
    return from_plain(_override(plain, settings, data), f"{path}", lines)


def from_plain(plain: Mapping[str, Any], where: str = "recipe", lines: Mapping[str, int] | None = None) -> Recipe:
    """Check plain data and build the Recipe; raises RecipeError naming the file, the line and what to type."""
    try:
        return _recipe(plain)
    except _AtError as error:
        line = next((f":{n}" for p in _ancestors(error.at) if (n := (lines or {}).get(p))), "")
        raise RecipeError(f"{where}{line}: {error}") from error


class _AtError(ValueError):
    def __init__(self, at: str, text: str) -> None:
        super().__init__(text)
        self.at = at


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _recipe(plain: Mapping[str, Any]) -> Recipe:
    if not isinstance(plain, Mapping):
        raise _AtError("", "a recipe is a mapping. Write: cohorts: {all: {path: DIR}}")
    flat = "stages" not in plain
    _known(plain, "", (*_TOP, *_FLAT) if flat else _TOP)
    _need(plain, "", "cohorts", "cohorts: {all: {path: DIR}}")
    cohorts = {name: _cohort(value, f"cohorts.{name}") for name, value in _mapping(plain, "", "cohorts").items()}
    stages = {"model": {k: plain[k] for k in _FLAT if k in plain}} if flat else _mapping(plain, "", "stages")
    prefix = "" if flat else "stages."
    built = [_stage(name, value, tuple(cohorts), "" if flat else f"{prefix}{name}") for name, value in stages.items()]
    if not built:
        raise _AtError("stages", "there is no stage. Write: stages: {model: {job: ..., family: ...}}")
    baseline = plain.get("baseline", "regression")
    if baseline not in ("regression", "none"):
        raise _AtError("baseline", f"baseline is {baseline!r}. Write: baseline: regression, or baseline: none")
    if baseline == "regression":
        built += _baselines(built)
    evaluate = _dataclass(EvaluatePlan, plain.get("evaluate", {}), "evaluate", tuples=("metrics",))
    for name in evaluate.metrics:
        _guard("evaluate.metrics", lambda name=name: METRICS.find(name))
    _whole(evaluate.draws, "evaluate.draws")
    seed = plain.get("seed", 0)
    _guard("seed", lambda: check_type("seed", seed, int))
    split = _split(plain.get("split", {"train": 0.8, "test": 0.2}))
    return Recipe(cohorts, split, tuple(built), evaluate, seed, plain)


def _baselines(stages: Sequence[Stage]) -> list[Stage]:
    """A regression stage beside every job that regression can answer and that has none."""
    names = {s.job.name for s in stages if s.family.name == "regression"}
    return [
        replace(s, name=f"{s.name}-baseline", family=Named("regression"), sampler=None)
        for s in stages
        if s.family.name != "regression" and s.job.name not in names and s.job.name != "synthesis"
    ]


def _stage(name: str, value: Any, cohorts: tuple[str, ...], at: str) -> Stage:
    dot = f"{at}." if at else ""
    if not isinstance(value, Mapping):
        raise _AtError(at, f"stage {name!r} is {value!r}. Write: {name}: {{job: ..., family: ...}}")
    _known(value, at, _STAGE if at else _FLAT)
    _need(value, at, "job", "job: {name: translation, from: [T1w], x: [FLAIR]}")
    _need(value, at, "family", "family: {name: flow}")
    job, family = _named(value["job"], f"{dot}job"), _named(value["family"], f"{dot}family")
    job_class = _guard(f"{dot}job.name", lambda: JOBS.find(job.name))
    made = _guard(f"{dot}job", lambda: build(f"job {job.name!r}", job_class, job_options(job.options)))
    family_class = _guard(f"{dot}family.name", lambda: FAMILIES.find(family.name))
    options = dict(family.options)
    network = _dataclass(UNetShape, options.pop("network", {}), f"{dot}family.network", tuples=("channels",))
    family = Named(family.name, options)
    _guard(f"{dot}family", lambda: check_options(f"family {family.name!r}", family_class, options, RUNTIME))
    sampler = _named(value["sampler"], f"{dot}sampler") if "sampler" in value else None
    _check_sampler(sampler, family_class, made, f"{dot}sampler")
    train = _dataclass(TrainPlan, value.get("train", {}), f"{dot}train")
    _check_train(train, f"{dot}train")
    used = value.get("cohorts", list(cohorts))
    for cohort in used:
        if cohort not in cohorts:
            raise _AtError(f"{dot}cohorts", str(unknown("cohort", str(cohort), list(cohorts))))
    prepare = _dataclass(PreparePlan, value.get("prepare", {}), f"{dot}prepare")
    _check_prepare(prepare, made.signature().axes, f"{dot}prepare")
    return Stage(name, job, family, sampler, train, prepare, network, tuple(used))


def _check_sampler(sampler: Named | None, family: type[Family], job: Job, at: str) -> None:
    measured = job.signature().measurements
    known = None
    if sampler is not None:
        known = _guard(f"{at}.name", lambda: SAMPLERS.find(sampler.name))
        _guard(
            at,
            lambda: check_options(
                f"sampler {sampler.name!r}", known.draw, sampler.options, ("prior", "problem", "rng")
            ),
        )
    if reason := refusal(family, known, measured):
        raise _AtError(at, f"{reason} Leave the sampler out, or write: family: {{name: flow}}")


def _check_train(train: TrainPlan, at: str) -> None:
    if train.steps is not None and train.minutes is not None:
        raise _AtError(at, "train has steps and minutes. Keep one: train: {minutes: 5}")
    if train.steps is None and train.minutes is None:
        raise _AtError(at, "train has no budget. Write: train: {minutes: 5}")
    if (train.steps or 1) < 1 or (train.minutes or 1) <= 0 or train.batch < 1 or train.learning_rate <= 0:
        raise _AtError(
            at, "train.steps, minutes, batch and learning_rate must be positive. Write: train: {minutes: 5, batch: 8}"
        )
    if train.precision not in ("auto", "bf16", "fp32"):
        raise _AtError(
            f"{at}.precision", f"train.precision is {train.precision!r}. Write: precision: auto, bf16 or fp32"
        )
    if not 0 <= train.average < 1:
        raise _AtError(
            f"{at}.average", f"train.average is {train.average}, expected a decay in [0, 1). Write: average: 0.999"
        )


def _check_prepare(prepare: PreparePlan, axes: str, at: str) -> None:
    wanted = (2, 3) if axes == "yx" else (3,)
    for name, value in (("spacing_mm", prepare.spacing_mm), ("size", prepare.size)):
        if value is not None and (len(value) not in wanted or any(v <= 0 for v in value)):
            raise _AtError(
                f"{at}.{name}", f"prepare.{name} is {list(value)}, expected {wanted[-1]} positive numbers (z, y, x)."
            )
    if prepare.spacing_mm is not None and not all(0.05 <= s <= 50 for s in prepare.spacing_mm):
        raise _AtError(
            f"{at}.spacing_mm",
            f"prepare.spacing_mm is {list(prepare.spacing_mm)}; is the unit mm? Expected 0.05 to 50.",
        )
    if prepare.size is not None and any(v % 8 for v in prepare.size[-2:]):
        raise _AtError(f"{at}.size", f"prepare.size is {list(prepare.size)}, expected multiples of 8, better of 16.")


def _cohort(value: Any, at: str) -> CohortPlan:
    if not isinstance(value, Mapping) or ("path" in value) == ("virtual" in value):
        raise _AtError(
            at, "a cohort has either a path or a virtual block. Write: {path: DIR} or {virtual: {patients: 24}}"
        )
    _known(value, at, ("path", "table", "virtual"))
    if "virtual" in value:
        virtual = _dataclass(VirtualCohort, value["virtual"], f"{at}.virtual")
        _guard(f"{at}.virtual", virtual.cohort)
        return CohortPlan(virtual=virtual)
    table = value.get("table")
    return CohortPlan(Path(str(value["path"])).expanduser(), Path(str(table)).expanduser() if table else None)


def _split(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _AtError("split", f"split is {value!r}. Write: split: {{train: 0.8, test: 0.2}}")
    _known(value, "split", ("unit", "train", "validate", "calibrate", "test", "by"))
    if value.get("unit", "patient") != "patient":
        raise _AtError(
            "split.unit", f"split.unit is {value['unit']!r}; slices of one patient would leak. Write: unit: patient"
        )
    parts = {k: v for k, v in value.items() if k not in ("unit", "by")}
    names = [isinstance(v, list) for v in parts.values()]
    if any(names) and not all(names):
        raise _AtError("split", "split mixes names and fractions. Write: split: {train: [p07], test: [p19]}")
    if not any(names):
        for part, share in parts.items():
            _guard(f"split.{part}", lambda part=part, share=share: check_type(f"split.{part}", share, float))
        if not 0 < sum(parts.values()) <= 1 + 1e-6 or min(parts.values()) < 0:
            raise _AtError(
                "split",
                f"split adds up to {sum(parts.values()):g}, expected at most 1. Write: split: {{train: 0.8, test: 0.2}}",
            )
    return value


def _named(value: Any, at: str) -> Named:
    if isinstance(value, str):
        return Named(value)
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise _AtError(at, f"{at or 'value'} has no name. Write: {at.rpartition('.')[2]}: {{name: ...}}")
    return Named(value["name"], {k: v for k, v in value.items() if k != "name"})


def _dataclass(kind: type[Any], value: Any, at: str, tuples: Sequence[str] = ()) -> Any:
    if not isinstance(value, Mapping):
        raise _AtError(at, f"{at} is {value!r}, expected a mapping. Write: {at.rpartition('.')[2]}: {{...}}")
    _known(value, at, [f.name for f in fields(kind)])
    _guard(at, lambda: check_options(at, kind, value, ()))
    return kind(**{k: tuple(v) if k in tuples or isinstance(v, list) else v for k, v in value.items()})


def _known(value: Mapping[str, Any], at: str, known: Sequence[str]) -> None:
    for key in value:
        if key not in known:
            raise _AtError(f"{at}.{key}" if at else str(key), str(unknown("key", str(key), list(known))))


def _need(value: Mapping[str, Any], at: str, key: str, line: str) -> None:
    if key not in value:
        raise _AtError(at, f"{key} is missing. Write: {line}")


def _mapping(value: Mapping[str, Any], at: str, key: str) -> Mapping[str, Any]:
    inner = value[key]
    if not isinstance(inner, Mapping) or not inner:
        raise _AtError(key, f"{key} is {inner!r}, expected a mapping with at least one entry.")
    return inner


def _whole(value: int, at: str) -> None:
    if value < 1:
        raise _AtError(at, f"{at} is {value}, expected at least 1.")


def _guard(at: str, ask: Any) -> Any:
    try:
        return ask()
    except _AtError:
        raise
    except ValueError as error:
        raise _AtError(at, str(error)) from error


# ---------------------------------------------------------------- YAML with line numbers, and overrides


def _parse(text: str) -> tuple[Any, dict[str, int]]:
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


def _override(plain: Any, settings: Sequence[str], data: Sequence[str]) -> Any:
    plain = _unfrozen(plain)
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
            {k: v for k, v in cohorts.get(name, {}).items() if k == "table"}
            if isinstance(cohorts.get(name), dict)
            else {}
        )
        cohorts[name] = {"path": folder, **kept}
    return plain


def _unfrozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _unfrozen(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_unfrozen(v) for v in value]
    return value

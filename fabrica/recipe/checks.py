"""The recipe: what to run, as strict plain data. Everything impossible is refused here, before any data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..contracts import Denoiser, Density, Family, Job
from ..data.units import check_unit
from ..data.virtual import VirtualCohort
from ..evaluate import METRICS
from ..families import FAMILIES, RUNTIME, can_be_guided
from ..jobs import JOBS, job_options
from ..networks.unet import UNetShape
from ..registry import build, check_options, check_type, refusal, unknown
from ..sampling import SAMPLERS
from .short_form import written_out
from .stages import check_window, in_order, unmade, words
from .strict import AtError, ancestors, dataclass_of, guard, known_keys, mapping, named, need, whole
from .text import RecipeError, override, parse
from .values import (
    CohortPlan,
    EvaluatePlan,
    GuidancePlan,
    InputPlan,
    Named,
    PreparePlan,
    Recipe,
    Stage,
    TrainedPlan,
    TrainPlan,
)

_TOP = ("cohorts", "split", "stages", "evaluate", "seed", "baseline")
_FLAT = ("job", "pairing", "family", "sampler", "guidance", "train", "prepare")
_STAGE = (*_FLAT, "cohorts", "input")


def load(
    path: Path, settings: Sequence[str] = (), data: Sequence[str] = (), units: Mapping[str, str] | None = None
) -> Recipe:
    """Read, override (`train.steps=10`), replace cohorts (`DIR` or `NAME=DIR`), say units, check; raises RecipeError."""
    if not path.is_file():
        raise RecipeError(f"There is no recipe at {path}. See what is there: ls recipes/")
    try:
        plain, lines = parse(path.read_text())
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {str(error).splitlines()[0]}. Check its indentation.") from error
    plain = override(plain, settings, data)
    for cohort in plain.get("cohorts", {}).values() if units and isinstance(plain.get("cohorts"), dict) else ():
        if isinstance(cohort, dict) and "path" in cohort:
            cohort["units"] = {**cohort.get("units", {}), **(units or {})}
    return from_plain(plain, f"{path}", lines)


def from_plain(plain: Mapping[str, Any], where: str = "recipe", lines: Mapping[str, int] | None = None) -> Recipe:
    """Check plain data and build the Recipe; raises RecipeError naming the file, the line and what to type."""
    try:
        return _recipe(plain)
    except AtError as error:
        flat = (
            isinstance(plain, Mapping) and "stages" not in plain
        )  # of a short recipe what it wrote is named, not what it stands for
        at, text = (re.sub(r"stages\.(codec|model)\.", "", t) if flat else t for t in (error.at, str(error)))
        line = next((f":{n}" for p in ancestors(at) if (n := (lines or {}).get(p))), "")
        raise RecipeError(f"{where}{line}: {text}") from error


def _recipe(plain: Mapping[str, Any]) -> Recipe:
    if not isinstance(plain, Mapping):
        raise AtError("", "a recipe is a mapping. Write: cohorts: {all: {path: DIR}}")
    known_keys(plain, "", _TOP if "stages" in plain else (*_TOP, *_FLAT))
    as_written, plain = plain, written_out(plain)
    flat = "stages" not in plain
    need(plain, "", "cohorts", "cohorts: {all: {path: DIR}}")
    cohorts = {name: _cohort(value, f"cohorts.{name}") for name, value in mapping(plain, "", "cohorts").items()}
    stages = {"model": {k: plain[k] for k in _FLAT if k in plain}} if flat else mapping(plain, "", "stages")
    prefix = "" if flat else "stages."
    built = [_stage(name, value, tuple(cohorts), "" if flat else f"{prefix}{name}") for name, value in stages.items()]
    if not built:
        raise AtError("stages", "there is no stage. Write: stages: {model: {job: ..., family: ...}}")
    built = in_order(built)
    baseline = plain.get("baseline", "regression")
    if baseline not in ("regression", "none"):
        raise AtError("baseline", f"baseline is {baseline!r}. Write: baseline: regression, or baseline: none")
    if baseline == "regression":
        built += _baselines(built) if as_written is plain else _of_whole(_baselines(built), built, as_written)
    evaluate = dataclass_of(EvaluatePlan, plain.get("evaluate", {}), "evaluate", tuples=("metrics", "evaluations"))
    for name in evaluate.metrics:
        guard("evaluate.metrics", lambda name=name: METRICS.find(name))
    whole(evaluate.draws, "evaluate.draws")
    if type(evaluate.realism) is not int or evaluate.realism < 0:
        raise AtError(
            "evaluate.realism", f"{evaluate.realism!r} is no number of pictures. Write: realism: 60, or 0 for none"
        )
    _check_likelihood(evaluate.likelihood, built)
    for count in evaluate.evaluations or ():
        whole(count, "evaluate.evaluations")
    check_window(evaluate.window, built)
    seed = plain.get("seed", 0)
    guard("seed", lambda: check_type("seed", seed, int))
    split = _split(plain.get("split", {"train": 0.8, "test": 0.2}), list(cohorts))
    return Recipe(cohorts, split, tuple(built), evaluate, seed, as_written)


def _baselines(stages: Sequence[Stage]) -> list[Stage]:
    """A regression stage beside every job that regression can answer and that has none."""
    names = {s.job.name for s in stages if s.family.name == "regression"}
    return [
        replace(
            s,
            name=f"{s.name}-baseline",
            family=Named("regression"),
            sampler=None,
            guidance=None,
            codec=None,
            equalised=0.0,
        )
        for s in stages
        if s.paired
        and s.family.name != "regression"
        and s.job.name not in names
        and s.build_job().baseline
        and not s.trained
    ]


def _of_whole(baselines: Sequence[Stage], stages: Sequence[Stage], as_written: Mapping[str, Any]) -> list[Stage]:
    """Baselines of a recipe that was written out: its own network and budget, not what codes left of them."""
    network = next(s.network for s in stages if s.codec is None)
    train = dataclass_of(TrainPlan, as_written.get("train", {}), "train")
    return [replace(b, network=network, train=train) for b in baselines]


def _stage(name: str, value: Any, cohorts: tuple[str, ...], at: str) -> Stage:
    dot = f"{at}." if at else ""
    _check_name(str(name), at)
    if not isinstance(value, Mapping):
        raise AtError(at, f"stage {name!r} is {value!r}. Write: {name}: {{job: ..., family: ...}}")
    known_keys(value, at, _STAGE if at else _FLAT)
    need(value, at, "job", "job: {name: translation, from: [T1w], x: [FLAIR]}")
    need(value, at, "family", "family: {name: flow}")
    job = named(value["job"], f"{dot}job")
    job_class = guard(f"{dot}job.name", lambda: JOBS.find(job.name))
    if job.name == "synthesis" and "from" in job.options:
        raise AtError(
            f"{dot}job.from", "synthesis is given no image. Write: job: {name: translation, from: [...], x: [...]}, with classes, covariates "
            "and words in its values: {by: ..., covariates: ..., text: ...}",
        )  # fmt: skip
    made = guard(f"{dot}job", lambda: build(f"job {job.name!r}", job_class, job_options(job.options)))
    trained = _trained(value, dot)
    codec, equalised = _inner(value["family"], f"{dot}family.in")
    family, network = _family_of(trained, made, f"{dot}family") if trained else _family(value["family"], f"{dot}family")
    kind = FAMILIES.find(family.name)
    if codec is None:
        _check_kinds(made, kind, f"{dot}family")
    if kind.unpaired and (codec or equalised):
        raise AtError(
            f"{dot}family.in",
            f"{kind.__name__} compares with images as they are, so it needs x as they are. Leave in out",
        )
    if equalised:
        _check_equalised(made, f"{dot}family.in")
    paired = _pairing(value.get("pairing", "patient"), kind, f"{dot}pairing")
    blank = None
    if not trained and codec is None:
        blank = guard(f"{dot}family", lambda: unmade(family, made.signature(), network))
    sampler = named(value["sampler"], f"{dot}sampler") if "sampler" in value else None
    _check_sampler(sampler, kind, made, f"{dot}sampler")
    train = dataclass_of(TrainPlan, value.get("train", {}), f"{dot}train")
    if trained is None:
        _check_train(train, f"{dot}train")
    used = value.get("cohorts", list(cohorts))
    for cohort in used:
        if cohort not in cohorts:
            raise AtError(f"{dot}cohorts", str(unknown("cohort", str(cohort), list(cohorts))))
    prepare = dataclass_of(PreparePlan, value.get("prepare", {}), f"{dot}prepare")
    _check_prepare(prepare, made.signature().grid_axes, f"{dot}prepare")
    if blank is not None:
        _check_multiple(prepare, blank, len(made.signature().grid_axes), f"{dot}prepare")
    given = dataclass_of(InputPlan, value["input"], f"{dot}input") if "input" in value else None
    guidance = _guidance(value["guidance"], made, kind, f"{dot}guidance") if "guidance" in value else None
    return Stage(
        name, job, family, sampler, train, prepare, network, tuple(used), given, trained, guidance, codec, paired, equalised
    )  # fmt: skip


def _check_kinds(job: Job, family: type[Family], at: str) -> None:
    """A family is refused a kind of x that it cannot learn."""
    for asked in job.signature().x:
        if asked.kind not in family.learns:
            able = [n for n in FAMILIES.builtin if asked.kind in FAMILIES.builtin[n].learns]
            write = f"Write: family: {{name: {able[0]}}}"
            if asked.kind == "intensity" and "label" in family.learns:
                write = f"Give it words: family: {{name: {family.__name__.lower()}, in: {{stage: codec}}}}, as in recipes/words.yaml"
            raise AtError(at, f"{family.__name__} cannot learn {asked.name}, {asked.kind}. {write}")


def _inner(value: Any, at: str) -> tuple[str | None, float]:
    """What a family works in: `in: {stage: codec}`, or `in: {equalised: 0.5}` as (None, share)."""
    if not isinstance(value, Mapping) or "in" not in value:
        return None, 0.0
    inner = value["in"]
    if not isinstance(inner, Mapping) or set(inner) not in ({"stage"}, {"equalised"}):
        raise AtError(
            at,
            f"family.in is {inner!r}. Write: in: {{stage: codec}}, in: {{equalised: 0.5}}, or in a recipe without stages in: vae",
        )
    if "stage" in inner:
        return str(inner["stage"]), 0.0
    share = inner["equalised"]
    if type(share) not in (int, float) or not 0 < share < 1:
        raise AtError(
            at, f"family.in.equalised is {share!r}, expected above 0 and below 1. Write: in: {{equalised: 0.5}}"
        )
    return None, float(share)


def _check_equalised(job: Job, at: str) -> None:
    """Refused where nothing can be equalised, or what x is compared with would stay on another scale."""
    signature = job.signature()
    if all(f.kind != "intensity" for f in signature.x):
        raise AtError(at, f"{words(signature.x)} has no intensities to equalise. Leave in out")
    if signature.measurements:
        raise AtError(at, "measurements are of intensities as they are. Leave in out")


def _pairing(value: Any, family: type[Family], at: str) -> bool:
    """Whether targets are of the condition's patient; refused where the family needs the other."""
    if value not in ("patient", "none"):
        raise AtError(at, f"pairing is {value!r}. Write: pairing: none, or leave it out")
    if value == "none" and not family.unpaired:
        raise AtError(at, f"{family.__name__} needs pairs. Write: family: {{name: cycle}}")
    if value == "patient" and family.unpaired:
        raise AtError(at, f"{family.__name__} learns without pairs. Write: pairing: none")
    return bool(value == "patient")


def _guidance(value: Any, job: Job, family: type[Family], at: str) -> GuidancePlan:
    """Refused where the family draws in no steps, or training never hides what guidance leaves out."""
    plan: GuidancePlan = dataclass_of(GuidancePlan, value, at)
    if not can_be_guided(family):
        raise AtError(
            at, f"guidance needs draws made step by step, {family.__name__} has none. Write: family: {{name: flow}}"
        )
    if not issubclass(family, Denoiser) and (band := {"low", "high"} & set(value)):
        raise AtError(
            at,
            f"guidance has {', '.join(sorted(band))}, noise levels that {family.__name__} does not have. "
            f"Write: guidance: {{strength: {plan.strength:g}}}",
        )
    if not job.hidden:
        raise AtError(at, "guidance needs a job that hides its condition in training. Write: job: {..., drop: 0.1}")
    if not (plan.strength > 0 and 0 <= plan.low < plan.high):
        raise AtError(
            at,
            f"guidance is {plan.strength} from {plan.low} to {plan.high}, expected a strength above 0 and low < high. "
            "Write: guidance: {strength: 2}",
        )
    return plan


def _family(value: Any, at: str) -> tuple[Named, UNetShape]:
    family = named(value, at)
    family_class = guard(f"{at}.name", lambda: FAMILIES.find(family.name))
    options = {k: v for k, v in family.options.items() if k != "in"}
    network = dataclass_of(UNetShape, options.pop("network", {}), f"{at}.network", tuples=("channels",))
    guard(at, lambda: check_options(f"family {family.name!r}", family_class, options, RUNTIME))
    return Named(family.name, options), network


def _trained(value: Mapping[str, Any], dot: str) -> TrainedPlan | None:
    """`family: {run: runs/0007, stage: prior}`; what such a stage cannot have is refused."""
    if not isinstance(value["family"], Mapping) or "run" not in value["family"]:
        return None
    plain = {k: Path(str(v)).expanduser() if k == "run" else v for k, v in value["family"].items()}
    for key, instead in (
        ("train", "Take train out, or train on: train: {start: RUN/stages/STAGE, ...}"),
        ("prepare", "Take prepare out: it comes from the run"),
    ):
        if key in value:
            raise AtError(f"{dot}{key}", f"a family from another run is used as it is. {instead}")
    plan: TrainedPlan = dataclass_of(TrainedPlan, plain, f"{dot}family")
    return plan


def _family_of(trained: TrainedPlan, job: Job, at: str) -> tuple[Named, UNetShape]:
    """The family of another run's stage; raises when there is none or its x, axes or condition are not this job's."""
    file = trained.run / "recipe.yaml"
    if not file.is_file():
        raise AtError(f"{at}.run", f"{trained.run} is not a run: it holds no recipe.yaml. See: ls {trained.run.parent}")
    stages = guard(f"{at}.run", lambda: _stages_of(file))
    if trained.stage not in stages:
        raise AtError(f"{at}.stage", str(unknown(f"stage of {trained.run}", trained.stage, list(stages))))
    _check_name(trained.stage, f"{at}.stage")
    stage = stages[trained.stage]
    if not isinstance(stage, Mapping) or not {"job", "family"} <= set(stage):
        raise AtError(f"{at}.run", f"{file} is damaged: its stage {trained.stage} has no job and family. Name another.")
    if "in" in stage["family"]:
        inner = stage["family"]["in"] if isinstance(stage["family"], Mapping) else None
        equalised = isinstance(inner, Mapping) and "equalised" in inner
        what = "its run's equalised intensities" if equalised else "another stage's codes"
        raise AtError(
            at, f"{trained.stage} of {trained.run} works in {what} and is used there: fabrica generate {trained.run}"
        )
    if "run" in stage["family"]:
        raise AtError(at, f"{trained.stage} of {trained.run} was trained in another run. Name that: {stage['family']}")
    other_job = named(stage["job"], at)
    other = guard(at, lambda: build(at, JOBS.find(other_job.name), job_options(other_job.options))).signature()
    mine = job.signature()
    for part in ("x", "axes", "condition"):
        if getattr(mine, part) != getattr(other, part):
            raise AtError(
                at,
                f"the family of {trained.run} answers another {part}: {words(getattr(other, part))}, this job has "
                f"{words(getattr(mine, part))}. Write its job: job: {dict(stage['job'])}",
            )
    return _family(stage["family"], at)


def _stages_of(file: Path) -> Mapping[str, Any]:
    """The stages of a run's recipe; raises ValueError when it cannot be read."""
    try:
        plain = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read ({type(error).__name__}). Copy the run again, or name another."
        ) from error
    if not isinstance(plain, Mapping) or not isinstance(plain.get("stages", {}), Mapping):
        raise ValueError(f"{file} is damaged: it is no recipe. Copy the run again, or name another.")
    written = written_out(plain)
    stages: Mapping[str, Any] = written.get("stages") or {"model": written}
    return stages


def _check_name(name: str, at: str) -> None:
    """Names become folders: letters, digits, '_', '-' and '.', a letter or digit first."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise AtError(at, f"{name!r} cannot name a folder. Use letters, digits, _ and -, such as: to_flair")


def _check_sampler(sampler: Named | None, family: type[Family], job: Job, at: str) -> None:
    measured = job.signature().measurements
    known = None
    if sampler is not None:
        known = guard(f"{at}.name", lambda: SAMPLERS.find(sampler.name))
        guard(
            at,
            lambda: check_options(
                f"sampler {sampler.name!r}", known.draw, sampler.options, ("prior", "problem", "rng")
            ),
        )
    if reason := refusal(family, known, measured):
        raise AtError(at, f"{reason} Leave the sampler out, or write: family: {{name: flow}}")


def _check_likelihood(cases: int, stages: Sequence[Stage]) -> None:
    at = "evaluate.likelihood"
    if type(cases) is not int or cases < 0:
        raise AtError(at, f"{cases!r} is no number of cases. Write: likelihood: 8, or 0 for none")
    if cases and not any(issubclass(FAMILIES.find(s.family.name), Density) for s in stages):
        known = ", ".join(sorted({s.family.name for s in stages}))
        raise AtError(at, f"{known} knows no chances. Leave likelihood out, or write: family: {{name: autoregressive}}")


def _check_train(train: TrainPlan, at: str) -> None:
    if train.steps is not None and train.minutes is not None:
        raise AtError(at, "train has steps and minutes. Keep one: train: {minutes: 5}")
    if train.steps is None and train.minutes is None:
        raise AtError(at, "train has no budget. Write: train: {minutes: 5}")
    amounts = (train.steps, train.minutes, train.batch, train.learning_rate)
    if any(amount is not None and amount <= 0 for amount in amounts):
        raise AtError(
            at, "train.steps, minutes, batch and learning_rate must be positive. Write: train: {minutes: 5, batch: 8}"
        )
    if train.precision not in ("auto", "bf16", "fp32"):
        raise AtError(
            f"{at}.precision", f"train.precision is {train.precision!r}. Write: precision: auto, bf16 or fp32"
        )
    if not 0 <= train.augment <= 3:
        raise AtError(
            f"{at}.augment", f"train.augment is {train.augment}, expected a strength from 0 to 3. Write: augment: 1"
        )
    if not 0 <= train.average < 1:
        raise AtError(
            f"{at}.average", f"train.average is {train.average}, expected a decay in [0, 1). Write: average: 0.999"
        )


def _check_prepare(prepare: PreparePlan, axes: str, at: str) -> None:
    wanted = (2, 3) if axes == "yx" else (3,)
    whole(prepare.multiple, f"{at}.multiple")
    for name, value in (("spacing_mm", prepare.spacing_mm), ("size", prepare.size)):
        if value is not None and (len(value) not in wanted or any(v <= 0 for v in value)):
            raise AtError(
                f"{at}.{name}", f"prepare.{name} is {list(value)}, expected {wanted[-1]} positive numbers (z, y, x)."
            )
    if prepare.spacing_mm is not None and not all(0.05 <= s <= 50 for s in prepare.spacing_mm):
        raise AtError(
            f"{at}.spacing_mm",
            f"prepare.spacing_mm is {list(prepare.spacing_mm)}; is the unit mm? Expected 0.05 to 50.",
        )
    if prepare.size is not None and any(v % 8 for v in prepare.size[-2:]):
        raise AtError(f"{at}.size", f"prepare.size is {list(prepare.size)}, expected multiples of 8, better of 16.")


def _check_multiple(prepare: PreparePlan, family: Family, axes: int, at: str) -> None:
    """Sides of the grid, or of training patches, are what the network can be called with."""
    needed = family.multiple
    if prepare.size is None and prepare.multiple % needed:
        raise AtError(
            f"{at}.multiple", f"prepare.multiple is {prepare.multiple}, and the network needs sides that are multiples of {needed}. "
            f"Write: prepare: {{multiple: {needed}}}, or fewer levels",
        )  # fmt: skip
    if prepare.size is not None and any(side % needed for side in prepare.size[-axes:]):
        raise AtError(
            f"{at}.size", f"prepare.size is {list(prepare.size)}, and the network needs sides that are multiples of {needed}. "
            "Round them up, or use fewer levels",
        )  # fmt: skip


def _cohort(value: Any, at: str) -> CohortPlan:
    if not isinstance(value, Mapping) or ("path" in value) == ("virtual" in value):
        raise AtError(
            at, "a cohort has either a path or a virtual block. Write: {path: DIR} or {virtual: {patients: 24}}"
        )
    known_keys(value, at, ("path", "table", "virtual", "units"))
    if "virtual" in value:
        virtual = dataclass_of(VirtualCohort, value["virtual"], f"{at}.virtual")
        guard(f"{at}.virtual", virtual.cohort)
        return CohortPlan(virtual=virtual)
    table, units = value.get("table"), value.get("units", {})
    guard(f"{at}.units", lambda: check_type(f"{at}.units", units, Mapping[str, str]))
    said = {str(n): guard(f"{at}.units", lambda n=n, u=u: check_unit(str(n), u)) for n, u in units.items()}
    return CohortPlan(
        Path(str(value["path"])).expanduser(), Path(str(table)).expanduser() if table else None, units=said
    )


def _split(value: Any, cohorts: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise AtError("split", f"split is {value!r}. Write: split: {{train: 0.8, test: 0.2}}")
    known_keys(value, "split", ("unit", "train", "validate", "calibrate", "test", "by", "only_train", "seed"))
    only = value.get("only_train", [])
    if not isinstance(only, list):
        raise AtError("split.only_train", f"split.only_train is {only!r}. Write: only_train: [{cohorts[0]}]")
    for name in only:
        if name not in cohorts:
            raise AtError("split.only_train", str(unknown("cohort", str(name), cohorts)))
    guard("split.seed", lambda: check_type("split.seed", value.get("seed", 0), int))
    if value.get("unit", "patient") != "patient":
        raise AtError(
            "split.unit", f"split.unit is {value['unit']!r}; slices of one patient would leak. Write: unit: patient"
        )
    parts = {k: v for k, v in value.items() if k not in ("unit", "by", "only_train", "seed")}
    names = [isinstance(v, list) for v in parts.values()]
    if any(names) and not all(names):
        raise AtError("split", "split mixes names and fractions. Write: split: {train: [p07], test: [p19]}")
    if not any(names):
        for part, share in parts.items():
            guard(f"split.{part}", lambda part=part, share=share: check_type(f"split.{part}", share, float))
        if not 0 < sum(parts.values()) <= 1 + 1e-6 or min(parts.values()) < 0:
            raise AtError(
                "split",
                f"split adds up to {sum(parts.values()):g}, expected at most 1. Write: split: {{train: 0.8, test: 0.2}}",
            )
    return value

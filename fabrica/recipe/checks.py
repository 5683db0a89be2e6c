"""The recipe: what to run, as strict plain data. Everything impossible is refused here, before any data is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from ..contracts import Denoiser, Density, Family, Job, Speaker
from ..evaluate import METRICS
from ..evaluate.judging.constraints import Constraint
from ..evaluate.judging.dose_check import DoseCheck
from ..families import FAMILIES, can_be_guided
from ..families.losses import REGIONAL
from ..jobs import JOBS, job_options
from ..registry import build, check_options, check_type, refusal, unknown
from ..sampling import SAMPLERS
from .borrowed import family_of, trained_plan
from .computed import computed_stages, computes
from .parts import (
    check_control,
    check_multiple,
    check_name,
    check_prepare,
    check_train,
    cohort_plan,
    family_named,
    is_paired,
    split_plan,
    train_plan,
)
from .short_form import written_out
from .stages import check_overlap, check_window, in_order, input_plans, unmade, words
from .strict import AtError, ancestors, dataclass_of, guard, known_keys, mapping, named, need, whole
from .text import RecipeError, override, parse
from .values import (
    ComputedStage,
    EvaluatePlan,
    GuidancePlan,
    LesionPlan,
    Named,
    PreparePlan,
    Recipe,
    Stage,
)

_TOP = ("cohorts", "split", "stages", "evaluate", "seed", "baseline")
_FLAT = ("job", "pairing", "family", "sampler", "guidance", "train", "prepare")
_STAGE = (*_FLAT, "cohorts", "input", "inputs")


def load(
    path: Path, settings: Sequence[str] = (), data: Sequence[str] = (), units: Mapping[str, str] | None = None
) -> Recipe:
    """Read, override (`train.steps=10`), replace cohorts (`DIR` or `NAME=DIR`), say units, check; raises
    RecipeError.
    """
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
    cohorts = {name: cohort_plan(value, f"cohorts.{name}") for name, value in mapping(plain, "", "cohorts").items()}
    stages = {"model": {k: plain[k] for k in _FLAT if k in plain}} if flat else mapping(plain, "", "stages")
    prefix = "" if flat else "stages."
    learning = {name: value for name, value in stages.items() if not computes(value)}
    built = [_stage(name, value, tuple(cohorts), "" if flat else f"{prefix}{name}") for name, value in learning.items()]
    built = in_order(built)
    computed = computed_stages({name: value for name, value in stages.items() if computes(value)}, built)
    baseline = plain.get("baseline", "regression")
    if baseline not in ("regression", "none"):
        raise AtError("baseline", f"baseline is {baseline!r}. Write: baseline: regression, or baseline: none")
    if baseline == "regression":
        built += _baselines(built) if as_written is plain else _of_whole(_baselines(built), built, as_written)
    evaluate = _evaluate(plain.get("evaluate", {}), built, computed)
    for name in evaluate.metrics:
        guard("evaluate.metrics", lambda name=name: METRICS.find(name))
    whole(evaluate.draws, "evaluate.draws")
    if type(evaluate.realism) is not int or evaluate.realism < 0:
        raise AtError(
            "evaluate.realism", f"{evaluate.realism!r} is no number of pictures. Write: realism: 60, or 0 for none"
        )
    _check_likelihood(evaluate.likelihood, built)
    _check_coverage(evaluate.coverage, plain)
    _check_paths(evaluate.paths, built)
    for count in evaluate.evaluations or ():
        whole(count, "evaluate.evaluations")
    check_window(evaluate.window, built)
    check_overlap(evaluate.overlap)
    seed = plain.get("seed", 0)
    guard("seed", lambda: check_type("seed", seed, int))
    shares = {"test": 1.0} if all(stage.trained for stage in built) else {"train": 0.8, "test": 0.2}
    split = split_plan(plain.get("split", shares), list(cohorts))
    return Recipe(cohorts, split, tuple(built), evaluate, seed, as_written, computed)


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
    train = train_plan(as_written.get("train", {}), "train")
    return [replace(b, network=network, train=train) for b in baselines]


def _stage(name: str, value: Any, cohorts: tuple[str, ...], at: str) -> Stage:
    dot = f"{at}." if at else ""
    check_name(str(name), at)
    if not isinstance(value, Mapping):
        raise AtError(at, f"stage {name!r} is {value!r}. Write: {name}: {{job: ..., family: ...}}")
    known_keys(value, at, _STAGE if at else _FLAT)
    need(value, at, "job", "job: {name: translation, from: [T1w], x: [FLAIR]}")
    need(value, at, "family", "family: {name: flow}")
    job, made = _job(value["job"], f"{dot}job")
    trained = trained_plan(value, dot)
    codec, equalised = _inner(value["family"], f"{dot}family.in")
    family, network = (
        family_of(trained, made, f"{dot}family") if trained else family_named(value["family"], f"{dot}family")
    )
    kind = FAMILIES.find(family.name)
    if codec is None:
        _check_kinds(made, kind, f"{dot}family")
    if codec or equalised:
        _check_within(made, kind, equalised, f"{dot}family.in")
    _check_regional(family, job, made, f"{dot}family.losses")
    paired = is_paired(value.get("pairing", "patient"), kind, f"{dot}pairing")
    blank = None
    if not trained and codec is None:
        blank = guard(f"{dot}family", lambda: unmade(family, made.signature(), network))
    sampler = named(value["sampler"], f"{dot}sampler") if "sampler" in value else None
    _check_sampler(sampler, kind, made, f"{dot}sampler")
    train = train_plan(value.get("train", {}), f"{dot}train")
    if trained is None:
        check_train(train, f"{dot}train")
        check_control(network, train, codec or equalised, f"{dot}family.network.control")
    used = value.get("cohorts", list(cohorts))
    for cohort in used:
        if cohort not in cohorts:
            raise AtError(f"{dot}cohorts", str(unknown("cohort", str(cohort), list(cohorts))))
    prepare = dataclass_of(PreparePlan, value.get("prepare", {}), f"{dot}prepare")
    check_prepare(prepare, made.signature().grid_axes, f"{dot}prepare")
    if blank is not None:
        check_multiple(prepare, blank, len(made.signature().grid_axes), f"{dot}prepare")
    given = input_plans(value, dot)
    guidance = _guidance(value["guidance"], made, kind, f"{dot}guidance") if "guidance" in value else None
    return Stage(
        name,
        job,
        family,
        sampler,
        train,
        prepare,
        network,
        tuple(used),
        given,
        trained,
        guidance,
        codec,
        paired,
        equalised,
    )


def _check_within(job: Job, family: type[Family], equalised: float, at: str) -> None:
    """Refused where a family cannot work in codes or on equalised intensities."""
    if job.signature().beside:
        raise AtError(at, "codes cannot learn what lies beside images as they are. Leave in out")
    if family.unpaired:
        raise AtError(
            at, f"{family.__name__} compares with images as they are, so it needs x as they are. Leave in out"
        )
    if equalised:
        _check_equalised(job, at)


def _check_regional(family: Named, named_job: Named, job: Job, at: str) -> None:
    """Losses that compare values in structures need a job that has some."""
    if (lost := {*family.options.get("losses", {})} & {*REGIONAL}) and not job.regional:
        text = f"{', '.join(lost)} compares values in structures, and {named_job.name} has none. Take it out"
        raise AtError(at, text)


def _job(value: Any, at: str) -> tuple[Named, Job]:
    job = named(value, at)
    kind = guard(f"{at}.name", lambda: JOBS.find(job.name))
    if job.name == "synthesis" and "from" in job.options:
        raise AtError(
            f"{at}.from",
            "synthesis is given no image. Write: job: {name: translation, from: [...], x: [...]}, with classes,"
            " covariates and words in its values: {by: ..., covariates: ..., text: ...}",
        )
    return job, guard(at, lambda: build(f"job {job.name!r}", kind, job_options(job.options)))


def _check_kinds(job: Job, family: type[Family], at: str) -> None:
    """A family is refused a kind of x that it cannot learn."""
    if (beside := job.signature().beside) and not issubclass(family, Speaker):
        names = ", ".join(f.name for f in beside)
        raise AtError(at, f"{family.__name__} cannot learn {names} beside images. Write: family: {{name: flow}}")
    for asked in job.signature().x:
        if asked.kind not in family.learns:
            able = [n for n in FAMILIES.builtin if asked.kind in FAMILIES.builtin[n].learns]
            write = f"Write: family: {{name: {able[0]}}}"
            if asked.kind == "intensity" and "label" in family.learns:
                write = (
                    f"Give it words: family: {{name: {family.__name__.lower()}, in: {{stage: codec}}}}, as in"
                    " recipes/words.yaml"
                )
            raise AtError(at, f"{family.__name__} cannot learn {asked.name}, {asked.kind}. {write}")


def _inner(value: Any, at: str) -> tuple[str | None, float]:
    """What a family works in: `in: {stage: codec}`, or `in: {equalised: 0.5}` as (None, share)."""
    if not isinstance(value, Mapping) or "in" not in value:
        return None, 0.0
    inner = value["in"]
    if not isinstance(inner, Mapping) or set(inner) not in ({"stage"}, {"equalised"}):
        raise AtError(
            at,
            f"family.in is {inner!r}. Write: in: {{stage: codec}}, in: {{equalised: 0.5}}, or in a recipe without"
            " stages in: vae, or in: {run: RUN, stage: codec}",
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


def _evaluate(value: Any, stages: Sequence[Stage], computed: Sequence[ComputedStage]) -> EvaluatePlan:
    """With the lesions that it asks for, which need a y that is made from images, and the dose, which needs a CT."""
    own = {k: v for k, v in value.items() if k not in ("lesions", "dose")} if isinstance(value, Mapping) else value
    plan: EvaluatePlan = dataclass_of(EvaluatePlan, own, "evaluate", tuples=("metrics", "evaluations", "constraints"))
    _check_constraints(plan.constraints, stages, computed)
    if isinstance(value, Mapping) and value.get("dose") is not None:
        plan = replace(plan, dose=_dose_check(value["dose"], stages))
    if not isinstance(value, Mapping) or value.get("lesions") is None:
        return plan
    at = "evaluate.lesions"
    lesions: LesionPlan = dataclass_of(LesionPlan, value["lesions"], at)
    if (
        lesions.slices < 1
        or not lesions.diameters_mm
        or min(lesions.diameters_mm) <= 0
        or not 0 < abs(lesions.contrast) < 1
    ):
        raise AtError(at, "expected a slice at least, diameters above 0 and a contrast. Write: lesions: {slices: 20}")
    if not any(stage.build_job().simulates for stage in stages):
        raise AtError(
            at, "lesions are put into what is measured, and no job here makes that from images. Take lesions out"
        )
    return replace(plan, lesions=lesions)


def _check_constraints(constraints: Sequence[str], stages: Sequence[Stage], computed: Sequence[ComputedStage]) -> None:
    at = "evaluate.constraints"
    for text in constraints:
        guard(at, lambda text=text: Constraint.of(text))
    doses = any(f.unit == "Gy" for stage in stages for f in stage.build_job().signature().x)
    if constraints and not doses and not any(stage.build().answer == "dose" for stage in computed):
        raise AtError(at, "they are told of doses, and no job here asks for one. Take constraints out")


def _dose_check(value: Any, stages: Sequence[Stage]) -> DoseCheck:
    at = "evaluate.dose"
    check: DoseCheck = guard(at, lambda: dataclass_of(DoseCheck, value, at))
    if not any(f.unit == "HU" for stage in stages for f in stage.build_job().signature().x):
        raise AtError(at, "a plan is given to drawn CTs, and no job here asks for a CT. Take dose out")
    return check


def _check_coverage(level: float | None, plain: Mapping[str, Any]) -> None:
    at = "evaluate.coverage"
    if level is None:
        return
    if not isinstance(level, int | float) or isinstance(level, bool) or not 0.5 <= level < 1:
        raise AtError(at, f"{level!r} is no share of voxels to hold. Write: coverage: 0.9")
    if not plain.get("split", {}).get("validate"):
        raise AtError(at, "intervals need validation patients. Write: split: {train: 0.6, validate: 0.2, test: 0.2}")


def _check_paths(paths: int, stages: Sequence[Stage]) -> None:
    at = "evaluate.paths"
    if type(paths) is not int or paths < 0 or paths == 1:
        raise AtError(at, f"{paths!r} is no number of paths. Write: paths: 16, or 0 for none")
    if paths and not any(s.inputs for s in stages):
        raise AtError(at, "paths are followed through a chain. Write in a stage: input: {stage: NAME, draws: all}")


def _check_likelihood(cases: int, stages: Sequence[Stage]) -> None:
    at = "evaluate.likelihood"
    if type(cases) is not int or cases < 0:
        raise AtError(at, f"{cases!r} is no number of cases. Write: likelihood: 8, or 0 for none")
    if cases and not any(issubclass(FAMILIES.find(s.family.name), Density) for s in stages):
        known = ", ".join(sorted({s.family.name for s in stages}))
        raise AtError(at, f"{known} knows no chances. Leave likelihood out, or write: family: {{name: autoregressive}}")

"""A trained stage put to use: its family, its draws, and the images that they become; the next stage's input."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from . import io
from .checkpoint import load as load_checkpoint
from .checkpoint import load_weights
from .config import from_plain
from .contracts import ARBITRARY, Codec, Condition, Family, Field, Image, Job, Problem
from .costs import kept_choice, told
from .data.cohort import Member, overlaid
from .data.prepare import MULTIPLE, GridPreparation
from .data.store import Layout, Prepared, joined, prepare_case, question_batch, to_device
from .evaluate.embedding import Embedding, Picture, planes
from .families import FAMILIES, RUNTIME, Drawn, Equalised, Latent, latent_signature, with_guidance
from .jobs import layout_of, reads
from .memory import drawing_room, windows_said
from .networks.soundness import in_float32
from .networks.tiled import tiled
from .physics.mask import settled
from .plan import Recipe, Stage
from .registry import build
from .rng import Rng, derive
from .sampling import SAMPLERS

ROWS = 32  # rows drawn at once
BACKGROUND = 0.01  # of the model's scale: given values that are no farther from 0 show nothing


@dataclass(frozen=True, slots=True)
class Shown:
    """A case as it is shown to a family, and which of its draws is asked for."""

    case: Prepared
    number: int = 0


def build_family(stage: Stage, job: Job, chosen: str, recipe: Recipe | None = None) -> Family:
    """The stage's family on the job's signature, without its sampler; around its codec, when it works in codes or equalised intensities."""
    kind = FAMILIES.find(stage.family.name)
    factory: Callable[..., Family] = kind
    signature = job.signature()
    codec: Codec | None = Equalised(signature, stage.equalised) if stage.equalised else None
    if stage.codec is not None:
        assert recipe is not None
        inner = recipe.stage(stage.codec)
        made = build_family(inner, inner.build_job(), chosen)
        assert isinstance(made, Codec)  # the recipe was checked
        codec = made
        signature = latent_signature(signature, codec, kind)
    family = build(
        f"family {stage.family.name!r}", factory, stage.family.options,
        **dict(zip(RUNTIME, (signature, stage.network, chosen), strict=True)),
    )  # fmt: skip
    return family if codec is None else Latent(codec, family, signature.condition)


def with_codec(family: Family, stage: Stage, run: Path, recipe: Recipe) -> Family:
    """The family with the trained weights of the stage in whose codes it works."""
    if isinstance(family, Latent) and stage.codec is not None:
        known = load_checkpoint(recipe.stage(stage.codec).home(run))
        if known is None or known[1]["step"] < known[1]["total"]:
            raise ValueError(
                f"Stage {stage.codec} is not trained to its end. Type: fabrica run {run} --only {stage.codec}"
            )
        load_weights(family.codec, recipe.stage(stage.codec).home(run))
    return family


def kept_in_float32(family: Family, facts: Mapping[str, Any] | None) -> list[str]:
    """Layers in which training found bfloat16 wrong compute in float32 again; returns their names."""
    layers = [str(name) for name in (facts or {}).get("float32_layers", [])]
    in_float32(family, layers)
    return layers


def plain_preparation(preparation: GridPreparation) -> dict[str, Any]:
    plain = asdict(preparation)
    plain["scales"] = {k: list(v) for k, v in preparation.scales.items()}
    return plain


def preparation_from(plain: Mapping[str, Any]) -> GridPreparation:
    spacing = plain["spacing_mm"]
    scales = {k: (float(v[0]), float(v[1])) for k, v in plain["scales"].items()}
    size, multiple = tuple(plain["size"]), plain.get("multiple", MULTIPLE)
    units = {str(k): str(v) for k, v in plain.get("units", {}).items()}
    classes = {str(k): int(v) for k, v in plain.get("classes", {}).items()}
    return GridPreparation(plain["axes"], tuple(spacing) if spacing else None, size, scales, multiple, units, classes)


def drawer(stage: Stage, family: Family) -> Family:
    """The family joined with the recipe's guidance and sampler, when it names them."""
    if isinstance(family, Latent):
        drawn = Latent(
            family.codec, drawer(replace(stage, codec=None), family.prior), stage.build_job().signature().condition
        )
        drawn.spread = family.spread
        return drawn
    if stage.guidance is not None:
        family = with_guidance(family, stage.build_job().hidden, **asdict(stage.guidance))
    if stage.sampler is None:
        return family
    return Drawn(family, SAMPLERS.find(stage.sampler.name), stage.sampler.options)


@torch.no_grad()
def draw(
    family: Family, job: Job, shown: Sequence[Shown], layout: Layout, seed: int, say: Callable[[str], None],
    window: Sequence[int] | None = None,
) -> list[Tensor]:  # fmt: skip
    """A draw of each of `shown`: (C, z, y, x), or (C,) for values (the mean over slices). Small cases share a batch.

    `window`: sides of the windows that the networks work by; none = the whole grid, or what memory allows. Each row has its own seed, from the case, the number of the draw and the slice. Computed where the family is, returned on the CPU.
    """
    family.eval()
    device = next(family.parameters()).device
    found: list[Tensor] = []
    for group in _together(shown, layout):
        problem = question_of(job, group, layout, seed, device)
        each = len(problem.cases) // len(group)
        rows, fitting = drawing_room(family, problem, min(ROWS, len(problem.cases)), device.type)
        if fitting and window is None:
            say(windows_said(group[0].case.name, fitting))
        seeds = [derive(seed, "draw", name, group[i // each].number) for i, name in enumerate(problem.cases)]
        x = background(job.signature().x, problem)
        done = nothing_given(job, problem)
        for measured in problem.measurements.values():
            whole = settled(measured.operator, len(done))
            x[whole], done = measured.value[whole.to(device)].float().cpu(), done | whole
        filled = (~done).nonzero().flatten().cpu()
        for index in torch.split(filled, rows) if len(filled) else ():
            with tiled(family, window or fitting):
                x[index] = family.sample(problem.rows(index), Rng([seeds[i] for i in index.tolist()])).float().cpu()
        found += [_whole(rows_of, layout) for rows_of in torch.split(x, each)]
    return found


def question_of(job: Job, shown: Sequence[Shown], layout: Layout, seed: int, device: torch.device) -> Problem:
    """What is asked about cases of one grid; each row's chance is its own, from the case, the slice and the number of the draw."""
    asked = joined([question_batch(one.case, layout) for one in shown])
    each = len(asked.cases) // len(shown)
    seeds = [derive(seed, "question", name, shown[i // each].number) for i, name in enumerate(asked.cases)]
    return job.question(to_device(asked, device), Rng(seeds))


def crude_answers(job: Job, shown: Shown, layout: Layout, seed: int) -> dict[str, Tensor]:
    """What the measurements of a draw say by themselves, (C, z, y, x) by name; nothing where no operator has such an answer."""
    if not job.signature().measurements:
        return {}
    problem = question_of(job, [shown], layout, seed, torch.device("cpu"))
    found = {name: m.operator.crude(m.value) for name, m in problem.measurements.items()}
    return {f"{name} alone": _whole(x.float(), layout) for name, x in found.items() if x is not None}


def nothing_given(job: Job, problem: Problem) -> Tensor:
    """bool (B,): rows in which every image that is given shows background alone; there is nothing to draw there."""
    signature = job.signature()
    known, blank = torch.zeros(len(problem.cases), dtype=torch.bool), torch.ones(len(problem.cases), dtype=torch.bool)
    for f in signature.condition if signature.axes else ():
        if f.kind not in ("intensity", "label") or (value := problem.condition.values.get(f.name)) is None:
            continue
        present = problem.condition.present.get(f.name, known.new_ones(len(known))).cpu()
        marked = value[:, 1:] if f.kind == "label" else value  # the first class of a mask is what it does not mark
        empty = (marked.flatten(1).abs() <= BACKGROUND).all(1).cpu()
        known |= present
        blank &= empty | ~present
    return known & blank


def background(fields: Sequence[Field], problem: Problem) -> Tensor:
    """(B, C, *axes) of what lies around every patient: 0 on the model's scale (air, in HU), the first class of a mask."""
    x, start = torch.zeros(len(problem.cases), *problem.shape), 0
    for f in fields:
        if f.kind == "label":
            x[:, start] = 1.0
        start += f.channels
    return x


def _together(shown: Sequence[Shown], layout: Layout) -> list[list[Shown]]:
    """Neighbours on one grid, as long as their rows fit one batch."""
    groups: list[list[Shown]] = []
    for one in shown:
        shape = one.case.grid.shape
        each = shape[0] if layout.axes == "yx" else 1
        alike = groups and groups[-1][0].case.grid.shape == shape and (len(groups[-1]) + 1) * each <= ROWS
        groups = [*groups[:-1], [*groups[-1], one]] if alike else [*groups, [one]]
    return groups


def _whole(rows: Tensor, layout: Layout) -> Tensor:
    """The rows of one draw as one answer."""
    if rows.ndim == 2:
        return rows.mean(0)
    return rows.transpose(0, 1) if layout.axes == "yx" else rows[0]


def images_of(
    x: Tensor, fields: Sequence[Field], prepared: Prepared, preparation: GridPreparation, source: str
) -> dict[str, Image]:
    """One drawn x (C, z, y, x) as images on the source's grid; labels by their most probable class."""
    images, start = {}, 0
    for field in fields:
        part = x[start : start + field.channels]
        start += field.channels
        if field.kind == "label":
            part = part.argmax(0, keepdim=True).float()
        images[field.name] = replace(image_of(part, field, prepared, preparation), source=source)
    return images


def image_of(part: Tensor, field: Field, prepared: Prepared, preparation: GridPreparation) -> Image:
    """One field of a draw (1, z, y, x) on the source's grid, in the training cohort's unit: what is written and what is measured."""
    trace = prepared.traces.get(field.name) or next(iter(prepared.traces.values()))
    unit = "" if field.kind == "label" else preparation.unit_of(field.name, field.unit)
    meaning = replace(field, channels=1, unit=unit)
    return preparation.back(part, replace(trace, like=replace(trace.like, meaning=meaning)))


def questions(job: Job, prepared: Prepared) -> tuple[str, ...]:
    """Each contrast that is both given and asked for is hidden in turn; '' when there is none."""
    both = [f.name for f in job.signature().x if f.name in reads(job) and f.name in prepared.tensors]
    return tuple(both) or ("",)


def without(prepared: Prepared, hidden: str) -> Prepared:
    return replace(prepared, tensors={n: t for n, t in prepared.tensors.items() if n != hidden}) if hidden else prepared


def draw_file(folder: Path, stage: Stage, case: str, number: int, name: str) -> Path:
    """Where a run keeps one drawn image; its name is in the file's when the stage draws several."""
    several = len(stage.build_job().signature().x) > 1
    return folder / "stages" / stage.name / "draws" / case / f"{number}{'-' + name if several else ''}.nii.gz"


def versions(member: Member, drawn: Sequence[Mapping[str, Image]], how: str) -> list[Member]:
    """The case as the next stage is shown it: with each draw, with their mean, or with the first alone."""
    if how == "all":
        return [overlaid(member, images) for images in drawn]
    if how == "one":
        return [overlaid(member, drawn[0])]
    mean = {
        name: replace(image, data=torch.stack([images[name].data for images in drawn]).mean(0))
        for name, image in drawn[0].items()
    }
    return [overlaid(member, mean)]


def read_draws(folder: Path, stage: Stage, case: str, wanted: Sequence[str]) -> list[dict[str, Image]]:
    """The draws of an earlier stage that a run has written; raises ValueError when there are none."""
    fields = {f.name: f for f in stage.build_job().signature().x if f.name in wanted}
    drawn: list[dict[str, Image]] = []
    while all(draw_file(folder, stage, case, len(drawn), name).is_file() for name in fields):
        files = {name: draw_file(folder, stage, case, len(drawn), name) for name in fields}
        drawn.append({name: _as(io.read_image(path), fields[name]) for name, path in files.items()})
    if not drawn:
        raise ValueError(f"Stage {stage.name} has not drawn {case} yet. Type: fabrica run {folder} --only {stage.name}")
    return drawn


def _as(image: Image, field: Field) -> Image:
    stated = image.meaning.unit != "a.u." or field.unit != "HU"  # runs of before wrote HU without saying so
    unit = image.meaning.unit if stated else field.unit
    return replace(image, meaning=replace(field, channels=1, unit="" if field.kind == "label" else unit))


def check_scales(stage: Stage, job: Job, facts: Mapping[str, Any]) -> None:
    """Raises ValueError for a stage of format 1 whose answer was scaled by each case: its numbers mean nothing now."""
    odd = [f for f in job.signature().x if f.kind == "intensity" and f.unit not in (*ARBITRARY, "HU", "grey")]
    if odd and int(facts.get("format", 1)) < 2:
        raise ValueError(
            f"{stage.name} was trained when {odd[0].name} ({odd[0].unit}) was scaled by each case's own values: its level cannot be "
            "told. Train it again, or use the version that wrote it (commit in environment.json)."
        )


def _unfinished(run: Path, stage: Stage, facts: Mapping[str, Any]) -> str:
    """What is said of a stage whose training has not come to its end; '' when it has."""
    step, total = int(facts["step"]), int(facts["total"])
    if step >= total:
        return ""
    return f"{stage.name} is trained to step {step} of {total}: its draws are not what it will learn. Go on: fabrica run {run}"


class Answering:
    """A trained stage that answers cases, its earlier stages included."""

    def __init__(self, run: Path, recipe: Recipe, stage: Stage, device: str = "cpu") -> None:
        place = stage.home(run)
        known = load_checkpoint(place)
        if known is None:
            raise ValueError(f"{place} is not trained yet. Type: fabrica run {run}")
        self.run, self.seed, self.stage, self.job = run, recipe.seed, stage, stage.build_job()
        self.window = recipe.evaluate.window
        facts = known[1]
        check_scales(stage, self.job, facts)
        self.preparation, self.reference = preparation_from(facts["preparation"]), str(facts["reference"])
        family = build_family(stage, self.job, facts["precision"], recipe)
        kept_in_float32(family, facts)
        load_weights(family, place)
        drawn_by = told(drawer(stage, family), kept_choice(place))
        self.family, self.layout = drawn_by.to(device), layout_of(self.job, tuple(facts["size"]))
        self.unfinished = _unfinished(run, stage, facts)
        self.earlier = Answering(run, recipe, recipe.stage(stage.input.stage), device) if stage.input else None

    def given(self, member: Member) -> list[str]:
        """Which of the images that this stage reads a case has, or will have from the earlier stage."""
        made = {f.name for f in self.earlier.job.signature().x} if self.earlier and self.earlier.can(member) else set()
        known = dict.fromkeys((*reads(self.job), *self.job.simulates))
        return [n for n in known if n in member.contrasts() or n in made]

    def can(self, member: Member) -> bool:
        given = self.given(member)
        return set(self.job.simulates) <= set(given) and (bool(given) or not reads(self.job))

    def draws(self, member: Member, count: int, say: Callable[[str], None]) -> list[dict[str, Image]]:
        """`count` draws as images on the case's own grid; draw k is made from draw k of the earlier stage."""
        prepared, x = self._drawn(member, count, say)
        where = f"{self.run.name}/{self.stage.name}/{member.name}"
        fields = self.job.signature().x
        return [images_of(one, fields, prepared, self.preparation, f"{where}/{k}") for k, one in enumerate(x)]

    def values(self, member: Member, count: int, say: Callable[[str], None]) -> Tensor:
        """(C,), the mean of `count` draws of a job that asks for values: chances of its classes, or its number."""
        _, x = self._drawn(member, count, say)
        return x.mean(0)

    def _drawn(self, member: Member, count: int, say: Callable[[str], None]) -> tuple[Prepared, Tensor]:
        shown = [member]
        if self.earlier and self.stage.input:
            made = self.earlier.draws(member, count if self.stage.input.draws != "one" else 1, say)
            used = [{n: i for n, i in images.items() if n in reads(self.job)} for images in made]
            shown = versions(member, used, self.stage.input.draws)
        given, asked = self.given(member), {f.name for f in self.job.signature().x}
        anchor = next((n for n in given if n not in asked), given[0] if given else self.reference)
        prepared = [prepare_case(m, given or list(m.contrasts())[:1], anchor, self.preparation) for m in shown]
        asked_of = [Shown(prepared[k % len(prepared)], k) for k in range(count)]
        return prepared[0], torch.stack(draw(self.family, self.job, asked_of, self.layout, self.seed, say, self.window))


def embedding_of(run: Path, device: str = "cpu") -> dict[str, Embedding]:
    """{name with hash: embedding} of a run's representation stage, applied to axial planes on their own grid.

    Raises ValueError when the run has no such stage or is not trained.
    """
    recipe = from_plain(yaml.safe_load((run / "recipe.yaml").read_text()), str(run / "recipe.yaml"))
    stage = next((s for s in recipe.stages if s.job.name == "representation"), None)
    if stage is None:
        raise ValueError(
            f"{run} has no stage that learned a representation. Train one: fabrica run recipes/representation.yaml"
        )
    answering = Answering(run, recipe, stage, device)
    if len(reads(answering.job)) != 1 or answering.layout.axes != "yx":
        raise ValueError(
            f"{run} reads {', '.join(reads(answering.job))} in {answering.layout.axes}, expected one contrast in slices."
        )
    digest = json.loads((stage.home(run) / "checkpoint.json").read_text())["sha256"]
    name = f"given {reads(answering.job)[0]}"

    @torch.inference_mode()
    def embedding(picture: Picture, width: float) -> NDArray[np.float64]:
        found = []
        for plane, inside in planes(picture):
            top = float(np.percentile(plane[inside], 99.5)) or 1.0
            image = torch.from_numpy(plane / top).float()[None, None]
            problem = Problem(("",), (answering.job.signature().channels,), Condition({name: image}))
            found.append(answering.family.eval().sample(problem, Rng([0]))[0].double().numpy())
        return np.asarray(np.mean(found, axis=0))

    return {f"{stage.name} of {run.name} ({digest[:12]})": embedding}

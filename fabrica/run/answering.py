"""A trained stage that answers new cases, its earlier stages included."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Condition, Image, Problem
from ..data.cohort import Member
from ..data.prepare import preparation_from
from ..data.store import Prepared, prepare_case
from ..evaluate.sets.embedding import Embedding, Picture, planes
from ..jobs import layout_of, reads
from ..learning.checkpoint import load as load_checkpoint
from ..learning.checkpoint import load_weights
from ..recipe.checks import from_plain
from ..recipe.values import Recipe, Stage
from ..rng import Rng
from .costs import kept_choice, told
from .draw import draw, images_of
from .family import build_family, check_scales, drawer, kept_in_float32
from .folder import versions
from .question import Shown


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

"""A trained stage that answers new cases, its earlier stages included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Condition, Image, Problem
from ..data.cases import Prepared, prepare_case
from ..data.cohort import Member
from ..evaluate.sets.embedding import Embedding, Picture, planes
from ..jobs import layout_of
from ..learning.facts import Facts
from ..networks.compiled import compile_networks
from ..physics import Resolution
from ..recipe.values import Stage
from ..rng import Rng
from ..safeguards.shift import Reference
from .costs import chosen_by, kept_choice
from .draw import drawn_in_turn, images_of
from .family import check_scales, drawer, trained_family
from .folder import RunFolder, versions
from .question import Shown, decided_by_prior, not_to_be_read, question_of
from .shift import scanned, weights_of


class Answering:
    """A trained stage that answers cases, its earlier stages included."""

    def __init__(self, run: RunFolder, stage: Stage, device: str = "cpu", compiled: bool = False) -> None:
        facts = run.trained(stage)
        check_scales(stage, facts)
        self.run, self.seed, self.stage = run, run.recipe.seed, stage
        self.job = stage.build_job().fitted((), run.home(stage), self.seed, print)
        self.signature, self.window = self.job.signature(), run.recipe.evaluate.windows
        known = facts.grid_preparation
        self.preparation, self.reference = known.as_learned() if self.job.restores else known, facts.reference
        drawn_by = chosen_by(drawer(stage, trained_family(run, stage, facts)), kept_choice(run.home(stage)))
        self.family, self.layout = drawn_by.to(device), layout_of(self.job, facts.size, known.words)
        self.unfinished = "" if facts.finished else _unfinished(run, stage, facts)
        before = dict.fromkeys(plan.stage for plan in stage.inputs.values())
        if compiled:
            compile_networks(self.family, device)
        self.earlier = {name: Answering(run, run.recipe.stage(name), device, compiled) for name in before}
        self.scans = Reference.read(run.home(stage), weights_of(run.home(stage)))
        self.doubted = set[str]()  # what was said of cases: not again for each path through a chain
        self.held = False  # whether all its draws have the chance of the first

    def hold(self, name: str) -> None:
        """Give all draws of the stage of this name the same chance, wherever it stands in the chain; '' for none."""
        self.held = self.stage.name == name
        for one in self.earlier.values():
            one.hold(name)

    def listen(self, typed: Mapping[str, str]) -> None:
        """Texts that somebody types are heard as they are, whatever masks a case has; raises ValueError for words that
        training did not see.
        """
        heard = {name: how for name, how in self.layout.words.items() if name in typed}
        for name, how in heard.items():
            if why := how.fault(typed[name]):
                raise ValueError(
                    f"{name} {typed[name]!r} cannot be understood: {why}. Write it as the cohort's texts are."
                )
        own = {name: replace(how, written_from="") for name, how in heard.items()}
        self.layout = replace(self.layout, words={**self.layout.words, **own})

    def of(self, name: str) -> Answering:
        """The stage of this name among those that it builds on; raises KeyError where it is none."""
        for one in self.earlier.values():
            if one.stage.name == name:
                return one
            try:
                return one.of(name)
            except KeyError:
                continue
        raise KeyError(name)

    def given(self, member: Member) -> list[str]:
        """Which of the images that this stage reads a case has, or will have from earlier stages."""
        made = {name for name, plan in self.stage.inputs.items() if self.earlier[plan.stage].can(member)}
        known = dict.fromkeys((*self.signature.given, *self.job.simulates, *self.signature.measurements))
        return [n for n in known if n in member.contrasts() or n in made]

    @property
    def scanned(self) -> tuple[str, ...]:
        """The images that come from a scanner, and from no earlier stage."""
        return scanned(self.signature.given, self.job.simulates, self.stage.inputs)

    def can(self, member: Member) -> bool:
        given = self.given(member)
        measured = bool(self.signature.measurements) and set(self.signature.measurements) <= set(given)
        simulated = set(self.job.simulates) <= set(given)
        return (measured or simulated) and (bool(given) or not self.signature.given)

    def draws(self, member: Member, count: int, say: Callable[[str], None]) -> list[dict[str, Image]]:
        """`count` draws as images on the case's own grid; draw k is made from draw k of each earlier stage."""
        return self.images(member, *self.drawn(member, count, say))

    def images(self, member: Member, prepared: Prepared, x: Tensor) -> list[dict[str, Image]]:
        """What was drawn, as images on the case's own grid."""
        return [self.image(member, prepared, one, k) for k, one in enumerate(x)]

    def image(self, member: Member, prepared: Prepared, x: Tensor, number: int) -> dict[str, Image]:
        """One draw (C, z, y, x), as images on the case's own grid."""
        where = f"{self.run.name}/{self.stage.name}/{member.name}/{number}"
        return images_of(x, self.signature.x, prepared, self.preparation, where)

    def decided(self, member: Member, prepared: Prepared, x: Tensor) -> dict[str, Image]:
        """Of an answer (C, z, y, x), in its unit on the case's own grid: what its prior decided, since no datum fixes
        it. Nothing where nothing was measured of the image itself.
        """
        if not self.signature.measurements or self.job.answer != "image":
            return {}
        problem = question_of(self.job, [Shown(prepared)], self.layout, self.seed, torch.device("cpu"))
        decided = decided_by_prior(problem, x.float(), self.layout)
        if decided is None:
            return {}
        whole, fixed = (self.image(member, prepared, one, 0) for one in (x.float(), x.float() - decided))
        return {name: replace(image, data=image.data - fixed[name].data) for name, image in whole.items()}

    def values(self, member: Member, count: int, say: Callable[[str], None]) -> Tensor:
        """(C,), the mean of `count` draws of a job that asks for values: chances of its classes, or its number."""
        _, x = self.drawn(member, count, say)
        return x.mean(0)

    def drawn(self, member: Member, count: int, say: Callable[[str], None]) -> tuple[Prepared, Tensor]:
        """The case as it was asked about, and `count` draws (count, C, z, y, x) on its prepared grid."""
        prepared, draws = self.in_turn(member, count, say)
        return prepared, torch.stack(list(draws))

    def in_turn(self, member: Member, count: int, say: Callable[[str], None]) -> tuple[Prepared, Iterator[Tensor]]:
        """As `drawn`, the draws one after the other: memory does not grow with their number. What earlier stages draw
        is held together.
        """
        shown = [member]
        if self.earlier:
            alone = {s: all(p.draws == "one" for p in self.stage.inputs.values() if p.stage == s) for s in self.earlier}
            made = {s: one.draws(member, 1 if alone[s] else count, say) for s, one in self.earlier.items()}
            drawn = {name: [images[name] for images in made[p.stage]] for name, p in self.stage.inputs.items()}
            shown = versions(member, drawn, self.stage.inputs)
        given, asked = self.given(member), {f.name for f in self.signature.x}
        images = [n for n in given if n not in self.signature.measurements]
        anchor = next((n for n in images if n not in asked), images[0] if images else self.reference)
        prepared = [
            self._measured(prepare_case(m, given or list(m.contrasts())[:1], anchor, self.preparation)) for m in shown
        ]
        asked_of = [Shown(prepared[k % len(prepared)], 0 if self.held else k) for k in range(count)]
        draws = drawn_in_turn(self.family, self.job, asked_of, self.layout, self.seed, say, self.window)
        return prepared[0], self._doubted(member, asked_of[:1], draws, say)

    def _doubted(
        self, member: Member, shown: Sequence[Shown], draws: Iterator[Tensor], say: Callable[[str], None]
    ) -> Iterator[Tensor]:
        """The draws; of the first it is said where it contradicts what was measured."""
        if self.signature.measurements and (first := next(draws, None)) is not None:
            problem = question_of(self.job, shown, self.layout, self.seed, torch.device("cpu"))
            why = not_to_be_read(problem, first, self.layout)
            if why and (line := f"{member.name}: {why}.") not in self.doubted:
                self.doubted.add(line)
                say(line)
            waiting = [first]
            del first, problem
            yield waiting.pop()
        yield from draws  # nothing of them is held here

    def _measured(self, prepared: Prepared) -> Prepared:
        """With what its own images measured, for jobs that restore images: in their brightness, on the finer grid."""
        if self.job.answer == "film":  # as bright as the frames that are given
            return replace(prepared, traces={n: replace(t, own=True) for n, t in prepared.traces.items()})
        grid, images = prepared.grid, prepared.case.images
        found = self.job.measured(images, grid.affine, grid.shape, self.preparation)
        if not found:
            return prepared
        (field,) = self.signature.x
        trace = replace(prepared.traces[field.name], own=True)
        if any(m.operator.coarser for m in found.values() if isinstance(m.operator, Resolution)):
            like = replace(trace.like, data=torch.zeros(1).expand(1, *grid.shape), axes="zyx", affine=grid.affine)
            trace = replace(trace, like=like)
        return replace(prepared, measurements=found, traces={**prepared.traces, field.name: trace})


def _unfinished(run: RunFolder, stage: Stage, facts: Facts) -> str:
    """What is said of a stage whose training has not come to its end."""
    return (
        f"{stage.name} is trained to step {facts.step} of {facts.total}: its draws are not what it will learn. "
        f"Go on: fabrica run {run.path}"
    )


def embedding_of(path: Path, device: str = "cpu") -> dict[str, Embedding]:
    """{name with hash: embedding} of a run's stage that learned features, applied to axial planes on their own grid.

    Raises ValueError when the run has no such stage or is not trained.
    """
    run = RunFolder.open(path)
    stage = next((s for s in run.recipe.stages if s.build_job().answer == "features"), None)
    if stage is None:
        raise ValueError(
            f"{path} has no stage that learned a representation. Train one: fabrica run recipes/representation.yaml"
        )
    answering = Answering(run, stage, device)
    given = answering.signature.given
    if len(given) != 1 or answering.layout.axes != "yx":
        raise ValueError(
            f"{path} reads {', '.join(given)} in {answering.layout.axes}, expected one contrast in slices."
        )
    digest = weights_of(run.home(stage))
    (name,) = given

    @torch.inference_mode()
    def embedding(picture: Picture, width: float) -> NDArray[np.float64]:
        found = []
        for plane, inside in planes(picture):
            top = float(np.percentile(plane[inside], 99.5)) or 1.0
            image = torch.from_numpy(plane / top).float()[None, None]
            problem = Problem(("",), (answering.signature.channels,), Condition({name: image}))
            found.append(answering.family.eval().sample(problem, Rng([0]))[0].double().numpy())
        return np.asarray(np.mean(found, axis=0))

    return {f"{stage.name} of {run.name} ({digest[:12]})": embedding}

"""What a run will need, said before it starts: batches that fit, windows that draws will be made by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .contracts import Family
from .data.store import Loader, prepare_case, question_batch, to_device
from .drawing import ROWS, build_family
from .jobs import asks
from .judging import Ready
from .machine import free_bytes
from .memory import Need, check, drawing_room, training_need, windows_said
from .networks import precision
from .networks.soundness import in_float32, unsound_layers
from .plan import Recipe, Stage
from .rng import Rng

BATCH = 8  # images a step where a recipe says nothing and memory suffices
Say = Callable[[str], None]


def precision_of(stage: Stage, device: str) -> str:
    """As the recipe says, or what is faster here."""
    return precision.choose(device) if stage.train.precision == "auto" else stage.train.precision


def look_at_layers(stage: Stage, family: Family, loader: Loader, device: str, say: Say) -> list[str]:
    """Names of layers whose bfloat16 is wrong on this processor in the shapes of this training; they now take float32.

    Random numbers, weights and buffers are left as they were.
    """
    job = stage.training_job()

    def call() -> None:
        batch = to_device(loader.load(0), torch.device(device))
        problem = job.problem(batch, Rng(range(len(batch.cases))))
        for group in family.groups():
            family.loss(problem, group, Rng(range(len(batch.cases))).child(group), 0.0)

    buffers = {name: b.clone() for name, b in family.named_buffers()}
    found = unsound_layers(family.train(), call)
    for name, buffer in family.named_buffers():
        buffer.copy_(buffers[name])
    in_float32(family, found)
    if found:
        first, why = next(iter(found.items()))
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        say(f"{stage.name}: {first}{others} compute in float32: {why}, on this processor.")
    return sorted(found)


def refuse_early(recipe: Recipe, stages: Sequence[Ready], folder: Path, device: str) -> None:
    """Raises MemoryShortage for any stage of a chain that would not fit, before the first one is trained."""
    for ready in stages[1:]:  # the first is counted as it starts
        begun = (ready.stage.home(folder) / "checkpoint.json").is_file()
        if not ready.stage.trained and not begun:
            family = build_family(ready.stage, ready.job, precision_of(ready.stage, device), recipe).to(device)
            _check(ready, _need(ready, family), ready.stage.train.batch, device)


def batch_that_fits(ready: Ready, family: Family, asked: int | None, device: str, say: Say) -> int:
    """The batch asked for, or the largest up to BATCH for which memory suffices; says what it will take."""
    need = _need(ready, family)
    batch, words = _check(ready, need, asked, device)
    chosen = " (the largest that fits)" if asked is None and batch < BATCH else ""
    say(words.replace(f"batches of {batch}", f"batches of {batch}{chosen}", 1))
    return batch


def foretell_drawing(recipe: Recipe, ready: Ready, family: Family, device: str, say: Say) -> None:
    """Says before training that a whole draw of the first test case will not fit, and which windows will."""
    test = ready.split.parts["test"]
    if not test or recipe.evaluate.window is not None or not asks(ready.job):
        return
    case = prepare_case(test[0], ready.layout.contrasts, ready.reference, ready.preparation)
    problem = ready.job.question(to_device(question_batch(case, ready.layout), torch.device(device)))
    _, fitting = drawing_room(family.eval(), problem, min(ROWS, len(problem.cases)), device)
    family.train()
    if fitting:
        say(windows_said(f"{ready.stage.name}, {test[0].name}", fitting))


def _need(ready: Ready, family: Family) -> Need:
    return training_need(family, ready.stage.training_job(), ready.store, ready.layout)


def _check(ready: Ready, need: Need, asked: int | None, device: str) -> tuple[int, str]:
    """(batch, what it takes)."""
    stage = ready.stage
    if not stage.paired and (BATCH if asked is None else asked) < 2:
        raise ValueError("Without pairs a batch holds at least two patients. Write: train: {batch: 4}")
    batch = asked or need.most_rows(free_bytes(device), BATCH) or 1
    smaller = need.most_rows(free_bytes(device), batch)
    advice = (
        f"Write train: {{batch: {smaller}}}."
        if smaller
        else "Train on smaller patches (prepare: {size: [...]}), with network: {recompute: true}, or with fewer channels."
    )
    return batch, check(f"{stage.name}: training with batches of {batch}", need, batch, device, advice)

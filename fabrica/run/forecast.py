"""What a run will need, said before it starts: batches that fit, windows that draws will be made by."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..contracts import Family
from ..data.cases import Prepared
from ..data.store import Loader, to_device
from ..evaluate.judging.paired import Answer, competitors_of, evaluate_case
from ..families import with_steps
from ..io import UnreadableError
from ..machine.device import free_bytes
from ..machine.memory import MemoryShortage, Need, check
from ..networks import precision
from ..networks.soundness import in_float32, unsound_layers
from ..recipe.values import Stage
from ..rng import Rng
from .costs import evaluations as count_evaluations
from .draw import draw
from .family import build_family, drawer
from .judge import FINDINGS, evidence_of
from .memory import drawing_room, training_need, windows_said
from .quality import COST_SHARE
from .question import ROWS, Shown, questions
from .stage import PreparedStage

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


def refuse_early(stages: Sequence[PreparedStage], device: str) -> list[PreparedStage]:
    """Raises MemoryShortage for any stage of a chain that would not fit, before the first one is trained; the stages
    with what was counted.
    """
    found = list(stages[:1])  # the first is counted as it starts
    for ready in stages[1:]:
        if not ready.stage.trained and not ready.run.begun(ready.stage):
            need = _need(ready, _blank(ready, device))
            _check(ready, need, ready.stage.train.batch, device)
            ready = replace(ready, need=need)
        found.append(ready)
    return found


def batch_that_fits(ready: PreparedStage, family: Family, asked: int | None, device: str, say: Say) -> int:
    """The batch asked for, or the largest up to BATCH for which memory suffices; says what it will take."""
    need = _need(ready, family)
    batch, words = _check(ready, need, asked, device)
    chosen = " (the largest that fits)" if asked is None and batch < BATCH else ""
    say(words.replace(f"batches of {batch}", f"batches of {batch}{chosen}", 1))
    return batch


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that a stage will take."""

    training: float = 0.0
    drawing: float = 0.0
    judging: float = 0.0

    def __add__(self, other: Times) -> Times:
        return Times(self.training + other.training, self.drawing + other.drawing, self.judging + other.judging)

    def in_words(self) -> str:
        parts = (f"{name} {_minutes(getattr(self, name))}" for name in ("training", "drawing", "judging"))
        return f"about {_minutes(self.training + self.drawing + self.judging)}: {', '.join(parts)}"


def foretell_time(stages: Sequence[PreparedStage], device: str, say: Say) -> None:
    """Says before anything is trained what the whole will take, by one step, one evaluation and one judgement of each
    stage.
    """
    found = {}
    for ready in stages:
        with contextlib.suppress(MemoryShortage, UnreadableError):  # said where the stage starts
            found[ready.name] = time_of_stage(ready, device)
    if not found:
        return
    for name, times in found.items():
        say(f"{name} takes {times.in_words()}.")
    if len(found) > 1:
        say(f"All stages take {sum(found.values(), Times()).in_words()}.")


def _blank(ready: PreparedStage, device: str) -> Family:
    """The stage's family before it has learned anything."""
    return build_family(ready.stage, ready.job, precision_of(ready.stage, device), ready.run.recipe).to(device)


def time_of_stage(ready: PreparedStage, device: str) -> Times:
    """Training as planned, or timed by a step; drawing by one evaluation of the network; judging by one case."""
    plan, family = ready.evaluate, _blank(ready, device)
    training = _training_seconds(ready, family, device)
    if not ready.test or ready.job.answer != "image":
        return Times(training)
    case = ready.case(ready.test[0], FINDINGS)
    family = drawer(ready.stage, family).eval()
    quick, own = with_steps(family, 1), count_evaluations(family, ready.question(case, device))
    one = quick or family
    started = time.perf_counter()
    (x,) = draw(one, ready.job, [Shown(case)], ready.layout, ready.seed, _nothing, plan.windows)
    seconds = time.perf_counter() - started
    each = _each_draw(ready, case, device, seconds, own / count_evaluations(one, ready.question(case, device)))
    draws = plan.draws if own > 1 or not ready.signature.given else 1
    started = time.perf_counter()
    evidence = evidence_of(ready)
    evaluate_case(evidence, case.name, case, Answer(x[None]), competitors_of(ready.store, evidence), ready.preparation)
    judged = time.perf_counter() - started
    count = len(ready.test) * len(questions(ready.job, case))
    more = COST_SHARE * training if plan.evaluations is None and own > 1 else 0.0
    return Times(training, count * draws * each + more, count * judged)


def _each_draw(ready: PreparedStage, case: Prepared, device: str, seconds: float, times: float) -> float:
    """Seconds of a draw by those of a shorter one: what making the question takes does not grow with evaluations."""
    started = time.perf_counter()
    ready.question(case, device)
    fixed = min(seconds, time.perf_counter() - started) if ready.signature.measurements else 0.0
    return fixed + (seconds - fixed) * times


def _training_seconds(ready: PreparedStage, family: Family, device: str) -> float:
    """What is left of the budget: minutes as they are, steps by the time of one."""
    plan = ready.stage.train
    known = None if ready.stage.trained else ready.facts()
    left = 1.0 if known is None else 1.0 - known.step / max(1, known.total)
    if ready.stage.trained or not left:
        return 0.0
    if plan.minutes is not None:
        return 60 * plan.minutes * left
    batch = plan.batch or _need(ready, family).most_rows(free_bytes(device), BATCH) or 1
    rows = to_device(ready.loader(ready.layout, batch, 0).load(0), torch.device(device))
    started = time.perf_counter()
    rng = Rng(range(batch))
    problem = ready.stage.training_job().problem(rows, rng.child("problem"))
    for group in family.train().groups():
        terms = family.loss(problem, group, rng.child(group), 0.0)
        torch.stack([t.mean() for t in terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
    return (time.perf_counter() - started) * (plan.steps or 0) * left


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _nothing(text: str) -> None:
    """What a trial says."""


def foretell_drawing(ready: PreparedStage, family: Family, device: str, say: Say) -> None:
    """Says before training that a whole draw of the first test case will not fit, and which windows will."""
    if not ready.test or ready.evaluate.windows is not None or ready.job.answer != "image":
        return
    problem = ready.question(ready.case(ready.test[0]), device)
    _, fitting = drawing_room(family.eval(), problem, min(ROWS, len(problem.cases)), device)
    family.train()
    if fitting:
        say(windows_said(f"{ready.name}, {ready.test[0].name}", fitting))


def _need(ready: PreparedStage, family: Family) -> Need:
    return ready.need or training_need(family, ready.stage.training_job(), ready.store, ready.layout)


def _check(ready: PreparedStage, need: Need, asked: int | None, device: str) -> tuple[int, str]:
    """(batch, what it takes)."""
    stage = ready.stage
    if not stage.paired and (BATCH if asked is None else asked) < 2:
        raise ValueError("Without pairs a batch holds at least two patients. Write: train: {batch: 4}")
    batch = asked or need.most_rows(free_bytes(device), BATCH) or 1
    smaller = need.most_rows(free_bytes(device), batch)
    advice = (
        f"Write train: {{batch: {smaller}}}."
        if smaller
        else (
            "Train on smaller patches (prepare: {size: [...]}), with network: {recompute: true}, or with fewer"
            " channels."
        )
    )
    return batch, check(f"{stage.name}: training with batches of {batch}", need, batch, device, advice)

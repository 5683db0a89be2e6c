"""Quality by cost: the same test cases drawn again with fewer evaluations of the network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..contracts import Family
from ..evaluate.judging.paired import Answer, Competitors, StageEvidence, evaluate_case
from ..evaluate.report.results import Cost, Report, StageResult
from ..evaluate.sets.gallery import Gallery
from ..families import with_steps
from ..recipe.values import EvaluatePlan
from .costs import evaluations as count_evaluations
from .draw import draw
from .question import Asked, Shown
from .stage import PreparedStage, pictured

Say = Callable[[str], None]
COST_PICTURES = 60  # drawn again at every other cost, and kept in memory for it
COUNTS = (1, 2, 4, 8)  # evaluations that quality is measured at where a recipe names none
COST_SHARE = 0.2  # of the training's time that those may take


@dataclass
class Trial:
    """What is needed to draw the same cases again at another cost."""

    ready: PreparedStage
    evaluate: EvaluatePlan
    evidence: StageEvidence
    competitors: Competitors
    gallery: Gallery
    say: Say

    def cost(self, family: Family, kept: Sequence[Asked], evaluations: int) -> Cost | None:
        """Quality at about so many evaluations; 0: as the recipe draws. None where nothing was asked or nothing can be
        changed.
        """
        plan, job = self.evaluate, self.ready.job
        told = with_steps(family, evaluations) if evaluations else family
        if plan.evaluations == () or told is None or not kept:
            return None
        calls = self.calls(told, kept)
        started, shown = time.perf_counter(), [Shown(a.shown[0]) for a in kept]
        drawn = draw(told, job, shown, self.ready.layout, self.ready.seed, self.say, plan.windows)
        seconds = (time.perf_counter() - started) / len(drawn)
        return Cost(
            calls, seconds, len(kept), {**self._paired(kept, drawn), **self._as_set(kept, drawn)}, own=not evaluations
        )

    def calls(self, family: Family, kept: Sequence[Asked]) -> int:
        """Evaluations of the network for a draw."""
        problem = self.ready.question(kept[0].shown[0], next(family.parameters()).device)
        return count_evaluations(family.eval(), problem)

    def _paired(self, kept: Sequence[Asked], drawn: Sequence[Tensor]) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for a, x in zip(kept, drawn, strict=True):
            answer = Answer(x[None], hidden=a.hidden)
            rows = evaluate_case(self.evidence, a.name, a.case, answer, self.competitors, self.ready.preparation)
            for r in rows:
                if r.by == "model" and r.metric in self.evidence.metrics and not isinstance(r.value, str):
                    found.setdefault(r.metric, []).append(r.value)
        return {metric: sum(values) / len(values) for metric, values in found.items()}

    def _as_set(self, kept: Sequence[Asked], drawn: Sequence[Tensor]) -> dict[str, float]:
        twin = Gallery(self.gallery.most, self.gallery.spacing_mm, real=self.gallery.real)
        for a, x in zip(kept, drawn, strict=True):
            if (found := pictured(self.ready)) is not None:
                twin.add(a.name, a.case.case.patient, x[found[1]].numpy(), None, {})
        return twin.distances(twin.drawn)


def costs_of(
    ask: Trial, family: Family, kept: Sequence[Asked], trained_seconds: float, result: StageResult, report: Report
) -> list[Cost]:
    """The same cases by number of evaluations; as the recipe draws comes last, and stays. A family without steps has
    one row.
    """
    counts, plan = ask.evaluate.evaluations, ask.evaluate
    if counts == () or not kept:
        return []
    if counts is None:
        counts, most = _affordable(ask, family, kept, COST_SHARE * trained_seconds, result)
        if not most:
            report.not_evaluated.append(
                f"{ask.ready.name}: quality with fewer evaluations would take more than a fifth of what this run"
                " trained. Ask for it: evaluate: {evaluations: [1, 2, 4, 8]}"
            )
            return []
        kept, ask = kept[:most], replace(ask, evaluate=replace(plan, evaluations=counts))
    known = {c.evaluations: c for c in (ask.cost(family, kept, n) for n in (*counts, 0)) if c is not None}
    return [known[n] for n in sorted(known)]


def _affordable(
    ask: Trial, family: Family, kept: Sequence[Asked], seconds: float, result: StageResult
) -> tuple[tuple[int, ...], int]:
    """(numbers of evaluations, cases) that such a time suffices for, by what draws have taken."""
    own = ask.calls(family, kept)
    draw_seconds = statistics.median(float(r.value) for r in result.cases if r.metric == "seconds a draw")
    counts = tuple(n for n in COUNTS if n < own and with_steps(family, n) is not None)
    a_case = draw_seconds * (sum(counts) + own) / own
    return counts, min(len(kept), int(seconds / max(a_case, 1e-9)))

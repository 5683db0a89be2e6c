"""A stage with all that was prepared for it: what training, drawing and judging are handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from ..contracts import Batch, Family, Field, Job, Problem, Signature
from ..data.cases import Prepared, prepare_case
from ..data.cohort import Member
from ..data.prepare import GridPreparation
from ..data.split import Split
from ..data.store import Layout, Loader, Store, question_batch, to_device
from ..jobs.imaging import stack_fields
from ..learning.facts import Facts
from ..machine.memory import Need
from ..recipe.values import EvaluatePlan, Stage
from ..rng import Rng
from .folder import RunFolder


@dataclass(frozen=True)
class PreparedStage:
    """A stage of a run, its job, who trains and tests, and how images become numbers and back."""

    run: RunFolder
    stage: Stage
    job: Job
    split: Split
    reference: str
    preparation: GridPreparation
    store: Store
    layout: Layout
    need: Need | None = None  # of memory, where it was counted already

    @property
    def name(self) -> str:
        return self.stage.name

    @cached_property
    def signature(self) -> Signature:
        return self.job.signature()

    @property
    def seed(self) -> int:
        return self.run.recipe.seed

    @property
    def evaluate(self) -> EvaluatePlan:
        return self.run.recipe.evaluate

    @property
    def home(self) -> Path:
        """Where its checkpoint lies."""
        return self.run.home(self.stage)

    def facts(self) -> Facts | None:
        return self.run.facts(self.stage)

    @property
    def test(self) -> tuple[Member, ...]:
        return self.split.parts["test"]

    @property
    def pictures(self) -> bool:
        """Whether its cases are single slices: many of them, each small."""
        return self.layout.axes == "yx" and self.preparation.size[0] == 1

    def case(self, member: Member, more: Sequence[str] = ()) -> Prepared:
        """A case with its contrasts, and `more` images of it; raises UnreadableError."""
        wanted = (*self.layout.contrasts, *self.signature.measurements, *more)
        return prepare_case(member, wanted, self.reference, self.preparation)

    def shown(self, member: Member, more: Sequence[str] = ()) -> list[Prepared]:
        """The case as this stage is shown it, once for each draw of an earlier stage that it builds on."""
        return [self.case(one, more) for one in self.run.shown(self.stage, member)]

    def rows(self, case: Prepared, device: torch.device | str = "cpu") -> Batch:
        """Every slice of a case, or the one volume."""
        return to_device(question_batch(case, self.layout), torch.device(device))

    def question(self, case: Prepared, device: torch.device | str = "cpu") -> Problem:
        """What drawing is asked about a case; its chance is the row's number, as in every trial."""
        batch = self.rows(case, device)
        return self.job.question(batch, Rng(range(len(batch.cases))))

    def knows(self, case: Prepared) -> bool:
        """Whether the case has all that is asked for."""
        return all(f.name in case.tensors for f in self.signature.x)

    def truth(self, case: Prepared, device: torch.device | str = "cpu") -> Tensor:
        """(B, C, *axes) of a case that has all that is asked for."""
        return stack_fields(self.signature.x, self.rows(case, device))

    def loader(self, layout: Layout, rows: int, seed: int) -> Loader:
        """Batches of the training part."""
        return Loader(self.store, layout, rows, seed)


def draws_of(ready: PreparedStage, family: Family) -> int:
    """Draws of a case: one where all of them are the same."""
    return 1 if family.deterministic else ready.evaluate.draws


def pictured(ready: PreparedStage) -> tuple[Field, int] | None:
    """The first image that is asked for, and its channel: what sets are compared by."""
    start = 0
    for f in ready.signature.x:
        if f.kind == "intensity":
            return f, start + f.frames // 2
        start += f.channels
    return None

"""From a CT, its structures and a prescription to a dose in Gy."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..contracts import Batch, Job, Problem, Signature
from ..data.beams import BODY_HU, Anatomy, filled
from ..data.dose_table import DoseTable, fit_table
from ..data.planned import DISTANCE, EVEN, PRESCRIPTION, TABLE, anatomy_of, planned
from ..data.vocabulary import field_of
from ..io import UnreadableError
from ..io.planning import ORGANS, POSSIBLE
from ..rng import Rng
from .imaging import Axes, Translation

PRESCRIBED = {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}  # Gy, of the OpenKBP challenge
LOUDER = 16.0  # how much a difference from the table is scaled up: about 4 Gy become 1


class Dose(Job):
    """CT, signed distances to targets and organs (mm), prescription, mask of possible dose -> dose in Gy.

    A table of boosted trees is fitted to the training patients first: what is learned is how doses differ from its
    guess, and it stands beside every model. `table` is the number of its trees; with 0 the dose itself is learned.

    `prescription` names targets with their level in Gy; structures that a patient does not have are missing, not empty.
    Answers are never negative, and 0 outside the possible dose where a case gives it, else outside the body.
    """

    metrics = ("mae",)
    competitors = ("mean", "crude")
    reference = "CT"
    regional = True

    def __init__(
        self,
        prescription: Mapping[str, float] | None = None,
        organs: Sequence[str] = ORGANS,
        *,
        table: int = 300,
        axes: Axes = "yx",
        neighbours: int = 0,
    ) -> None:
        self.prescription = {str(n): float(v) for n, v in (prescription or PRESCRIBED).items()}
        if wrong := {n: v for n, v in self.prescription.items() if not 0 < v < 200}:
            raise ValueError(f"dose.prescription is {wrong}, expected Gy up to 200. Divide cGy by 100.")
        self.organs = tuple(organs)
        structures = (*self.prescription, *self.organs)
        if not 0 <= table <= 5000:
            raise ValueError(f"dose.table is {table}, expected a number of trees up to 5000, or 0 for none.")
        self.structures, self.trees, self.with_table = structures, table, table > 0
        self.table: DoseTable | None = None
        given = [
            "CT",
            PRESCRIPTION,
            *(DISTANCE + name for name in structures),
            *([TABLE, EVEN] if self.with_table else []),
        ]
        self._inner = Translation([*given, POSSIBLE], ["dose"], axes=axes, neighbours=neighbours, vary=0.0)
        self.neighbours, self.judged_with = neighbours, (POSSIBLE, *structures)

    def signature(self) -> Signature:
        return self._inner.signature()

    def gathered(self, members: Sequence[Any], new: bool = False) -> tuple[Any, ...]:
        return tuple(planned(member, self.prescription, self.table) for member in members)

    def fitted(self, members: Sequence[Any], home: Path, seed: int, say: Callable[[str], None]) -> Dose:
        """With the table that lies in `home`, fitted to these where there is none yet."""
        if not self.with_table:
            return self
        table = DoseTable.load(home)
        if table is None:
            if not members:
                raise ValueError(
                    f"{home} holds no table. Runs of before had none: write job: {{table: 0}} in its recipe."
                )
            say(f"A table of trees is fitted to {len(members)} patients.")
            anatomies = functools.partial(self._anatomies, members, say)
            table = fit_table([m.patient for m in members], anatomies, self.structures, self.trees, seed)
            table.save(home)
        if table.names != self.structures:
            raise ValueError(
                f"{home} holds a table of {', '.join(table.names)}, expected {', '.join(self.structures)}."
            )
        found = copy.copy(self)
        found.table = table
        return found

    def completed(self, members: Sequence[Any]) -> tuple[Any, ...]:
        return self.gathered(members)

    def _anatomies(
        self, members: Sequence[Any], say: Callable[[str], None]
    ) -> Iterator[tuple[str, Anatomy, NDArray[np.float32]]]:
        for member in members:
            try:
                anatomy, dose = anatomy_of(member, self.structures)
            except UnreadableError as error:
                say(f"{member.name} is left out of the table: {error}")
                continue
            if dose is not None and anatomy.possible.any():
                yield member.patient, anatomy, dose

    def rivals(self, problem: Problem) -> Mapping[str, Tensor]:
        return {"boosted trees": self._guess(problem)} if self.with_table else {}

    def _guess(self, problem: Problem) -> Tensor:
        """(B, 1, *axes) of the slice itself, on the scale of x."""
        return problem.condition.values[TABLE][:, self.neighbours : self.neighbours + 1]

    def problem(self, batch: Batch, rng: Rng) -> Problem:
        asked = self._inner.problem(batch, rng)
        weight = self._possible(asked)
        target, ground = asked.target, None
        if self.with_table and target is not None:
            target, ground = (target - self._guess(asked)) * LOUDER, self._guess(asked) * LOUDER
        weight = weight if asked.weight is None else asked.weight * weight
        return replace(asked, target=target, weight=weight, regions=self._regions(asked, weight), ground=ground)

    def _regions(self, asked: Problem, weight: Tensor) -> dict[str, Tensor]:
        """Where each structure lies that a row has."""
        found = {}
        for name in self.structures:
            inside = asked.condition.values[DISTANCE + name][:, self.neighbours : self.neighbours + 1] < 0
            known = asked.condition.present.get(DISTANCE + name)
            if known is not None:
                inside = inside & known.reshape(-1, *[1] * (inside.ndim - 1))
            found[name] = inside & (weight > 0)
        return found

    def question(self, batch: Batch, rng: Rng) -> Problem:
        """Raises UnreadableError for a case without a CT, which no table can guess."""
        known = batch.present.get(TABLE)
        if self.with_table and known is not None and not bool(known.all()):
            raise UnreadableError(f"{batch.cases[0].partition('/')[0]} has no CT to guess a dose on.", "Give its CT.")
        return self._inner.question(batch, rng)

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        whole = self._guess(problem).to(x) + x / LOUDER if self.with_table else x
        return whole.clamp(min=0) * self._possible(problem).to(x)

    def _possible(self, problem: Problem) -> Tensor:
        """(B, 1, *axes), 1 where there can be dose."""
        ct, mask = problem.condition.values["CT"], problem.condition.values[POSSIBLE][:, 1:2]
        scale = field_of("CT").scale
        assert scale is not None  # HU have a constant
        known = problem.condition.present.get(POSSIBLE)
        if known is None or bool(known.all()):
            return mask
        bright = ct[:, self.neighbours : self.neighbours + 1] > (BODY_HU - scale.offset) / scale.width
        body = torch.from_numpy(filled(bright.cpu().numpy())).to(mask)  # airways get dose too
        return torch.where(known.reshape(-1, *[1] * (mask.ndim - 1)), mask, body)

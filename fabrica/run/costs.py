"""What quality costs: the same cases drawn with fewer network evaluations; how many a trained stage was found to
need.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..contracts import Backbone, Family, Problem
from ..families import with_steps
from ..rng import Rng
from .memory import corner

CHOICE = "evaluations.json"  # beside a stage's checkpoint


@torch.no_grad()
def evaluations(family: Family, problem: Problem) -> int:
    """How many rows the networks that know the noise level are given to draw the first row, on a corner of its grid: a
    call that asks with and without a condition, as guidance does, counts twice.
    """
    calls = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        nonlocal calls
        calls += len(inputs[0])

    hooks = [m.register_forward_hook(count) for m in family.modules() if isinstance(m, Backbone)]
    try:
        family.sample(corner(family, problem).rows(torch.tensor([0])), Rng([0]))
    finally:
        for hook in hooks:
            hook.remove()
    return max(1, calls)  # a decoder alone is one pass


@dataclass(frozen=True, slots=True)
class Tried:
    """What one number of evaluations reached: the mean over seeds."""

    evaluations: int
    distortion: float | None  # root mean square error on the model's scale; none where nothing is given
    realism: float | None  # kernel distance of textures from the same patients'; none where draws are constant
    seconds: float  # a row

    def in_words(self) -> str:
        error = [] if self.distortion is None else [f"error {self.distortion:.3f}"]
        return ", ".join([*error, "no texture" if self.realism is None else f"distance {self.realism:.3g}"])


@dataclass(frozen=True, slots=True)
class Choice:
    """The number that draws use, what was compared, and on how many patients."""

    evaluations: int
    own: bool  # what the family does by itself
    patients: int
    tried: tuple[Tried, ...]

    def in_words(self, name: str) -> str:
        best = ", ".join(f"{t.evaluations}: {t.in_words()}" for t in self.tried)
        people = f"{self.patients} validation patient{'s' * (self.patients != 1)}"
        return f"{name}: draws take {self.evaluations} evaluations of the network, chosen on {people} ({best})."


def kept_choice(place: Path) -> Choice | None:
    """What was chosen for a stage when it was judged; raises ValueError for a damaged file."""
    file = place / CHOICE
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text())
        tried = tuple(Tried(**t) for t in plain["tried"])
        return Choice(int(plain["evaluations"]), bool(plain["own"]), int(plain["patients"]), tried)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}). Delete it and go on: the choice is made again.") from error


def chosen_by(family: Family, choice: Choice | str | None) -> Family:
    """The family as it draws by a choice."""
    if not isinstance(choice, Choice) or choice.own:
        return family
    return with_steps(family, choice.evaluations) or family

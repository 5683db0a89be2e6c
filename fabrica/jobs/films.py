"""What jobs about films share: which frames are given, what lies between them by plain means, how a difference is
learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..contracts import POSITION, Batch, Condition, Field, Problem
from ..data.cohort import Member
from ..data.filmed import GIVEN, filmed
from .values import Values

LOUDER = 4.0  # how much a difference is scaled up: networks expect numbers about as large as images
PUT_BACK = 0.1  # weight of frames that are put back in the end


@dataclass(frozen=True)
class Frames:
    """A film of `frames` evenly spaced frames, some of which are given; `periodic`: the first follows the last."""

    film: str
    frames: int
    given: tuple[int, ...]
    periodic: bool

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.given))
        if not self.given or self.given[0] != 0 or not rising or self.given[-1] >= self.frames:
            raise ValueError(f"given is {list(self.given)}, expected rising frames of 0 to {self.frames - 1}, first 0.")
        if len(self.given) >= self.frames:
            raise ValueError("Every frame is given, so nothing is asked. Give fewer.")

    @property
    def asked(self) -> tuple[int, ...]:
        return tuple(t for t in range(self.frames) if t not in self.given)

    def fields(self) -> tuple[Field, Field]:
        """The film, and its given frames."""
        count = len(self.given)
        given = Field(GIVEN + self.film, "intensity", count, frames=count, moments=self.given)
        return Field(self.film, "intensity", self.frames, frames=self.frames), given

    def gathered(self, members: Sequence[Member], new: bool) -> tuple[Member, ...]:
        """Cases with the film and its given frames as images; `new`: with those frames alone."""
        return tuple(filmed(member, self.film, self.frames, self.given, new) for member in members)

    def question(self, batch: Batch, known: Values) -> Problem:
        """The given frames, and what else is known."""
        name = GIVEN + self.film
        given = batch.images[name]
        values = {name: given, **known.given(batch), POSITION.name: batch.values[POSITION.name]}
        present = {n: batch.present[n] for n in (name, *known.names) if n in batch.present}
        return Problem(batch.cases, (self.frames, *given.shape[2:]), Condition(values, present))

    def problem(self, batch: Batch, known: Values) -> Problem:
        """A question with its target: how the film differs from its blend, louder. Frames are given on the scale of the
        film, which those stored alone are not.
        """
        film = batch.images[self.film]
        given = film[:, list(self.given)]
        problem = self.question(replace(batch, images={**batch.images, GIVEN + self.film: given}), known)
        target = (film - self.blended(given)) * LOUDER
        weight = torch.ones(1, self.frames, *[1] * (target.ndim - 2), device=target.device)
        weight[:, list(self.given)] = PUT_BACK
        return replace(problem, target=target, weight=weight.expand(len(target), -1, *[-1] * (target.ndim - 2)))

    def shown(self, problem: Problem) -> Tensor:
        """(B, given, y, x)."""
        return problem.condition.values[GIVEN + self.film]

    def finished(self, x: Tensor, problem: Problem) -> Tensor:
        """The film that an answer means; given frames as they were."""
        given = self.shown(problem).to(x)
        whole = self.blended(given) + x / LOUDER
        whole[:, list(self.given)] = given
        return whole

    def between(self, t: int) -> tuple[int, int, float]:
        """Of a frame: the number of the given one before it, of the one after, and how much of the way has passed."""
        before = int(np.searchsorted(self.given, t, side="right")) - 1
        start = self.given[before]
        last = before + 1 == len(self.given)
        if last and not self.periodic:
            return before, before, 0.0
        after, end = (0, self.frames) if last else (before + 1, self.given[before + 1])
        return before, after, (t - start) / (end - start)

    def blended(self, given: Tensor, held: bool = False) -> Tensor:
        """(B, frames, y, x): between two given frames by the time that has passed; `held`: the nearer one."""
        frames = []
        for t in range(self.frames):
            before, after, share = self.between(t)
            share = round(share) if held else share
            frames.append((1 - share) * given[:, before] + share * given[:, after])
        return torch.stack(frames, 1)

    def flowed(self, given: Tensor) -> Tensor:
        """(B, frames, y, x): both neighbours moved along their optical flow and blended (TV-L1; Zach et al. 2007)."""
        images = given.double().cpu().numpy()
        rows = []
        for row in images:
            flows = {pair: _flow(row[pair[0]], row[pair[1]]) for t in self.asked for pair in self._pairs(t)}
            rows.append(np.stack([self._moved(row, flows, t) for t in range(self.frames)]))
        return torch.from_numpy(np.stack(rows)).to(given)

    def _pairs(self, t: int) -> Sequence[tuple[int, int]]:
        before, after, _ = self.between(t)
        return [] if before == after else [(before, after), (after, before)]

    def _moved(self, row: np.ndarray, flows: Mapping[tuple[int, int], np.ndarray], t: int) -> np.ndarray:
        before, after, share = self.between(t)
        if t in self.given or before == after:
            return np.asarray(row[before])
        one = _warped(row[before], -share * flows[before, after])
        other = _warped(row[after], -(1 - share) * flows[after, before])
        return np.asarray((1 - share) * one + share * other)


def _flow(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(2, y, x): where what is at a pixel of the first image is found in the other."""
    from skimage.registration import optical_flow_tvl1

    return np.asarray(optical_flow_tvl1(one, other))  # type: ignore[no-untyped-call]


def _warped(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    from scipy.ndimage import map_coordinates

    grid = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.asarray(map_coordinates(image, grid + flow, order=1, mode="nearest"))

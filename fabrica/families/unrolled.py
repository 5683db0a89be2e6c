"""A network and the physics, turn by turn: the learned restorer that a prior's draws have to beat."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..contracts import Measurement, Problem, Reconstructor, Scattered, Signature
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..physics.consistency import Data, some_of
from ..physics.discrepancy import mean_misfit
from ..rng import Rng
from .misfit import added_terms, check_losses, field_terms

WIDTH = 0.1  # how far the network's answer is first taken to be off, on the network's scale


class Unrolled(Reconstructor):
    """x by `iterations` turns of a network and of agreement with y (Hammernik et al. 2018; Aggarwal et al. 2019).

    It starts at least squares. Each turn the network, one for all turns, corrects x; then conjugate gradients find the
    nearest image that agrees with y, where how much the network is believed is learned turn by turn. Every row has the
    physics and the noise of its own y. Its draws are all the same.

    `losses` adds others of the table by weight: {structural: 0.5}. `supervision: measurements` needs no images: the
    network sees `share` of y and is judged by the rest (Yaman et al. 2020; of tomography by its views, Hendriksen et
    al. 2020). What y never holds of anybody stays unlearned.
    """

    deterministic = True
    learns = ("intensity",)

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, iterations: int = 4,
        supervision: Literal["images", "measurements"] = "images", share: float = 0.6,
        losses: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if not signature.measurements:
            raise ValueError(
                "Unrolled needs raw data to agree with, and this job has none. Write: family: {name: regression}"
            )
        if iterations < 1 or not 0 < share < 1:
            raise ValueError(
                f"unrolled has iterations {iterations}, share {share:g}, expected a turn at least and a share between"
                " 0 and 1."
            )
        self.losses = check_losses(losses or {})
        if self.losses and supervision == "measurements":
            raise ValueError("losses compare images, and measurements are to teach. Take losses out.")
        self.fields, self.supervision, self.share = signature.x, supervision, share
        self.net = backbone(signature, signature.channels, network, precision)
        self.log_width = nn.Parameter(torch.full((iterations,), math.log(WIDTH)))

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.parameters()}

    def _answer(self, problem: Problem, data: Data) -> Tensor:
        x, turns = data.plain(), len(self.log_width)
        for turn, width in enumerate(self.log_width.exp()):
            level = torch.full((len(x),), 4 * turn / turns - 2, device=x.device)
            x = data.nearest(x + self.net(x, level, problem.condition), width)
        return x

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        measured = the_one(problem)
        if self.supervision == "images":
            output = self._answer(problem, Data.of(measured))
            return {
                **field_terms(problem, output, self.fields), **added_terms(problem, output, self.fields, self.losses)
            }  # fmt: skip
        shown = some_of(measured, self.share, rng)
        held_out = measured.operator.measured(measured.value) & ~shown
        told = measured.operator(self._answer(problem, Data.of(measured, shown)))
        assert isinstance(measured.noise, Scattered)  # as `Data` says
        return {"misfit": mean_misfit(measured.noise, measured.value, told, held_out)}

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return self._answer(problem, Data.of(the_one(problem)))


def the_one(problem: Problem) -> Measurement:
    """What was measured of x."""
    (measured,) = problem.measurements.values()
    return measured

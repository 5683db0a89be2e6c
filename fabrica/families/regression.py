"""The plain network that every report is compared with: one pass from the condition to the mean answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..contracts import Family, Problem, Signature
from ..networks.backbone import backbone
from ..networks.blocks import shown
from ..networks.unet import UNetShape
from ..rng import Rng
from .misfit import added_terms, answer, check_losses, field_terms


class Regression(Family):
    """The plain baseline: x = network(condition), robust distance per intensity, cross-entropy and Dice per label, and
    the likelihood of events.

    `losses` adds others of the table by weight: {structural: 0.5, gradient difference: 1}. Its draws are all the same:
    the spread of an ensemble of draws is zero, and the report says so.
    """

    deterministic = True
    learns = (*Family.learns, "event")

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, losses: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        self.losses = check_losses(losses or {})
        if self.losses and not signature.axes:
            raise ValueError("losses compare images, and this job asks for numbers. Take losses out.")
        if signature.axes and not shown(signature.condition):
            raise ValueError("Regression needs an image to start from. Write: family: {name: flow}")
        self.fields = signature.x
        self.net = backbone(signature, 0, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _output(self, problem: Problem, device: torch.device) -> Tensor:
        nothing = torch.zeros(len(problem.cases), 0, *problem.shape[1:], device=device)
        result: Tensor = self.net(nothing, torch.zeros(len(problem.cases), device=device), problem.condition)
        return result

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        output = self._output(problem, next(self.net.parameters()).device)
        return {
            **field_terms(problem, output, self.fields),
            **added_terms(problem, output, self.fields, self.losses),
        }

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return answer(self._output(problem, next(self.net.parameters()).device), self.fields)

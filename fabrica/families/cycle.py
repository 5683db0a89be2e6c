"""Translation without pairs (Zhu et al. 2017): there and back again gives what one started from, and edges stay where
they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..contracts import Condition, Family, Field, Problem, Signature
from ..networks.backbone import backbone
from ..networks.blocks import planes_and_vectors, shown
from ..networks.discriminator import Discriminator
from ..networks.unet import UNetShape
from ..rng import Rng
from .critic import fool, teach
from .losses import absolute, edge_agreement
from .misfit import answer


class Cycle(Family):
    """Two generators and two critics; targets are images of other patients than the condition's.

    `cycle` weighs the way back, `structure` the agreement of edges between input and output (a generator that may hide
    anything in its output needs it: Phan et al. 2023), `identity` that an image of the asked kind is left as it is,
    where both kinds have as many channels. The critics see no condition: pairs are unknown; without `penalty` their
    weights are divided by their largest singular value.
    """

    learns = ("intensity",)
    unpaired = True

    def __init__(
        self, signature: Signature, network: UNetShape, precision: str, *, cycle: float = 10.0, structure: float = 1.0,
        identity: float = 2.0, penalty: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__()
        given = shown(signature.condition)
        if len(given) != 1 or given[0].kind != "intensity":
            names = ", ".join(f.name for f in given) or "none"
            raise ValueError(
                f"Unpaired translation takes one image and gives one; given are {names}. Write: from: [T1w]"
            )
        self.given, self.fields, self.penalty = given[0], signature.x, penalty
        self.weights = {
            "cycle": cycle,
            "structure": structure,
            "identity": identity if given[0].channels == signature.channels else 0.0,
        }
        _, others = planes_and_vectors(signature.condition)
        self.back_from = Field("given back", "intensity", signature.channels)
        backwards = Signature((given[0],), signature.axes, (self.back_from, *others))
        self.there = backbone(signature, 0, network, precision)
        self.back = backbone(backwards, 0, network, precision)
        axes = len(signature.axes)
        self.critic_there = Discriminator(axes, signature.channels, (), network, not penalty)
        self.critic_back = Discriminator(axes, given[0].channels, (), network, not penalty)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        critics = [*self.critic_there.parameters(), *self.critic_back.parameters()]
        return {"critic": critics, "model": [*self.there.parameters(), *self.back.parameters()]}

    def _go(self, net: nn.Module, name: str, image: Tensor, condition: Condition) -> Tensor:
        """One way: `image` stands for the condition's image."""
        present = {n: p for n, p in condition.present.items() if n != self.given.name}
        values = {**{n: v for n, v in condition.values.items() if n != self.given.name}, name: image}
        nothing = image.new_zeros(len(image), 0, *image.shape[2:])
        out: Tensor = net(nothing, torch.zeros(len(image), device=image.device), Condition(values, present))
        return out

    def _there(self, image: Tensor, problem: Problem) -> Tensor:
        return self._go(self.there, self.given.name, image, problem.condition)

    def _back(self, image: Tensor, problem: Problem) -> Tensor:
        return self._go(self.back, self.back_from.name, image, problem.condition)

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs images of the asked kind; {problem.cases[0]} has none. Leave such cases out of the"
                " training part."
            )
        a, b, nothing = problem.condition.values[self.given.name], problem.target, Condition()
        known = self._known(problem)
        if group == "critic":
            with torch.no_grad():
                fakes = self._there(a, problem), self._back(b, problem)
            ways = {
                "there": teach(self.critic_there, b, fakes[0], nothing, penalty=self.penalty),
                "back": teach(self.critic_back, a, fakes[1], nothing, penalty=self.penalty),
            }
            critics = {f"{name} {way}": term for way, terms in ways.items() for name, term in terms.items()}
            return {name: term * known for name, term in critics.items()}
        fake_b, fake_a = self._there(a, problem), self._back(b, problem)
        terms = {
            "there": fool(self.critic_there, b, fake_b, nothing)["adversarial"],
            "back": fool(self.critic_back, a, fake_a, nothing)["adversarial"],
            "cycle": (
                self.weights["cycle"]
                * (absolute(self._back(fake_b, problem), a) + absolute(self._there(fake_a, problem), b))
            ),
        }
        if self.weights["structure"]:
            terms["structure"] = self.weights["structure"] * (edge_agreement(fake_b, a) + edge_agreement(fake_a, b))
        if self.weights["identity"]:
            terms["identity"] = self.weights["identity"] * (
                absolute(self._there(b, problem), b) + absolute(self._back(a, problem), a)
            )
        return {name: term * known for name, term in terms.items()}

    def _known(self, problem: Problem) -> Tensor:
        """(B,): 1 where both images are there and of different patients."""
        rows = torch.ones(len(problem.cases), device=next(self.there.parameters()).device)
        if problem.weight is not None:
            rows = rows * (problem.weight.flatten(1).amax(1) > 0)
        present = problem.condition.present.get(self.given.name)
        return rows if present is None else rows * present

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        return answer(self._there(problem.condition.values[self.given.name], problem), self.fields)

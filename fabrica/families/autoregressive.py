"""Words drawn a few at a time in any order (Hoogeboom et al. 2022; drawing in few steps as Chang et al. 2022)."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..contracts import Condition, Density, Family, Field, Problem, Signature
from ..networks.backbone import backbone
from ..networks.unet import UNetShape
from ..rng import Rng


class Autoregressive(Density):
    """p(word | the words known so far, condition), learned for every order: label maps, or the words of a `vq` codec.

    The loss is the mean of -log p over the unknown words, in nats: with the number of known words drawn evenly, its
    mean is exactly that of -log p(x) per word over all orders. A draw takes `steps` evaluations: few words first, many
    last; with as many steps as words it follows the chain rule without error. `log_prob` is exact for its one fixed
    order, an evaluation a word.
    """

    learns = ("label",)

    def __init__(self, signature: Signature, network: UNetShape, precision: str, *, steps: int = 16) -> None:
        super().__init__()
        if steps < 1:
            raise ValueError(f"autoregressive.steps is {steps}, expected at least 1.")
        self.fields, self.steps = signature.x, steps
        self.net = backbone(signature, signature.channels, network, precision)

    def groups(self) -> Mapping[str, Iterable[nn.Parameter]]:
        return {"model": self.net.parameters()}

    def _logits(self, x: Tensor, known: Tensor, condition: Condition) -> Tensor:
        """known (B, fields, *grid): which words of x (one-hot) may be seen."""
        share = known.float().flatten(1).mean(1)
        logits: Tensor = self.net(x * widened(known, self.fields), 4 * share - 2, condition)
        return logits

    def loss(self, problem: Problem, group: str, rng: Rng, progress: float) -> Mapping[str, Tensor]:
        if problem.target is None:
            raise ValueError(
                f"Training needs targets; {problem.cases[0]} has none. Leave such cases out of the training part."
            )
        target, device = problem.target, problem.target.device
        rank = ranks(rng.child("order").uniform(len(self.fields), *problem.shape[1:]).to(device))
        words = rank[0].numel()
        seen = (rng.child("seen").uniform().to(device) * words).floor().clamp(max=words - 1)  # 0 to words - 1, evenly
        known = rank < seen.reshape(-1, *[1] * (rank.ndim - 1))
        there = torch.ones_like(target) if problem.weight is None else problem.weight.expand_as(target)
        given = _first_channels(there, self.fields) > 0
        surprise = -chosen(self._logits(target, known & given, problem.condition), target, self.fields)
        counted = (~known & given).float()
        return {"nats": (surprise * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1.0)}

    def with_steps(self, count: int) -> Family:
        twin = copy.copy(self)
        twin.steps = count
        return twin

    @torch.no_grad()
    def sample(self, problem: Problem, rng: Rng) -> Tensor:
        """One-hot labels."""
        device = next(self.net.parameters()).device
        rank = ranks(rng.child("order").uniform(len(self.fields), *problem.shape[1:]).to(device))
        words = rank[0].numel()
        x, before = torch.zeros(len(rank), *problem.shape, device=device), 0
        for step in range(self.steps):
            after = words - round(words * math.cos(math.pi / 2 * (step + 1) / self.steps))
            if after > before:
                logits = self._logits(x, rank < before, problem.condition)
                chance = rng.child("word", step).uniform(*problem.shape).to(device).clamp(1e-12, 1 - 1e-7)
                drawn = one_hot(logits - (-chance.log()).log(), self.fields)  # Gumbel: the largest is a draw
                x = x + drawn * widened((rank >= before) & (rank < after), self.fields)
                before = after
        return x

    @torch.no_grad()
    def log_prob(self, x: Tensor, condition: Condition) -> Tensor:
        """(B,) in nats; x (B, C, *axes) one-hot or chances, of which the largest counts."""
        order = Rng([0]).child("order").uniform(len(self.fields), *x.shape[2:]).to(x.device)
        return self.along(ranks(order), x, condition)

    def along(self, rank: Tensor, x: Tensor, condition: Condition) -> Tensor:
        """log p of x when its words are told in this order; rank (1, fields, *grid) counts from 0."""
        x, total = one_hot(x, self.fields), torch.zeros(len(x), dtype=torch.float64, device=x.device)
        for number in range(rank.numel()):
            known = (rank < number).expand(len(x), *rank.shape[1:])
            found = chosen(self._logits(x, known, condition), x, self.fields)
            total += (found * (rank == number)).flatten(1).sum(1).double()
        return total.float()


def ranks(order: Tensor) -> Tensor:
    """Place of each entry among all of its row, from 0."""
    flat = order.flatten(1)
    return flat.argsort(1).argsort(1).reshape(order.shape)


def widened(known: Tensor, fields: Sequence[Field]) -> Tensor:
    """(B, fields, ...) -> (B, channels, ...) as float."""
    return torch.cat(
        [known[:, i : i + 1].expand(-1, f.channels, *known.shape[2:]) for i, f in enumerate(fields)], 1
    ).float()


def chosen(logits: Tensor, target: Tensor, fields: Sequence[Field]) -> Tensor:
    """(B, fields, ...): log-probability of the words of a one-hot target."""
    parts = zip(_split(logits, fields), _split(target, fields), strict=True)
    return torch.stack([(a.log_softmax(1) * b).sum(1) for a, b in parts], 1)


def one_hot(scores: Tensor, fields: Sequence[Field]) -> Tensor:
    """The largest channel of each field becomes 1, the others 0."""
    found = [torch.zeros_like(p).scatter_(1, p.argmax(1, keepdim=True), 1.0) for p in _split(scores, fields)]
    return torch.cat(found, 1)


def _first_channels(values: Tensor, fields: Sequence[Field]) -> Tensor:
    return torch.cat([p[:, :1] for p in _split(values, fields)], 1)


def _split(values: Tensor, fields: Sequence[Field]) -> tuple[Tensor, ...]:
    return torch.split(values, [f.channels for f in fields], 1)

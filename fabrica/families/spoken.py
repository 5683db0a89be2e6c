"""Parts of x on no grid: learned as words that are hidden, told one after another (Austin et al. 2021; Devlin 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..contracts import Condition, Field, Problem
from ..networks.joint import Joint, Looked, as_value, as_words, middles, positions
from ..rng import Rng

LISTENS = 0.3  # of the rows that are asked for words; the others learn to draw, and hear beside it
HEARING = 1 - 1e-3  # t at which an image is noise alone, and what is given is all there is to tell words from


def listening(problem: Problem, rng: Rng) -> Tensor:
    """bool (B,): rows of a training batch whose words are to be told from what is given alone; some of those asked."""
    wanted = torch.zeros(len(problem.cases), dtype=torch.bool)
    for rows in problem.wanted.values():
        wanted |= rows.cpu()
    return wanted & (rng.child("listen").uniform() < LISTENS)


def as_noise(problem: Problem, rng: Rng, device: torch.device) -> Tensor:
    """(B, C, *axes) of what the network is shown where no image is drawn yet."""
    return rng.child("silence").normal(*problem.shape).to(device)


class Spoken:
    """A network of images and words, with words hidden from it; called as the network is called, it keeps logits."""

    def __init__(self, net: Joint) -> None:
        self.net, self.fields = net, {f.name: f for f in net.parts}
        self.known: dict[str, Tensor] = {}
        self.counted: dict[str, Tensor] = {}
        self.logits: dict[str, Tensor] = {}

    def hidden(self, problem: Problem, rng: Rng) -> Spoken:
        """Some words of what is asked are shown: as many as an even chance says, at least one is not."""
        for name, field in self.fields.items():
            wanted, rows = problem.wanted[name], len(problem.cases)
            chance = rng.child("word", name).uniform(positions(field)).to(wanted.device)
            share = rng.child("words", name).uniform().to(wanted.device)
            seen = (chance < share[:, None]) & (chance > chance.min(1, keepdim=True).values)
            given = problem.condition.present.get(name, torch.zeros_like(wanted))[:, None].expand(rows, -1)
            self.known[name] = given | (wanted[:, None] & seen)
            self.counted[name] = wanted[:, None] & ~seen
        return self

    def __call__(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        images, self.logits = self.net.both(x, level, condition, self.known)
        return images

    def surprise(self, problem: Problem) -> Tensor:
        """(B,): mean nats of the words that were hidden, summed over the parts; of a text up to its end."""
        total = torch.zeros(len(problem.cases), device=next(iter(self.logits.values())).device)
        for name, field in self.fields.items():
            words = as_words(field, problem.beside[name])
            counted = (self.counted[name] & _within(field, words)).float()
            nats = F.cross_entropy(self.logits[name].flatten(0, 1), words.flatten(), reduction="none")
            total = total + (nats.reshape(words.shape) * counted).sum(1) / counted.sum(1).clamp(min=1)
        return total

    def told(self, problem: Problem, names: Sequence[str], noise: Tensor, rng: Rng) -> Mapping[str, Tensor]:
        """These parts: where a row's condition has one as it is there, else drawn word by word, each after the
        others.
        """
        words, condition = self._given(problem, noise.device)
        looked = self._looked(noise, condition)
        for name, field in ((n, self.fields[n]) for n in names):
            missing = ~self.known[name].all(1)
            ended = ~missing
            for k in range(positions(field)):
                if bool(ended.all()):
                    break
                logits = self._heard(looked, condition, words)[name][:, k]
                chance = rng.child("tell", name, k).uniform(logits.shape[1]).to(noise.device).clamp(1e-12, 1 - 1e-7)
                drawn = (logits - (-chance.log()).log()).argmax(1)  # Gumbel: the largest is a draw
                words[name][:, k] = torch.where(ended, words[name][:, k], drawn)
                self.known[name][:, k] = True
                ended = ended | (words[name][:, k] == 0) if field.kind == "token" else ended
            self.known[name][:] = True
        return {name: as_value(self.fields[name], words[name]) for name in names}

    def expected(self, problem: Problem, noise: Tensor, name: str) -> Tensor:
        words, condition = self._given(problem, noise.device)
        chances = self._heard(self._looked(noise, condition), condition, words)[name].softmax(-1)[:, 0]
        return chances @ middles(noise.device) if self.fields[name].kind == "number" else chances

    def _given(self, problem: Problem, device: torch.device) -> tuple[dict[str, Tensor], Condition]:
        rows, words = len(problem.cases), dict[str, Tensor]()
        for name, field in self.fields.items():
            value = problem.condition.values.get(name)
            there = torch.full((rows,), value is not None, device=device)
            there = there & problem.condition.present.get(name, there)
            blank = torch.zeros(rows, positions(field), dtype=torch.long, device=device)
            words[name] = blank if value is None else as_words(field, value).where(there[:, None], blank)
            self.known[name] = there[:, None].expand(-1, positions(field)).clone()
        return words, problem.condition

    def _looked(self, noise: Tensor, condition: Condition) -> Looked:
        level = torch.full((len(noise),), 4 * HEARING - 2, device=noise.device)
        return self.net.looked(noise, level, condition)

    def _heard(self, looked: Looked, condition: Condition, words: Mapping[str, Tensor]) -> dict[str, Tensor]:
        values = {**condition.values, **{n: as_value(self.fields[n], w) for n, w in words.items()}}
        return self.net.heard(looked, replace(condition, values=values), self.known)


def _within(field: Field, words: Tensor) -> Tensor:
    """Words of a text, and the first that says that it has ended."""
    if field.kind != "token":
        return torch.ones_like(words, dtype=torch.bool)
    before = torch.cat([torch.ones_like(words[:, :1]), words[:, :-1]], 1)
    return (words > 0) | (before > 0)

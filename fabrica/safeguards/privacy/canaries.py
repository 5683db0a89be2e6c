"""Marks that are put into a few training images, so that an audit can tell whether marks are learned by heart.

A mark is one of TAGS faint patterns. After training, the model is asked how well the marked image fits it with each
pattern: where it prefers the one that it was shown, it remembers this very image (exposure: Carlini et al. 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from ...rng import derive
from ..gate import Check

TAGS = 1024
STRENGTH = 0.1  # root mean square of a mark, on the network's scale: seen by whoever looks
WAVES = 6
LEVEL = 0.01


def chosen(names: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """Which cases are marked, and the number of each one's tag: by chance, and the same for the same seed."""
    order = sorted(names, key=lambda name: derive(seed, "canary", name))
    return {name: derive(seed, "tag", name) % TAGS for name in order[:count]}


def pattern(tag: int, sides: Sequence[int]) -> Tensor:
    """(*sides) float32, of mean 0 and root mean square STRENGTH: a few waves along the last two axes."""
    generator = torch.Generator().manual_seed(derive(tag, "canary pattern") % 2**31)
    y, x = (torch.linspace(0, 1, n) for n in sides[-2:])
    plane = torch.zeros(sides[-2], sides[-1])
    for _ in range(WAVES):
        across, down = (torch.rand(2, generator=generator) * 12 - 6).round().tolist()
        phase = 2 * math.pi * float(torch.rand(1, generator=generator))
        plane += torch.cos(2 * math.pi * (across * x[None] + down * y[:, None]) + phase)
    plane = plane - plane.mean()
    plane *= STRENGTH / plane.square().mean().sqrt().clamp(min=1e-9)
    return plane.expand(*sides)


@dataclass(frozen=True)
class Exposure:
    """Of one marked case: the rank of its own tag among all, by how well the image fits the model with it."""

    rank: int  # 1: better than with any other

    @property
    def bits(self) -> float:
        return math.log2(TAGS / self.rank)


def exposure_of(losses: Tensor, tag: int) -> Exposure:
    """`losses` (TAGS,): of the marked image with each tag in turn; ties count half."""
    own = losses[tag]
    better, same = int((losses < own).sum()), int((losses == own).sum()) - 1
    return Exposure(1 + better + (same + 1) // 2)


def canaries_check(found: Mapping[str, Exposure], why_not: str = "") -> Check:
    """Ranks are even over all tags where nothing was remembered: Fisher's test of their product."""
    if why_not or not found:
        return Check("NOT ASSESSABLE", None, None, LEVEL, f"Canaries: {why_not or 'none were put into training'}.")
    chances = [one.rank / TAGS for one in found.values()]
    p = float(stats.combine_pvalues(chances).pvalue)
    most = max(one.bits for one in found.values())
    mean = sum(one.bits for one in found.values()) / len(found)
    said = f"{len(found)} marked images, exposure {mean:.1f} bits in the mean (1.4 by chance), {most:.1f} at most of 10"
    if p < LEVEL:
        return Check("WARN", p, None, LEVEL, f"Marks of single training images were learned by heart: {said}.")
    return Check("PASS", p, None, LEVEL, f"Marks were not learned: {said}.")

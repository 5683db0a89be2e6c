"""Low-rank adapters: what a trained network is taught of a new scanner, beside its own weights (Hu et al. 2022, LoRA).

A weight W of (outputs, positions x inputs) becomes W + up @ down, of which only the thin factors are trained.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
UP, DOWN = "up", "down"  # names of the factors in a file of an adapter: LAYER.up, LAYER.down
_INSIDE = "parametrizations.weight.0"


class LowRank(nn.Module):
    """weight -> weight + up @ down; at first the weight itself."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        outputs, inputs = len(weight), weight[0].numel()
        self.down = nn.Parameter(torch.randn(rank, inputs, device=weight.device) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + _laid_out(self.up @ self.down, weight)


def _laid_out(change: Tensor, weight: Tensor) -> Tensor:
    """(outputs, positions x inputs) as the weight it changes: inputs lie side by side, as networks keep them."""
    return change.reshape(len(weight), *weight.shape[2:], weight.shape[1]).movedim(-1, 1)


def adapt(module: nn.Module, trained: Collection[nn.Parameter], rank: int) -> int:
    """Freeze a module and give convolutions and the layers of attention, whose weights are among `trained`, a low-rank
    change; returns the number of parameters that learn.

    Not the ends of a network, nor what a noise level and conditions enter by: a small change there moves all that
    follows. A layer with no more than `rank` outputs or inputs gets a change of its own full rank. Raises ValueError
    where no layer takes one.
    """
    chosen = {id(p) for p in trained}
    attending = {id(part) for m in module.modules() if hasattr(m, "heads") for part in m.children()}
    layers = [
        m
        for m in module.modules()
        if isinstance(m, KINDS)
        and id(m.weight) in chosen
        and not getattr(m, "is_end", False)
        and (not isinstance(m, nn.Linear) or id(m) in attending)
    ]
    if not layers:
        raise ValueError("No layer of this network takes an adapter: it has neither dense layers nor convolutions.")
    module.requires_grad_(False)
    learned = 0
    for layer in layers:
        weight = layer.weight
        change = LowRank(weight, min(rank, len(weight), weight[0].numel()))
        parametrize.register_parametrization(layer, "weight", change)
        learned += sum(p.numel() for p in change.parameters())
    return learned


def factors(module: nn.Module) -> dict[str, Tensor]:
    """The thin factors of an adapted module, by LAYER.up and LAYER.down."""
    return {
        f"{name.removesuffix('.' + _INSIDE)}.{which}": getattr(part, which).detach()
        for name, part in module.named_modules()
        if isinstance(part, LowRank)
        for which in (UP, DOWN)
    }


def merge(module: nn.Module) -> None:
    """The changed weights in place of the weights and their factors."""
    for part in list(module.modules()):
        if parametrize.is_parametrized(part, "weight"):
            parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)


def merged(weights: Mapping[str, Tensor], thin: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with what an adapter changes of it; raises KeyError for a layer that it has not, ValueError for one
    of another shape.
    """
    found = dict(weights)
    for layer in {name.rpartition(".")[0] for name in thin}:
        name, up, down = f"{layer}.weight", thin[f"{layer}.{UP}"], thin[f"{layer}.{DOWN}"]
        weight = found[name]
        if len(up) != len(weight) or down.shape[1] != weight[0].numel():
            raise ValueError(f"{name} has the shape {tuple(weight.shape)}, its adapter {len(up)} x {down.shape[1]}")
        found[name] = weight + _laid_out(up @ down, weight).to(weight.dtype)
    return found

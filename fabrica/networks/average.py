"""A slow copy of a module: exponential moving average for drawing, teacher for consistency."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average(nn.Module):
    """Parameters that follow another module's by lerp; with a warm-up, so that early noise is forgotten."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.slow = copy.deepcopy(module).requires_grad_(False)
        self.decay, self._fast = decay, (module,)  # in a tuple, so that it is not registered twice

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move after optimiser step number `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        slow = [p.detach() for p in self.slow.parameters()]
        fast = [p.detach() for p in self._fast[0].parameters()]
        torch._foreach_lerp_(slow, fast, weight)
        for own, theirs in zip(self.slow.buffers(), self._fast[0].buffers(), strict=True):
            own.copy_(theirs)

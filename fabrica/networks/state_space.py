"""Sequences mixed in linear time by a state that decays as the content says (Mamba-2: Dao and Gu 2024), in plain
PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import HEAD

STATE = 16  # numbers that a channel's state holds
CHUNK = 64  # tokens mixed by a matrix; states pass between chunks


class StateSpace(nn.Module):
    """Tokens of a grid (B, tokens, width), read along one order of its axes, forwards and backwards.

    Neighbours on the grid meet in a depthwise convolution first. Blocks take turns in which axis runs fastest (`turn`).
    """

    def __init__(self, dimensions: int, width: int, turn: int) -> None:
        super().__init__()
        self.dimensions, self.width, self.heads, self.turn = dimensions, width, width // HEAD, turn % dimensions
        self.enter = nn.Linear(width, 2 * width)
        self.steer = nn.Linear(
            width, 2 * (2 * STATE + self.heads)
        )  # of each direction: what is written, read, and how fast
        kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.near = kind(width, width, 3, padding=1, groups=width)
        rates = torch.linspace(0.5, 4.0, self.heads)  # forgetting within some tokens to some hundred
        self.decay, self.through = nn.Parameter(rates.log()), nn.Parameter(torch.ones(self.heads))
        self.pace = nn.Parameter(torch.full((2, self.heads), -3.0))
        self.out = nn.Linear(width, width)

    def forward(self, y: Tensor, grid: Sequence[int]) -> Tensor:
        order = [1 + (k + self.turn) % self.dimensions for k in range(self.dimensions)]
        x, gate = self.enter(y).chunk(2, 2)
        x = x.transpose(1, 2).reshape(y.shape[0], self.width, *grid)
        x = F.silu(self.near(x)).movedim(1, -1)
        x = x.permute(0, *order, self.dimensions + 1)
        sides, x = x.shape[1:-1], x.flatten(1, -2)
        ways = self.steer(x).chunk(2, 2)
        heads = x.reshape(*x.shape[:2], self.heads, HEAD).float()
        mixed = heads * self.through[:, None]
        for way, (steer, pace) in enumerate(zip(ways, self.pace, strict=True)):
            mixed = mixed + self._one_way(heads, steer.float(), pace, backwards=way == 1)
        mixed = mixed.flatten(2).reshape(y.shape[0], *sides, self.width)
        back = [0, *(1 + order.index(1 + k) for k in range(self.dimensions)), self.dimensions + 1]
        mixed = mixed.permute(back).flatten(1, -2).to(gate.dtype)
        result: Tensor = self.out(F.layer_norm(mixed, (self.width,)) * F.silu(gate))
        return result

    def _one_way(self, x: Tensor, steer: Tensor, pace: Tensor, *, backwards: bool) -> Tensor:
        if backwards:
            x, steer = x.flip(1), steer.flip(1)
        write, read, rate = torch.split(steer, [STATE, STATE, self.heads], 2)
        step = F.softplus(rate + pace)
        found = scan(x * step[..., None], -step * self.decay.exp(), write, read)
        return found.flip(1) if backwards else found


def scan(x: Tensor, decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """y_t = read_t . h_t with h_t = exp(decay_t) h_{t-1} + write_t x_t, for each head; h starts at 0.

    x (B, L, H, P), decay (B, L, H) at most 0, write and read (B, L, N); cost grows with L. Within a chunk it is one
    masked product of matrices, between chunks a state is handed on.
    """
    length = x.shape[1]
    missing = (-length) % CHUNK
    x, decay = F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(decay, (0, 0, 0, missing))
    write, read = F.pad(write, (0, 0, 0, missing)), F.pad(read, (0, 0, 0, missing))
    x, decay, write, read = (
        t.reshape(t.shape[0], -1, CHUNK, *t.shape[2:]) for t in (x, decay, write, read)
    )  # (B, K, Q, ...)
    total = decay.cumsum(2)
    between = total[:, :, :, None] - total[:, :, None]  # (B, K, Q, S, H): decay from s to q
    causal = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=x.device).tril()[:, :, None]
    weights = (
        torch.einsum("bkqn,bksn->bkqs", read, write)[..., None] * between.masked_fill(~causal, float("-inf")).exp()
    )
    inside = torch.einsum("bkqsh,bkshp->bkqhp", weights, x)
    left = (total[:, :, -1:] - total).exp()
    written = torch.einsum("bksn,bksh,bkshp->bkhnp", write, left, x)
    state, before = torch.zeros_like(written[:, 0]), []
    for k in range(x.shape[1]):
        before.append(state)
        state = state * total[:, k, -1].exp()[..., None, None] + written[:, k]
    outside = torch.einsum("bkqn,bkqh,bkhnp->bkqhp", read, total.exp(), torch.stack(before, 1))
    return (inside + outside).flatten(1, 2)[:, :length]

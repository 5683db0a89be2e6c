"""The preconditioning that diffusion and flow share (Karras et al. 2022, table 1, column "Ours")."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ..contracts import Condition


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(B,) so that it multiplies rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def preconditioned(
    net: Callable[[Tensor, Tensor, Condition], Tensor],
    x: Tensor,
    sigma: Tensor,
    level: Tensor,
    sigma_data: float,
    condition: Condition,
) -> Tensor:
    """E[clean | x] = c_skip x + c_out net(c_in x, level); sigma (B,) in units of x, level (B,) as the network reads
    it.
    """
    s = wide(sigma, x).float()
    total = (s**2 + sigma_data**2).sqrt()
    inner = net((x / total).float(), level, condition)
    result: Tensor = x * (sigma_data / total) ** 2 + inner * (s * sigma_data / total)
    return result

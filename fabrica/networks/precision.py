"""Which number format a machine is fast in, by trying it: processors of one name differ, and names lie."""

from __future__ import annotations

import functools
import time

import torch
from torch import Tensor
from torch.nn import functional as F

WORTH_IT = 1.3  # bfloat16 must be this much faster than float32 to be used


@functools.lru_cache(maxsize=4)
def convolution_gflops(device: str = "cpu") -> dict[str, float]:
    """Billions of operations a second of a channels-last convolution in fp32 and bf16; about 50 ms, once."""
    x = torch.randn(8, 64, 32, 32, device=device).to(memory_format=torch.channels_last)
    w = torch.randn(64, 64, 3, 3, device=device).to(memory_format=torch.channels_last)
    work = 2e-9 * 9 * 64 * 64 * 8 * 32 * 32
    return {n: work / _best(x.to(t), w.to(t)) for n, t in (("fp32", torch.float32), ("bf16", torch.bfloat16))}


def bfloat16_gain(device: str = "cpu") -> float:
    """How many times faster a convolution runs in bfloat16 than in float32."""
    found = convolution_gflops(device)
    return found["bf16"] / found["fp32"]


def _best(x: Tensor, w: Tensor) -> float:
    found = []
    with torch.no_grad():
        for _ in range(6):
            start = time.perf_counter()
            F.conv2d(x, w, padding=1)
            if x.is_cuda:
                torch.cuda.synchronize(x.device)
            found.append(time.perf_counter() - start)
    return min(found)


def choose(device: str = "cpu") -> str:
    """ "bf16" or "fp32": what a run uses when its recipe says `precision: auto`; it stands in the checkpoint."""
    return "bf16" if bfloat16_gain(device) >= WORTH_IT else "fp32"

"""Networks compiled for drawing on a card (torch.compile with CUDA graphs), so that launching kernels costs nothing.

Each shape is compiled once, which takes a minute: worth it for many cases of one size. Of a processor it is refused:
there a compiled draw took eight times as long (two slices of 64 x 64, default network).
"""

from __future__ import annotations

import os
import shutil

import torch
from torch import Tensor, nn

from ..contracts import Condition
from .tiled import networks_of

COMPILERS = ("g++", "clang++")


class Compiled(nn.Module):
    """Called like the network that it holds, which is compiled where it lies."""

    def __init__(self, net: nn.Module, device: str, backend: str) -> None:
        super().__init__()
        self.net, self.graphs = net, device == "cuda"
        if backend == "inductor" and self.graphs:
            net.compile(mode="reduce-overhead", dynamic=False)
        else:
            net.compile(backend=backend, dynamic=False)

    def forward(self, x: Tensor, level: Tensor, condition: Condition) -> Tensor:
        if not self.graphs:
            whole: Tensor = self.net(x, level, condition)
            return whole
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        kept: Tensor = self.net(x, level, condition).clone()  # a graph writes its next answer over this one
        return kept


def compile_networks(family: nn.Module, device: str, backend: str = "inductor") -> int:
    """Compile each network that a sampler asks, where it lies; how many. Codecs stay as they are.

    Raises ValueError for a processor, and where nothing can compile.
    """
    if backend == "inductor" and device != "cuda":
        raise ValueError("--compile is for a CUDA card: on processors compiled networks are slower. Leave it out.")
    if backend == "inductor" and not any(map(shutil.which, (os.environ.get("CXX", ""), *COMPILERS))):
        raise ValueError("--compile needs a C++ compiler. Type: apt-get install g++, or leave --compile out.")
    held = [found for found in networks_of(family) if found.asked]
    for found in held:
        setattr(found.parent, found.name, Compiled(found.net, device, backend))
    return len(held)

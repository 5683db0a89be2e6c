"""Is a processor's bfloat16 right? Every layer is tried in the shapes that a training will use, against float32.

torch 2.13 answers with memory that nobody wrote when a 3D convolution whose grid has a side of 2 asks oneDNN for the
gradient of its weights on processors with bfloat16 instructions. A layer that fails is computed in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .blocks import Up
from .codec import Enlarge

WRONG = 0.1  # relative error that rounding to 8 bits never reaches: it makes some 0.005
TRIALS = 3  # memory that nobody wrote may hold anything
LARGE = 2**22  # numbers that enter a layer: from here one trial is enough to wait for
_KINDS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear, Up, Enlarge)
_Shape = tuple[Any, ...]


def unsound_layers(module: nn.Module, call: Callable[[], object]) -> dict[str, str]:
    """Layers that bfloat16 computes wrongly while `call()` runs the module: name -> what is wrong, in words."""
    names: dict[nn.Module, str] = {layer: name for name, layer in module.named_modules() if isinstance(layer, _KINDS)}
    inner = {
        part for layer in names if isinstance(layer, Up | Enlarge) for part in layer.modules() if part is not layer
    }
    seen: dict[_Shape, tuple[nn.Module, tuple[Tensor, ...]]] = {}
    shapes: dict[nn.Module, set[_Shape]] = {}

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        device = inputs[0].device.type
        if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) is torch.bfloat16:
            shape = _shape(layer, inputs)
            seen.setdefault(shape, (layer, tuple(torch.empty_like(t, device="meta") for t in inputs)))
            shapes.setdefault(layer, set()).add(shape)

    hooks = [layer.register_forward_pre_hook(look) for layer in names if layer not in inner]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    faults = {shape: fault for shape, (layer, inputs) in seen.items() if (fault := _fault(layer, inputs))}
    return {
        names[layer]: next(faults[s] for s in own if s in faults)
        for layer, own in shapes.items()
        if any(s in faults for s in own)
    }


def in_float32(module: nn.Module, names: Iterable[str]) -> None:
    """From now on these layers leave bfloat16 aside; raises KeyError for a name that the module has not."""
    layers = dict(module.named_modules())
    for name in names:
        layer = layers[name]
        if not getattr(type(layer), "left_bfloat16", False):
            layer.__class__ = _widened(type(layer))  # type: ignore[arg-type]


@functools.cache
def _widened(kind: type[nn.Module]) -> type[nn.Module]:
    """The same layer with autocast switched off around it: weights, copies and checkpoints stay what they are."""

    def forward(self: nn.Module, *inputs: Tensor) -> Any:
        with torch.autocast(inputs[0].device.type, enabled=False):
            return kind.forward(self, *(t.float() for t in inputs))

    return type(f"{kind.__name__}InFloat32", (kind,), {"forward": forward, "left_bfloat16": True})


def _shape(layer: nn.Module, inputs: tuple[Tensor, ...]) -> _Shape:
    weights = tuple(tuple(p.shape) for p in layer.parameters())
    options = tuple(str(getattr(layer, k, "")) for k in ("stride", "padding", "factor"))
    return (type(layer), weights, options, tuple((tuple(t.shape), t.stride(), t.dtype) for t in inputs))


def _fault(layer: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """What is wrong with the layer on such inputs, or ''."""
    device = next(layer.parameters()).device
    count = TRIALS if sum(t.numel() for t in inputs) < LARGE else 1
    grid = " x ".join(map(str, inputs[0].shape[2:])) or "rows"
    with torch.enable_grad(), _seeded():
        for _ in range(count):
            given = tuple(torch.empty_like(t, device=device).normal_().requires_grad_() for t in inputs)
            right, found = _answers(layer, given, enabled=False), _answers(layer, given, enabled=True)
            for what, r in right.items():
                error = float((found[what].float() - r).norm() / r.norm().clamp(min=1e-12))
                if not error < WRONG:  # NaN is wrong too
                    return f"its bfloat16 {what} is wrong on a grid of {grid} (relative error {error:.2g})"
    return ""


def _answers(layer: nn.Module, given: tuple[Tensor, ...], enabled: bool) -> Mapping[str, Tensor]:
    """Result and gradients, in bfloat16 where enabled."""
    with torch.autocast(given[0].device.type, torch.bfloat16, enabled=enabled):
        out = layer(*given) if enabled else layer(*(t.float() for t in given))
    towards = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    pull = torch.linspace(-1, 1, out.numel(), device=out.device).sin().reshape(out.shape)
    asked = [given[0], *towards.values()]
    found = torch.autograd.grad(out, asked, pull.to(out.dtype), allow_unused=True)
    names = ["gradient of its input", *(f"gradient of its {n.split('.')[-1]}" for n in towards)]
    answers = {n: g.detach() for n, g in zip(names, found, strict=True) if g is not None}
    return {"result": out.detach(), **answers}


@contextmanager
def _seeded() -> Iterator[None]:
    """The same inputs every time, and no other random number is moved."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield

"""A trained stage as ONNX: its denoiser, its codec or its regression, checked against itself by onnxruntime."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..contracts import SCALES, Codec, Condition, Denoiser, Family, Field
from ..families import Latent, Regression
from ..families.misfit import answer
from ..learning.facts import Facts
from ..recipe.values import Stage
from .family import trained_family
from .folder import RunFolder
from .shift import weights_of

Say = Callable[[str], None]
EXTRA = 'Install it: pip install -c constraints.txt -e ".[export]"'
CLOSE = 1e-4  # of the largest number: what onnxruntime may differ by
HAS = "has_"  # + name: 1 where a row has the condition, else 0
OPSET = 18


class _Part(nn.Module):
    """One function of a family as a module of named tensors."""

    def __init__(self, family: Family, names: Sequence[str], call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.family, self.names, self.call = family, tuple(names), call

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.call(dict(zip(self.names, tensors, strict=True)))


def export_stage(
    run: Path, out: Path, *, stage: str | None = None, size: Sequence[int] = (), say: Say = print
) -> list[Path]:
    """OUT/PART.onnx for each function of the stage's family, and OUT/interface.json, which says what its numbers mean.

    Batches may have any length; the grid is that of training, or `size`. Raises ValueError for a stage that cannot be
    exported, and where onnxruntime answers otherwise than the family does.
    """
    opened = RunFolder.open(run)
    chosen = opened.last_stage(stage)
    facts = opened.trained(chosen)
    family = trained_family(opened, chosen, facts).to("cpu").eval()
    sides = _sides(chosen, facts, family, size)
    parts = _parts(chosen, family, sides)
    out.mkdir(parents=True, exist_ok=True)
    written, told = list[Path](), dict[str, Any]()
    for name, (part, inputs) in parts.items():
        path = out / f"{name}.onnx"
        gap = _written(part, inputs, path)
        say(f"{path}: differs from the family by {gap:.1e} of its largest number.")
        written.append(path)
        told[name] = {"inputs": {n: list(t.shape) for n, t in inputs.items()}, "difference": gap}
    plain = _interface(opened, chosen, facts, told)
    (out / "interface.json").write_text(json.dumps(plain, indent=1) + "\n")
    return [*written, out / "interface.json"]


def _sides(stage: Stage, facts: Facts, family: Family, size: Sequence[int]) -> tuple[int, ...]:
    axes = stage.build_job().signature().grid_axes
    usual = facts.size[-len(axes) :] if axes else ()
    sides = tuple(size) or tuple(usual)
    if len(sides) != len(axes):
        raise ValueError(f"--size has {len(sides)} sides, {stage.name} has the axes {axes or 'none'}.")
    if odd := [n for n in sides if n < 1 or n % family.multiple]:
        raise ValueError(f"--size holds {odd[0]}, expected multiples of {family.multiple}.")
    return sides


Named = dict[str, Tensor]


def _parts(stage: Stage, family: Family, sides: Sequence[int]) -> dict[str, tuple[_Part, Named]]:
    """Name -> (function, inputs to try it with, two rows)."""
    signature = stage.build_job().signature()
    if isinstance(family, Latent):
        raise ValueError(f"{stage.name} draws in the codes of {stage.codec}: export that, --stage {stage.codec}")
    if signature.beside or not signature.axes:
        raise ValueError(f"{stage.name} answers with more or less than images, which is not exported.")
    generator = torch.Generator().manual_seed(0)
    given = _conditions(signature.condition, sides, generator)
    x = torch.rand(2, signature.channels, *sides, generator=generator)
    if isinstance(family, Codec):
        codes = torch.randn(2, family.codes, *(n // family.factor for n in sides), generator=generator)
        encode = _Part(family, ["x"], lambda t: family.encode(t["x"]))
        decode = _Part(family, ["codes", *given], lambda t: family.decode(t["codes"], _told(t, signature.condition)))
        return {"encoder": (encode, {"x": x}), "decoder": (decode, {"codes": codes, **given})}
    if isinstance(family, Denoiser):
        inputs = {"x": x, "sigma": torch.tensor([0.1, 2.0]), **given}

        def denoise(t: Named) -> Tensor:
            return family.denoise(t["x"], t["sigma"], _told(t, signature.condition))

        return {"denoiser": (_Part(family, list(inputs), denoise), inputs)}
    if isinstance(family, Regression):

        def answered(t: Named) -> Tensor:
            some = next(iter(t.values()))
            nothing, level = some.new_zeros(some.shape[0], 0, *sides), some.new_zeros(some.shape[0])
            return answer(family.net(nothing, level, _told(t, signature.condition)), family.fields)

        return {"regression": (_Part(family, list(given), answered), given)}
    raise ValueError(
        f"{stage.name} is a {type(family).__name__}, which is not exported. Denoisers, codecs and regressions are."
    )


def _conditions(fields: Sequence[Field], sides: Sequence[int], generator: torch.Generator) -> Named:
    """Inputs of every condition and of whether it is there, filled by chance."""
    found = Named()
    for f in fields:
        if f.kind == "token":
            raise ValueError(f"{f.name} is a text, which is not exported.")
        if f.kind == "number":
            found[f.name] = torch.randn(2, generator=generator)
        elif f.kind == "class":
            found[f.name] = torch.randint(0, max(1, f.channels), (2,), generator=generator) * 1.0
        elif f.kind == "embedding":
            found[f.name] = torch.randn(2, f.channels, generator=generator)
        else:
            found[f.name] = torch.rand(2, f.channels, *sides, generator=generator)
    return {**found, **{f"{HAS}{n}": torch.ones(2) for n in found}}


def _told(tensors: Mapping[str, Tensor], fields: Sequence[Field]) -> Condition:
    names = [f.name for f in fields]
    return Condition({n: tensors[n] for n in names}, {n: tensors[f"{HAS}{n}"] > 0.5 for n in names})


def _written(part: _Part, inputs: Named, path: Path) -> float:
    """Exports and tries it with another number of rows; returns by how much onnxruntime differs."""
    runtime = _runtime()
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries that are not there, and of theirs to come
        torch.onnx.export(
            part, tuple(inputs.values()), str(path), dynamo=True, input_names=list(inputs), output_names=["answer"],
            dynamic_shapes={"tensors": tuple({0: batch} for _ in inputs)}, external_data=False, verbose=False,
            opset_version=OPSET,
        )  # fmt: skip
        three = {n: torch.cat([t, t[:1] * 0.5]) for n, t in inputs.items()}
        for n in three:
            if n.startswith(HAS):
                three[n][1] = 0.0  # a row that lacks everything
        wanted = part(*three.values()).numpy()
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {n: t.numpy() for n, t in three.items()})
    gap = float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-12))
    if not gap < CLOSE:
        path.unlink()
        raise ValueError(f"onnxruntime differs from {path.stem} by {gap:.1e} of its largest number; nothing is kept.")
    return gap


def _runtime() -> Any:
    try:
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ValueError(f"{error.name}, which ONNX needs, is not installed. {EXTRA}") from error
    assert onnxscript
    return onnxruntime


def _told_of(field: Field) -> dict[str, Any]:
    """A part of the inputs: its kind and channels, and how its numbers are scaled (by the recipe, or a unit)."""
    own = field.scale
    how = {"label": "one-hot", "class": f"the place among {list(field.classes)}"}.get(field.kind, "")
    scale = {"offset": own.offset, "width": own.width} if own is not None and field.kind == "number" else {}
    return {"name": field.name, "kind": field.kind, "channels": field.channels, **({"as": how} if how else {}), **scale}


def _interface(run: RunFolder, stage: Stage, facts: Facts, parts: Mapping[str, Any]) -> dict[str, Any]:
    """What somebody needs to know who has the files alone."""
    signature, preparation = stage.build_job().signature(), facts.grid_preparation
    units = {f.name: preparation.unit_of(f.name, f.unit) for f in signature.x if f.kind == "intensity"}
    units |= {f.name: preparation.unit_of(f.name, f.unit) for f in signature.condition if f.kind == "intensity"}
    scales = {
        n: {"unit": u, "offset": SCALES[u].offset, "width": SCALES[u].width}
        if u in SCALES
        else {"unit": u, "offset": 0.0, "width": "the 99.5th percentile of the patient"}
        for n, u in units.items()
    }
    return {
        "stage": f"{run.name}/{stage.name}", "family": stage.family.name,
        "job": dict(stage.job.options) | {"name": stage.job.name},
        "weights": weights_of(run.home(stage)), "axes": signature.grid_axes, "spacing_mm": preparation.spacing_mm,
        "numbers": "network = (value - offset) / width", "scales": scales,
        "x": [_told_of(f) for f in signature.x], "conditions": [_told_of(f) for f in signature.condition],
        "parts": parts,
        "trained_privately": bool(facts.privacy),
    }  # fmt: skip

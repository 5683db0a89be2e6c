"""The family of a stage: built, joined with its codec, told how to draw."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..contracts import ARBITRARY, Codec, Family, Job
from ..families import FAMILIES, RUNTIME, Drawn, Equalised, Latent, latent_signature, with_guidance
from ..learning.checkpoint import load as load_checkpoint
from ..learning.checkpoint import load_weights
from ..networks.soundness import in_float32
from ..recipe.values import Recipe, Stage
from ..registry import build
from ..sampling import SAMPLERS


def build_family(stage: Stage, job: Job, chosen: str, recipe: Recipe | None = None) -> Family:
    """The stage's family on the job's signature, without its sampler; around its codec, when it works in codes or equalised intensities."""
    kind = FAMILIES.find(stage.family.name)
    factory: Callable[..., Family] = kind
    signature = job.signature()
    codec: Codec | None = Equalised(signature, stage.equalised) if stage.equalised else None
    if stage.codec is not None:
        assert recipe is not None
        inner = recipe.stage(stage.codec)
        made = build_family(inner, inner.build_job(), chosen)
        assert isinstance(made, Codec)  # the recipe was checked
        codec = made
        signature = latent_signature(signature, codec, kind)
    family = build(
        f"family {stage.family.name!r}", factory, stage.family.options,
        **dict(zip(RUNTIME, (signature, stage.network, chosen), strict=True)),
    )  # fmt: skip
    return family if codec is None else Latent(codec, family, signature.condition)


def with_codec(family: Family, stage: Stage, run: Path, recipe: Recipe) -> Family:
    """The family with the trained weights of the stage in whose codes it works."""
    if isinstance(family, Latent) and stage.codec is not None:
        known = load_checkpoint(recipe.stage(stage.codec).home(run))
        if known is None or known[1]["step"] < known[1]["total"]:
            raise ValueError(
                f"Stage {stage.codec} is not trained to its end. Type: fabrica run {run} --only {stage.codec}"
            )
        load_weights(family.codec, recipe.stage(stage.codec).home(run))
    return family


def kept_in_float32(family: Family, facts: Mapping[str, Any] | None) -> list[str]:
    """Layers in which training found bfloat16 wrong compute in float32 again; returns their names."""
    layers = [str(name) for name in (facts or {}).get("float32_layers", [])]
    in_float32(family, layers)
    return layers


def drawer(stage: Stage, family: Family) -> Family:
    """The family joined with the recipe's guidance and sampler, when it names them."""
    if isinstance(family, Latent):
        drawn = Latent(
            family.codec, drawer(replace(stage, codec=None), family.prior), stage.build_job().signature().condition
        )
        drawn.spread = family.spread
        return drawn
    if stage.guidance is not None:
        family = with_guidance(family, stage.build_job().hidden, **asdict(stage.guidance))
    if stage.sampler is None:
        return family
    return Drawn(family, SAMPLERS.find(stage.sampler.name), stage.sampler.options)


def check_scales(stage: Stage, job: Job, facts: Mapping[str, Any]) -> None:
    """Raises ValueError for a stage of format 1 whose answer was scaled by each case: its numbers mean nothing now."""
    odd = [f for f in job.signature().x if f.kind == "intensity" and f.unit not in (*ARBITRARY, "HU", "grey")]
    if odd and int(facts.get("format", 1)) < 2:
        raise ValueError(
            f"{stage.name} was trained when {odd[0].name} ({odd[0].unit}) was scaled by each case's own values: its level cannot be "
            "told. Train it again, or use the version that wrote it (commit in environment.json)."
        )

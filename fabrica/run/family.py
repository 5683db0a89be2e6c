"""The family of a stage: built, joined with its codec, told how to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from ..contracts import ARBITRARY, Codec, Family, Job
from ..families import FAMILIES, RUNTIME, Drawn, Equalised, Latent, latent_signature, with_guidance
from ..learning.facts import Facts
from ..networks.soundness import in_float32
from ..recipe.values import Recipe, Stage
from ..registry import build
from ..sampling import SAMPLERS
from .folder import RunFolder


def build_family(stage: Stage, job: Job, chosen: str, recipe: Recipe | None = None) -> Family:
    """The stage's family on the job's signature, without its sampler; around its codec, when it works in codes or
    equalised intensities.
    """
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


def with_codec(family: Family, stage: Stage, run: RunFolder) -> Family:
    """The family with the trained weights of the stage in whose codes it works."""
    if isinstance(family, Latent) and stage.codec is not None:
        codec = run.recipe.stage(stage.codec)
        known = run.facts(codec)
        if known is None or not known.finished:
            raise ValueError(
                f"Stage {stage.codec} is not trained to its end. Type: fabrica run {run.path} --only {stage.codec}"
            )
        run.load_weights(codec, family.codec)
    return family


def trained_family(run: RunFolder, stage: Stage, facts: Facts) -> Family:
    """The family with its averaged weights, computing as its training found it sound."""
    family = build_family(stage, stage.build_job(), facts.precision, run.recipe)
    in_float32(family, facts.float32_layers)
    run.load_weights(stage, family)
    return family


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


def check_scales(stage: Stage, facts: Facts) -> None:
    """Raises ValueError for a stage of format 1 whose answer was scaled by each case: its numbers mean nothing now."""
    fields = stage.build_job().signature().x
    odd = [f for f in fields if f.kind == "intensity" and f.unit not in (*ARBITRARY, "HU", "grey")]
    if odd and facts.format < 2:
        raise ValueError(
            f"{stage.name} was trained when {odd[0].name} ({odd[0].unit}) was scaled by each case's own values: "
            "its level cannot be told. Train it again, or use the version that wrote it (commit in environment.json)."
        )

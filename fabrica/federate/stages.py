"""The one stage that a federation learns."""

from __future__ import annotations

import torch

from ..contracts import Family
from ..recipe.values import Recipe, Stage
from ..rng import derive
from ..run.family import build_family

PRECISION = "fp32"  # sites have other processors: weights are averaged as they are


def stage_of(recipe: Recipe) -> Stage:
    """Raises ValueError for a recipe whose model cannot be learned by rounds."""
    stages = [s for s in recipe.stages if not s.name.endswith("-baseline")]
    if len(stages) != 1 or stages[0].codec or stages[0].trained or stages[0].inputs:
        raise ValueError("A federation learns one stage that builds on no other. Write a recipe of one job and family.")
    (stage,) = stages
    if stage.prepare.size is None:
        raise ValueError("Sites see images of one size. Write: prepare: {size: [64, 64]}")
    if stage.equalised:
        raise ValueError("Equalised intensities are measured of a site's own images. Leave family.in out.")
    if stage.train.privacy is not None or stage.train.canaries:
        raise ValueError("train.privacy and train.canaries are of one site's training. Leave them out.")
    if stage.train.start is not None or stage.train.rank is not None:
        raise ValueError("A federation begins from its seed on every side. Leave train.start and train.rank out.")
    if text := [f.name for f in stage.build_job().signature().values if f.kind == "token"]:
        raise ValueError(
            f"Each site would learn other subwords of {text[0]}, whose numbers would mean other words. Write a vector"
            f" of hashed words: text: {{{text[0]}: 64}}"
        )
    return stage


def first_family(recipe: Recipe, stage: Stage) -> Family:
    """As every side begins: the same weights from the recipe's seed."""
    torch.manual_seed(derive(recipe.seed, "weights", stage.name) % 2**32)
    return build_family(stage, stage.build_job(), PRECISION, recipe)

"""A stage trained: from its beginning, from where it stopped, or not at all where it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Family
from ..data.prepare import plain_preparation
from ..data.store import Loader, Store, to_device
from ..evaluate.report.pictures import paint
from ..families import Equalised, Latent
from ..jobs import asks
from ..learning.checkpoint import FORMAT, load_weights
from ..learning.checkpoint import load as load_checkpoint
from ..learning.lineage import check_codec, check_start, patient_hash, trained_before
from ..learning.loop import Progress, Trained, fit
from ..recipe.values import Recipe
from ..rng import Rng, derive
from .family import build_family, check_scales, drawer, kept_in_float32, with_codec
from .forecast import batch_that_fits, foretell_drawing, look_at_layers, precision_of
from .judge import Ready

Say = Callable[[str], None]
CURVE_CASES, CURVE_VOXELS = 1024, 4096  # of each, that tell how common an intensity is


def train_stage(
    recipe: Recipe, ready: Ready, folder: Path, say: Say, watch: Callable[[str, Progress], None] | None,
    device: str = "cpu",
) -> Trained:  # fmt: skip
    """Train, or go on, or do nothing when the stage is finished; the family that comes back is on the device."""
    stage, place = ready.stage, ready.stage.home(folder)
    known = load_checkpoint(place)
    plan = stage.train
    chosen = known[1]["precision"] if known else precision_of(stage, device)
    torch.manual_seed(derive(recipe.seed, "weights", stage.name) % 2**32)
    family = with_codec(build_family(stage, ready.job, chosen, recipe), stage, folder, recipe)
    if known is not None:
        check_scales(stage, ready.job, known[1])
        _check_same_scans(ready, known[1], folder)
    if known is None:
        _read_intensities(family, ready, say)
    family = family.to(device)
    if plan.start:
        check_start(plan.start, ready.split)
    if stage.codec is not None:
        check_codec(stage, recipe.stage(stage.codec), folder, ready.preparation, ready.split)
    if known and known[1]["step"] >= known[1]["total"]:
        kept_in_float32(family, known[1])
        load_weights(family, place)
        return Trained(family, known[1]["step"], known[1]["seconds"], [tuple(c) for c in known[1]["curve"]])
    if stage.trained:
        raise ValueError(f"{place} is not trained to its end. Type: fabrica run {stage.trained.run}")
    asked = known[1].get("batch", plan.batch) if known else plan.batch
    batch = batch_that_fits(ready, family, asked, device, say)
    foretell_drawing(recipe, ready, drawer(stage, family), device, say)
    loader = Loader(
        ready.store,
        replace(ready.layout, augment=plan.augment),
        batch,
        derive(recipe.seed, "train", ready.stage.job.name),
    )
    wide = sorted(
        {*kept_in_float32(family, known[1] if known else None), *look_at_layers(stage, family, loader, device, say)}
    )
    facts = {
        "stage": stage.name, "precision": chosen, "float32_layers": wide, "batch": batch, "device": device, "threads": torch.get_num_threads(), "seed": recipe.seed,
        "preparation": plain_preparation(ready.preparation), "reference": ready.reference,
        "size": list(ready.layout.size), "parameters": sum(p.numel() for p in family.parameters()),
        "trained_on": sorted({patient_hash(m.patient) for m in ready.split.parts["train"]} | trained_before(recipe, stage, folder)),
    }  # fmt: skip
    if known:
        say(f"{stage.name}: goes on at step {known[1]['step']} of {known[1]['total']}.")

    def shown(progress: Progress, average: Family) -> None:
        if progress.step in _moments(progress.total):
            _sample_picture(ready, drawer(stage, average), place / "samples" / f"{progress.step:07d}.png", recipe.seed)
        if watch is not None:
            watch(stage.name, progress)

    return fit(family, stage.training_job(), loader, plan, place, facts, shown, device)


def _check_same_scans(ready: Ready, facts: Mapping[str, Any], folder: Path) -> None:
    """Raises ValueError where scans, units or grids are no longer those of the training: its weights would mean something else."""
    if int(facts["format"]) < FORMAT:
        return
    now = json.loads(json.dumps(plain_preparation(ready.preparation)))
    changed = [key for key, value in now.items() if facts["preparation"].get(key) != value]
    if changed:
        raise ValueError(
            f"{ready.stage.name} was trained on other scans: their {', '.join(changed)} changed since. Give it back what it was trained on, "
            f"or start a new run: fabrica run {folder / 'recipe.yaml'}"
        )


def _read_intensities(family: Family, ready: Ready, say: Say) -> None:
    """The curves of equalised intensities, from voxels of the training part; nothing for a family that works in others."""
    if not (isinstance(family, Latent) and isinstance(family.codec, Equalised)):
        return
    voxels: dict[int, list[NDArray[np.floating]]] = {}
    start = 0
    for f in ready.job.signature().x:
        known = [] if f.kind != "intensity" else [e for e in ready.store.entries if f.name in e.files]
        for e in known[:: -(-len(known) // CURVE_CASES) or 1]:
            for k, plane in enumerate(ready.store.array(e, f.name)):
                flat = plane.ravel()
                voxels.setdefault(start + k, []).append(flat[:: flat.size // CURVE_VOXELS | 1])
        start += f.channels
    family.codec.fit(voxels)
    wide = family.codec.widest
    say(
        f"{ready.stage.name}: intensities are equalised; common ones have up to {wide:.1f} times their room, none less than {1 - family.codec.share:g}."
    )


def _moments(total: int) -> tuple[int, ...]:
    """When a training shows what it can draw: after an eighth, a quarter and a half; a few steps show nothing."""
    return (total // 8, total // 4, total // 2) if total >= 80 else ()


@torch.inference_mode()
def _sample_picture(ready: Ready, family: Family, path: Path, seed: int) -> None:
    """The middle slice of the first training case: what is asked for, and one draw of it."""
    if not asks(ready.job):
        return
    entry = ready.store.entries[0]
    row = Loader(Store([entry]), ready.layout, 1, 0).load(len(entry.useful) // 2)
    problem = ready.job.problem(row, Rng([seed]))
    family.eval()
    asked = ready.job.question(to_device(row, next(family.parameters()).device), Rng([seed]))
    x = family.sample(asked, Rng([derive(seed, "sample")])).cpu()
    family.train()
    if problem.target is None:
        return
    pair = torch.cat([problem.target[0, :1], x[0, :1]], -1)
    plane = pair[0] if pair.ndim == 3 else pair[0, pair.shape[1] // 2]
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(plane.float().numpy(), 0.0, 1.0).save(path)

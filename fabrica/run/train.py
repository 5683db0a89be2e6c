"""A stage trained: from its beginning, from where it stopped, or not at all where it is finished."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Family
from ..data.prepare import plain_preparation
from ..data.split import patient_hash
from ..data.store import Loader, Store, to_device
from ..evaluate.report.pictures import paint
from ..families import Equalised, Latent
from ..learning.checkpoint import FORMAT
from ..learning.facts import Facts
from ..learning.lineage import check_codec, check_start, trained_before
from ..learning.loop import Progress, Trained, fit
from ..networks.soundness import in_float32
from ..rng import Rng, derive
from .adapted import kept_apart, with_adapter, with_control
from .family import build_family, check_scales, drawer, with_codec
from .forecast import batch_that_fits, foretell_drawing, look_at_layers, precision_of
from .marks import marked, tags_of
from .private import check_private_stage
from .stage import PreparedStage

Say = Callable[[str], None]
Watch = Callable[[str, Progress], None]
CURVE_CASES, CURVE_VOXELS = 1024, 4096  # of each, that tell how common an intensity is


def train_stage(ready: PreparedStage, say: Say, watch: Watch | None, device: str = "cpu") -> Trained:
    """Train, or go on, or do nothing when the stage is finished; the family that comes back is on the device."""
    stage, known = ready.stage, ready.facts()
    check_private_stage(ready)
    precision = known.precision if known else precision_of(stage, device)
    family = _begun(ready, known, precision, say).to(device)
    if known and known.finished and (stage.train.rank is None or known.adapter or stage.trained):
        in_float32(family, known.float32_layers)
        ready.run.load_weights(stage, family)
        return Trained(family, known.step, known.seconds, list(known.curve))
    if stage.trained:
        raise ValueError(f"{ready.home} is not trained to its end. Type: fabrica run {stage.trained.run}")
    batch = batch_that_fits(ready, family, known.batch if known else stage.train.batch, device, say)
    foretell_drawing(ready, drawer(stage, family), device, say)
    layout = replace(ready.layout, augment=stage.train.augment)
    loader = ready.loader(layout, batch, derive(ready.seed, "train", stage.job.name))
    in_float32(family, known.float32_layers if known else ())
    wide = {*(known.float32_layers if known else ()), *look_at_layers(stage, family, loader, device, say)}
    if known:
        say(f"{stage.name}: goes on at step {known.step} of {known.total}.")

    def shown(progress: Progress, average: Family) -> None:
        if progress.step in _moments(progress.total) and stage.train.privacy is None:
            _sample_picture(ready, drawer(stage, average), progress.step)
        if watch is not None:
            watch(stage.name, progress)

    facts = _plain_facts(ready, family, precision, batch, wide, device)
    job = marked(stage.training_job(), tags_of(stage, [e.name for e in ready.store.entries], ready.seed))
    if stage.network.control:
        with_control(family, stage.train, known is None, say)
        return fit(family, job, loader, replace(stage.train, start=None), ready.home, facts, shown, device)
    if stage.train.rank is None:
        return fit(family, job, loader, stage.train, ready.home, facts, shown, device)
    plan = with_adapter(family, stage.train, say)
    return kept_apart(fit(family, job, loader, plan, ready.home, facts, shown, device), stage.train, ready.home)


def _begun(ready: PreparedStage, known: Facts | None, precision: str, say: Say) -> Family:
    """The family as training meets it, or a refusal: weights that saw test patients, codes of other voxels, other
    scans.
    """
    stage, run = ready.stage, ready.run
    torch.manual_seed(derive(ready.seed, "weights", stage.name) % 2**32)
    family = with_codec(build_family(stage, ready.job, precision, run.recipe), stage, run)
    if known is not None:
        check_scales(stage, known)
        _check_same_scans(ready, known)
    else:
        _read_intensities(family, ready, say)
    if stage.train.start:
        check_start(stage.train.start, ready.split)
    if stage.codec is not None:
        check_codec(stage, run.recipe.stage(stage.codec), run.path, ready.preparation, ready.split)
    return family


def _plain_facts(
    ready: PreparedStage, family: Family, precision: str, batch: int, wide: set[str], device: str
) -> dict[str, object]:
    """What the checkpoint will say of itself, see `learning.facts`."""
    own = {patient_hash(m.patient) for m in ready.split.parts["train"]}
    before = trained_before(ready.run.recipe, ready.stage, ready.run.path)
    return {
        "stage": ready.name,
        "precision": precision,
        "float32_layers": sorted(wide),
        "batch": batch,
        "device": device,
        "threads": torch.get_num_threads(),
        "seed": ready.seed,
        "preparation": plain_preparation(ready.preparation),
        "reference": ready.reference,
        "size": list(ready.layout.size),
        "parameters": sum(p.numel() for p in family.parameters()),
        "trained_on": [] if ready.stage.train.privacy else sorted(own | before),
        "canaries": ready.stage.train.canaries,
    }


def _check_same_scans(ready: PreparedStage, facts: Facts) -> None:
    """Raises ValueError where scans, units or grids are no longer those of the training: its weights would mean
    something else.
    """
    if facts.format < FORMAT:
        return
    now = json.loads(json.dumps(plain_preparation(ready.preparation)))
    changed = [key for key, value in now.items() if facts.preparation.get(key) != value]
    if changed:
        raise ValueError(
            f"{ready.name} was trained on other scans: their {', '.join(changed)} changed since. Give it back what it"
            f" was trained on, or start a new run: fabrica run {ready.run.path / 'recipe.yaml'}"
        )


def _read_intensities(family: Family, ready: PreparedStage, say: Say) -> None:
    """The curves of equalised intensities, from voxels of the training part; nothing for a family that works in
    others.
    """
    if not (isinstance(family, Latent) and isinstance(family.codec, Equalised)):
        return
    voxels: dict[int, list[NDArray[np.floating]]] = {}
    start = 0
    for f in ready.signature.x:
        known = [] if f.kind != "intensity" else [e for e in ready.store.entries if f.name in e.files]
        for e in known[:: -(-len(known) // CURVE_CASES) or 1]:
            for k, plane in enumerate(ready.store.array(e, f.name)):
                flat = plane.ravel()
                voxels.setdefault(start + k, []).append(flat[:: flat.size // CURVE_VOXELS | 1])
        start += f.channels
    family.codec.fit(voxels)
    wide, least = family.codec.widest, 1 - family.codec.share
    say(
        f"{ready.name}: intensities are equalised; common ones have up to {wide:.1f} times their room, none less than"
        f" {least:g}."
    )


def _moments(total: int) -> tuple[int, ...]:
    """When a training shows what it can draw: after an eighth, a quarter and a half; a few steps show nothing."""
    return (total // 8, total // 4, total // 2) if total >= 80 else ()


@torch.inference_mode()
def _sample_picture(ready: PreparedStage, family: Family, step: int) -> None:
    """The middle slice of the first training case: what is asked for, and one draw of it."""
    if ready.job.answer != "image":
        return
    entry, seed = ready.store.entries[0], ready.seed
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
    path = ready.home / "samples" / f"{step:07d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    paint(plane.float().numpy(), 0.0, 1.0).save(path)

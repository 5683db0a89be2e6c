"""The multimodal foundation measured: every direction, missing modalities, few patients of a new scanner, words, drafts.

    python benchmarks/foundation.py [--only adapt] [--work runs/foundation] [--data DIR]

Parts: directions (any-to-any beside models of one purpose at equal minutes; all, and half of the modalities missing), adapt (low-rank
beside full fine-tuning with 5, 10 and 20 patients), drafts, formats (time to load, difference from the peer), pretrain (needs --data:
pneumonia). A part that is finished is not run again; each prints its rows as JSON lines into WORK/PART.jsonl.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from sets import DEVICE, add_device

from fabrica.data.cohort import Source
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.evaluate.statistics import paired_test
from fabrica.generate.drafting import draft_scans
from fabrica.recipe.checks import from_plain
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.likeness import likeness
from fabrica.run.sequence import run_recipe

MINUTES = 6.0  # of the one model, and of all single-purpose models together
PATIENTS = 24
STEPS = 150  # of an adaptation, of a fine-tuning
FEW = (5, 10, 20)
TESTED = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/foundation"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--only", default="")
    add_device(parser)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for name, part in PARTS.items():
        path = options.work / f"{name}.jsonl"
        if options.only not in ("", name) or (name == "pretrain" and options.data is None):
            continue
        done = [json.loads(line)["what"] for line in path.read_text().splitlines()] if path.is_file() else []
        with path.open("a") as file:
            for row in part(options, done):
                line = json.dumps(row)
                print(line, flush=True)
                file.write(line + "\n")
                file.flush()


def directions(options: argparse.Namespace, done: list[str]) -> Iterator[dict[str, Any]]:
    """Every direction of recipes/foundation.yaml, on whole patients and where half of their images are missing."""
    recipe = yaml.safe_load(Path("recipes/foundation.yaml").read_text())
    singles = [name for name in recipe["stages"] if name != "any"]
    for missing in (0.0, 0.5):
        what = f"missing {missing:.0%}"
        if what in done:
            continue
        place = options.work / f"patients-{missing:g}"
        if not place.is_dir():
            few = PATIENTS // 4
            write_cohort(VirtualCohort(PATIENTS - few, 0, 3, planes=(17, 39)), place / "train", lambda text: None)
            write_cohort(
                VirtualCohort(few, 0, 3, planes=(17, 39), first=PATIENTS - few), place / "test", lambda text: None
            )
            _thinned(place / "train", missing)
        plain = {**recipe, "cohorts": {part: {"path": str(place / part)} for part in ("train", "test")}}
        plain["split"] = {"train": 0.0, "test": 1.0, "only_train": ["train"]}
        for name in singles:
            plain["stages"][name]["train"] = {"minutes": MINUTES / len(singles), "batch": 8}
        plain["stages"]["any"]["train"] = {"minutes": MINUTES, "batch": 6}
        done_run = run_recipe(
            from_plain(plain), options.work / f"any-{missing:g}", say=lambda text: None, device=DEVICE
        )
        found = next(s for s in done_run.report.stages if s.name == "any")
        table: dict[str, dict[str, list[float]]] = {}
        for row in found.cases:
            if row.metric in ("psnr", "dice", "fact recall", "facts obeyed") and isinstance(row.value, float):
                table.setdefault(f"{row.contrast}: {row.metric}", {}).setdefault(row.by, []).append(row.value)
        figures = [[f.name, f.by, f.value] for f in found.figures]
        yield {
            "what": what, "figures": figures,
            "rows": {k: {by: [round(float(np.mean(v)), 3), len(v)] for by, v in own.items()} for k, own in table.items()},
        }  # fmt: skip


def _thinned(place: Path, share: float) -> None:
    """Patients lose each image by chance, all but one."""
    rng = np.random.default_rng(0)
    people = sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    for folder in people:
        files = [folder / f"{n}.nii.gz" for n in ("T1w", "T2w", "FLAIR", "CT", "lesion")]
        gone = rng.random(len(files)) < share
        gone[rng.integers(0, 4)] = False
        for file, away in zip(files, gone, strict=True):
            if away:
                file.unlink()


def adapt(options: argparse.Namespace, done: list[str]) -> Iterator[dict[str, Any]]:
    """A translation of scanner A on scanner B: as it is, by rank 8, whole, and from scratch, at equal steps."""
    shared = {"spacing_mm": 2, "planes": [30, 60]}
    job = {
        "baseline": "none", "job": {"name": "translation", "from": ["T1w"], "x": ["FLAIR"]},
        "family": {"name": "regression", "network": {"channels": [24, 48, 96]}},
        "prepare": {"spacing_mm": [2, 2]}, "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
    }  # fmt: skip
    one = {"virtual": {**shared, "patients": 24 + TESTED, "scanners": ["A"]}}
    names = [f"virtual{k:04d}" for k in range(24 + TESTED)]
    base = {
        **job,
        "cohorts": {"a": one},
        "split": {"train": names[:24], "test": names[24:]},
        "train": {"steps": 500, "batch": 8},
    }
    former = options.work / "adapt-base"
    run_recipe(from_plain(base), former, say=lambda text: None, device=DEVICE)
    home = (former / "stages/model").resolve()
    other = {"virtual": {**shared, "patients": max(FEW) + TESTED, "first": 600, "scanners": ["B"]}}
    people = [f"virtual{600 + k:04d}" for k in range(max(FEW) + TESTED)]
    before = RunFolder.open(former)
    for count in FEW:
        split = {"train": people[:count], "test": people[max(FEW) :]}
        for how, more in {
            "rank 8": {"start": str(home), "rank": 8}, "whole": {"start": str(home), "learning_rate": 1e-3}, "scratch": {},
        }.items():  # fmt: skip
            what = f"{count} patients, {how}"
            if what in done:
                continue
            folder = options.work / f"adapt-{count}-{how.replace(' ', '')}"
            plain = {**job, "cohorts": {"b": other}, "split": split, "train": {"steps": STEPS, "batch": 8, **more}}
            run_recipe(from_plain(plain), folder, say=lambda text: None, device=DEVICE)
            after = RunFolder.open(folder)
            new, old = _gained(before, after, after), _gained(before, after, before)
            size = next((folder / "stages/model").glob("*.safetensors")).stat().st_size
            yield {"what": what, "new": new, "former": old, "bytes": size}


def _gained(before: RunFolder, after: RunFolder, whose: RunFolder) -> dict[str, Any]:
    """PSNR of both on the test patients of one run."""
    stages = [Answering(r, r.recipe.stage("model")) for r in (before, after)]
    plan = next(iter(whose.recipe.cohorts.values()))
    tested = set(whose.recipe.split["test"])
    members = [m for m in plan.find().members if m.patient in tested]
    field = stages[0].signature.x[0]
    rows = [[(likeness(s, field, m, m) or {"psnr": np.nan})["psnr"] for m in members] for s in stages]
    told = paired_test(rows[1], rows[0], [m.patient for m in members])
    return {
        "before": float(np.mean(rows[0])),
        "after": float(np.mean(rows[1])),
        "gain": float(told),
        "interval": told.interval,
    }


def drafts(options: argparse.Namespace, done: list[str]) -> Iterator[dict[str, Any]]:
    """Facts of drafts on patients that a two-minute segmentation has not seen."""
    if "drafts" in done:
        return
    run, scans = options.work / "segmentation", options.work / "ms"
    plain = yaml.safe_load(Path("recipes/segmentation.yaml").read_text())
    run_recipe(from_plain({**plain, "train": {"minutes": 2, "batch": 12}}), run, say=lambda text: None, device=DEVICE)
    for disease in ("ms", "tumour", "none"):
        if not (scans / disease).is_dir():
            cohort = VirtualCohort(8, first=300, spacing_mm=2, disease=disease, planes=(22, 66))
            write_cohort(cohort, scans / disease, lambda text: None)
        said = list[str]()
        draft_scans(run, Source(scans / disease), options.work / "drafts" / disease, say=said.append)
        yield {"what": f"drafts, {disease}", "said": said[-1]}


def formats(options: argparse.Namespace, done: list[str]) -> Iterator[dict[str, Any]]:
    """Seconds to read and place a published network, and by how much its answer differs."""
    from diffusers import UNet2DModel
    from monai.networks.nets import DiffusionModelUNet

    from fabrica.networks.imported import (
        DIFFUSERS_KEYS,
        MONAI_KEYS,
        DiffusionUNet,
        diffusers_shape,
        monai_diffusion_shape,
        renamed,
    )

    torch.manual_seed(0)
    monai = {
        "spatial_dims": 2,
        "in_channels": 1,
        "out_channels": 1,
        "channels": [64, 128, 256, 256],
        "num_head_channels": 32,
    }
    diffusers = {"in_channels": 1, "out_channels": 1, "block_out_channels": [64, 128, 256, 256]}
    for name, theirs, shape, keys in (
        ("DiffusionModelUNet", DiffusionModelUNet(**monai), monai_diffusion_shape(monai), MONAI_KEYS),
        ("UNet2DModel", UNet2DModel(**diffusers), diffusers_shape(diffusers), DIFFUSERS_KEYS),
    ):
        if name in done:
            continue
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.normal_(0, 0.05)
            x, step = torch.randn(2, 1, 64, 64), torch.tensor([5, 600])
            began = time.perf_counter()
            ours = DiffusionUNet(shape).eval()
            ours.load_state_dict(renamed(theirs.state_dict(), keys))
            loaded = time.perf_counter() - began
            wanted = theirs.eval()(x, step)
            wanted = wanted if isinstance(wanted, torch.Tensor) else wanted.sample
            gap = float((ours(x, step) - wanted).abs().max() / wanted.abs().max())
            times = []
            for net in (theirs, ours) * 3:
                began = time.perf_counter()
                net(x, step)
                times.append(time.perf_counter() - began)
        count = sum(p.numel() for p in ours.parameters())
        ratio = float(np.median(times[::2]) / np.median(times[1::2]))
        yield {
            "what": name,
            "parameters": count,
            "seconds": round(loaded, 2),
            "difference": gap,
            "their time over ours": round(ratio, 2),
        }


def pretrain(options: argparse.Namespace, done: list[str]) -> Iterator[dict[str, Any]]:
    """Pneumonia by few real pictures, with and without having learned from drawn ones first."""
    from fabrica.generate.patients import draw_patients
    from fabrica.study.downstream import Terms, compare_arms

    real = options.data / "images_2d" / "pneumoniamnist"
    task = {
        "split": {"train": 0.7, "test": 0.3}, "job": {"name": "outcome", "from": ["image"], "x": "class", "classes": ["0", "1"]},
        "family": {"name": "regression", "network": {"channels": [16, 32], "blocks": 1}}, "train": {"steps": 120, "batch": 32},
        "evaluate": {"draws": 1, "evaluations": []},
    }  # fmt: skip
    made = options.work / "pneumonia-drawn"
    if not made.is_dir():
        generator = options.work / "pneumonia-flow"
        drawer = {
            "cohorts": {"all": {"path": str(real)}}, "split": {"train": 0.7, "test": 0.3}, "baseline": "none",
            "job": {"name": "synthesis", "x": ["image"], "by": {"class": ["0", "1"]}},
            "family": {"name": "flow", "network": {"channels": [16, 32, 64]}}, "train": {"minutes": 4, "batch": 32},
            "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
        }  # fmt: skip
        run_recipe(from_plain(drawer), generator, say=lambda text: None, device=DEVICE)
        draw_patients(generator, made, 600, {}, say=lambda text: None)
    for patients in (20, 100):
        what = f"pneumonia, {patients} real"
        if what in done:
            continue
        terms = Terms(seeds=3, generator=options.work / "pneumonia-flow", pretrain=True, patients=patients)
        found = compare_arms(task, real, made, options.work / f"pneumonia-{patients}", terms, say=lambda text: None)
        yield {
            "what": what, "said": found.sentence(),
            "arms": {a.name: [float(a.value), a.value.interval, None if a.gain is None else [float(a.gain), a.gain.interval]] for a in found.arms},
        }  # fmt: skip


PARTS = {"directions": directions, "adapt": adapt, "drafts": drafts, "formats": formats, "pretrain": pretrain}

if __name__ == "__main__":
    main()

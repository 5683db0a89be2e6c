"""FLAIR from T1w and T2w of a real MS patient by every family that translates, each with the same wall time.

    python benchmarks/families_ms.py --data DIR [--minutes 15] [--draws 4] [--only flow] [--work runs/families_ms]

DIR is `mri_multicontrast/ms_mni`: one patient trains, the other tests, so figures are descriptive. Both are averaged over blocks of
3 x 2 x 2 voxels first (3 x 2 x 2 mm, z, y, x), truth and all. Learning without pairs needs several patients. Measures as in translation_ms.py. A finished part is not run again.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from PIL import Image as Pillow
from scipy import ndimage
from sets import DEVICE, RESULTS, add_device, machine, place, resumed
from translation_ms import figures, load

from fabrica.data import cohort
from fabrica.data.prepare import intensity_scale
from fabrica.evaluate.metrics.task import lesion_contrast
from fabrica.learning.checkpoint import load as load_checkpoint
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

TRAIN, TEST = "patient19", "patient07"  # the one with many lesions trains
BLOCK = (2, 2, 3)  # x, y, z of the files
WIDE = {"channels": [32, 64, 128], "blocks": 1}
CODEC = {"channels": [32, 64], "blocks": 1}
PRIOR = {"channels": [64, 128], "blocks": 1, "patch": 1}
JOB = {"name": "translation", "from": ["T1w", "T2w"], "x": ["FLAIR"]}


def one(family: dict[str, Any]) -> dict[str, Any]:
    return {"model": {"job": JOB, "family": {**family, "network": WIDE}}}


def two(codec: dict[str, Any], prior: dict[str, Any]) -> dict[str, Any]:
    """A third of the time for the codec, the rest for what draws its codes."""
    return {
        "codec": {"job": {"name": "synthesis", "x": ["FLAIR"], "place": False}, "family": {**codec, "network": CODEC}, "share": 1 / 3},
        "model": {"job": JOB, "family": {**prior, "network": PRIOR, "in": {"stage": "codec"}}, "share": 2 / 3},
    }  # fmt: skip


FAMILIES: dict[str, dict[str, Any]] = {
    "regression": one({"name": "regression"}),
    "gan": one({"name": "gan"}),
    "flow": one({"name": "flow"}),
    "shortcut, 4 steps": one({"name": "shortcut", "steps": 4}),
    "consistency, 2 steps": one({"name": "consistency", "steps": 2}),
    "diffusion": one({"name": "diffusion"}),
    "vae": one({"name": "vae", "codes": 16}),
    "vae, flow in its codes": two({"name": "vae", "kl": 0.01, "rungs": 0, "codes": 8}, {"name": "flow"}),
    "vq, autoregressive in its codes": two({"name": "vq"}, {"name": "autoregressive", "steps": 12}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/families_ms"))
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--only", default="", help="one family")
    add_device(parser)
    options = parser.parse_args()
    small = averaged(options.data, options.work / "data")
    file = RESULTS / "families_ms.json"
    write(resumed(file, options.work, FAMILIES, options.only, lambda name, stages: part(name, stages, small, options)))


def averaged(data: Path, out: Path) -> Path:
    """The files of both patients by blocks; labels by majority."""
    for path in sorted(data.rglob("*.nii*")):
        target = out / path.relative_to(data)
        if target.exists():
            continue
        image = nibabel.load(path)  # type: ignore[attr-defined]
        values = np.asarray(image.dataobj, np.float32)
        sides = [n // b * b for n, b in zip(values.shape, BLOCK, strict=True)]
        x, y, z = (n // b for n, b in zip(sides, BLOCK, strict=True))
        blocks = values[: sides[0], : sides[1], : sides[2]].reshape(x, BLOCK[0], y, BLOCK[1], z, BLOCK[2])
        mean = blocks.mean((1, 3, 5))
        if path.name.startswith("GOLD_STANDARD"):
            mean = (mean >= 0.5).astype(np.uint8)
        move = np.diag([*BLOCK, 1.0])
        move[:3, 3] = [(b - 1) / 2 for b in BLOCK]
        target.parent.mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(mean, image.affine @ move).to_filename(target)  # type: ignore[no-untyped-call, attr-defined]
    return out


def part(name: str, stages: dict[str, Any], data: Path, options: argparse.Namespace) -> dict[str, Any]:
    folder = options.work / place(name)
    recipe = from_plain({
        "cohorts": {"ms": {"path": str(data)}}, "split": {"train": [TRAIN], "test": [TEST]}, "baseline": "none",
        "evaluate": {"draws": 1 if name == "regression" else options.draws, "realism": 0, "evaluations": []},
        "stages": {
            key: {
                "job": plan["job"], "family": plan["family"],
                "train": {
                    "minutes": options.minutes * plan.get("share", 1.0), "batch": 8,
                },
            }
            for key, plan in stages.items()
        },
    })  # fmt: skip
    began = time.perf_counter()
    result = run_recipe(recipe, folder, say=lambda text: print("  ", text, flush=True), device=DEVICE)
    facts = [made[1] for key in stages if (made := load_checkpoint(folder / "stages" / key)) is not None]
    stage = next(s for s in result.report.stages if s.name == "model")
    return {
        "minutes": options.minutes, "threads": torch.get_num_threads(), "machine": machine(), "whole_s": time.perf_counter() - began,
        "train_s": sum(f["seconds"] for f in facts), "steps": [f["step"] for f in facts], "parameters": facts[-1]["parameters"],
        "draw_s": next(float(r.value) for r in stage.cases if r.metric == "seconds a draw"), "answers": judged(folder, data, name),
        "joint histogram": {r.metric: r.value for r in stage.cases if r.by == "joint histogram"},
    }  # fmt: skip


def judged(folder: Path, data: Path, name: str) -> dict[str, Any]:
    """One draw and the mean of all against the truth; a picture of them."""
    members = {m.patient: m for m in cohort.find(data).members}
    case, source = members[TEST].load(["FLAIR", "T1w", "T2w", "lesion"]), members[TRAIN].load(["FLAIR"])
    truth = case.images["FLAIR"].data[0].numpy() / intensity_scale(case.images["FLAIR"])[1]
    t1 = case.images["T1w"].data[0].numpy()
    brain = t1 > 0.05 * intensity_scale(case.images["T1w"])[1]
    lesion, tissue = case.images["lesion"].data[0].numpy() > 0.5, t1 > np.median(t1[brain])
    true = lesion_contrast(truth, lesion, tissue=tissue)
    scale = intensity_scale(source.images["FLAIR"])[1]
    draws = [load(path) / scale for path in sorted((folder / "stages/model/draws").glob("*/*.nii.gz"))]
    answers = {"answer" if name == "regression" else "one draw": draws[0]}
    if len(draws) > 1:
        answers[f"mean of {len(draws)}"] = np.mean(draws, axis=0)
    t2 = case.images["T2w"].data[0].numpy() / intensity_scale(case.images["T2w"])[1]
    found = {
        k: {**figures(v, truth, brain, lesion, tissue, true), "noise power": grain(v, brain) / grain(truth, brain)}
        for k, v in (*answers.items(), ("T2w copied", t2))
    }
    z = int(np.argmax(lesion.sum((1, 2))))
    panels = [t2[z], truth[z], *(v[z] for v in answers.values()), np.abs(next(iter(answers.values()))[z] - truth[z])]
    sheet = np.concatenate([np.clip(p[::-1], 0, 1) for p in panels], 1)
    Pillow.fromarray((255 * sheet).astype(np.uint8)).resize((3 * sheet.shape[1], 3 * sheet.shape[0])).save(
        folder / "drawn.png"
    )
    return found


def grain(volume: Any, brain: Any) -> float:
    """Power (variance) of what a Gaussian of one pixel takes out of each slice, inside the brain: fine texture and noise."""
    return float((volume - ndimage.gaussian_filter(volume, (0, 1, 1)))[brain].var())


def write(found: dict[str, Any]) -> None:
    first = next(iter(found.values()))
    means = (a for f in found.values() for a in f["answers"] if a.startswith("mean of "))
    draws = next(means, "mean of 1").removeprefix("mean of ")
    lines = [
        "# FLAIR of an MS patient, by family", "",
        f"`python benchmarks/families_ms.py --data DIR --minutes {first['minutes']:g} --draws {draws}`, threads: {first['threads']}. {TRAIN} trains, {TEST} tests: descriptive. Averaged to 3 x 2 x 2 mm.",
        "PSNR (dB, range 1 = the 99.5th percentile, brain), SSIM (2D, Wang 2004, brain). Noise power: variance of what a Gaussian of one pixel takes out, over",
        "the truth's. Lesion contrast kept: 1 = as in the truth.", "", f"{first['machine']}.", "",
        "| family | steps | answer | PSNR | SSIM | noise power | lesion contrast | train s | s a draw |", "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, part_of in found.items():
        for answer, f in part_of["answers"].items():
            if answer.endswith("copied"):
                continue
            lines.append(
                f"| {name} | {' + '.join(map(str, part_of['steps']))} | {answer} | {f['psnr']:.1f} | {f['ssim']:.2f} | {f['noise power']:.2f} | {f['lesion_contrast']:.2f} "
                f"| {part_of['train_s']:.0f} | {part_of['draw_s']:.1f} |"
            )
    copied = first["answers"]["T2w copied"]
    lines.append(
        f"| T2w copied | | | {copied['psnr']:.1f} | {copied['ssim']:.2f} | {copied['noise power']:.2f} | {copied['lesion_contrast']:.2f} | | |"
    )
    trivial = first["joint histogram"]
    lines.append(
        f"| joint histogram of T1w and T2w, in the run's report | | | {trivial['psnr']:.1f} | {trivial['ssim']:.2f} | | {trivial['lesion contrast kept']:.2f} | | |"
    )
    seen = RESULTS / "families_ms_seen.md"
    lines += ["", *([seen.read_text().rstrip(), ""] if seen.exists() else [])]
    (RESULTS / "families_ms.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

"""Raw data to images: classical solvers, unrolled networks, bridges and draws of a prior on the same questions.

    python benchmarks/reconstruction.py [--data DIR] [--minutes 3] [--only "MR 8x"] [--work runs/reconstruction]

Measured data are simulated from images of patients that training did not see, with coil maps, phase, noise and gain told from the samples alone: six simulated patients, a
slice each, and with --data (the folder of real scans) two slices of each of the two patients of `mri_multicontrast/ms_mni`, which nobody trained on: descriptive. Everything that learns does so on
simulated patients: `minutes` each, but the prior of MR, which ships. A finished part is not run again.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from sets import DEVICE, RESULTS, add_device, machine, place, resumed

from fabrica.evaluate.statistics import interval
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

SLICES, STEP = (84, 92), 8  # of the real volumes, whose planes are 1 mm apart
NETWORK = {"channels": [16, 32, 64]}
METRICS = ("psnr", "ssim")
PARTS: dict[str, dict[str, Any]] = {
    "MR 4x": {"x": "T1w", "acquisition": {"name": "mr", "coils": 8, "acceleration": 4, "pattern": "lines"}, "mm": 1},
    "MR 8x": {"x": "T1w", "acquisition": {"name": "mr", "coils": 8, "acceleration": 8, "pattern": "random"}, "mm": 1},
    "CT 60 views": {"x": "CT", "acquisition": {"name": "ct", "views": 60, "photons": 1e5}, "mm": 2},
    "CT 60 views, fan": {"x": "CT", "acquisition": {"name": "ct", "views": 60, "photons": 1e5, "geometry": "fan"}, "mm": 2},
    "PET 5 %": {"x": "PET", "acquisition": {"name": "pet", "counts": 2.5e5}, "mm": 2},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--work", type=Path, default=Path("runs/reconstruction"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--lesions", type=int, default=10, help="slices that lesions are put into")
    parser.add_argument("--only", default="", help="one part")
    add_device(parser)
    options = parser.parse_args()
    real = slabs(options.data / "mri_multicontrast/ms_mni", options.work / "real") if options.data else None
    file = RESULTS / "reconstruction.json"
    write(resumed(file, options.work, PARTS, options.only, lambda name, plan: part(name, plan, real, options)))


def slabs(data: Path, out: Path) -> Path:
    """Some slices of the T1w of both patients."""
    for path in sorted(data.rglob("*T1*.nii*")):
        target = out / path.relative_to(data)
        if target.exists() or "post" in path.name.lower() or "T1WKS" in path.name:
            continue
        image = nibabel.load(path)  # type: ignore[attr-defined]
        values = np.asarray(image.dataobj, np.float32)[:, :, SLICES[0] : SLICES[-1] + 1 : STEP]
        move = np.diag([1.0, 1.0, STEP, 1.0])
        move[2, 3] = SLICES[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        nibabel.Nifti1Image(values, image.affine @ move).to_filename(target)  # type: ignore[no-untyped-call, attr-defined]
    return out


def part(name: str, plan: dict[str, Any], real: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    mr, mm = plan["x"] == "T1w", plan["mm"]
    heads = {"patients": 8, "spacing_mm": mm, "skull": True, "planes": [56 // mm, 112 // mm]}
    brains = {**heads, "first": 40, "skull": False}
    unseen = {**heads, "patients": 6, "first": 200, "planes": [84 // mm, 84 // mm + 1]}
    cohorts: dict[str, Any] = {"heads": {"virtual": heads}, "unseen": {"virtual": unseen}}
    if mr:
        cohorts["brains"] = {"virtual": brains}
        cohorts |= {"real": {"path": str(real)}} if real else {}
    job = {"name": "reconstruction", "x": plan["x"], "acquisition": plan["acquisition"]}
    shared = {"job": job, "prepare": {"size": [128, 128] if mr else [96, 96]}}
    taught = {**shared, "train": {"minutes": options.minutes, "batch": 4}}
    prior: dict[str, Any] = {"job": job, "family": {"prior": "mr_brain"}}
    if not mr:
        prior = {
            **shared,
            "family": {"name": "flow", "network": {"channels": [32, 64, 128]}},
            "train": {"minutes": options.minutes, "batch": 8},
        }
    recipe = from_plain({
        "cohorts": cohorts, "split": {"train": 0.0, "test": 1.0, "only_train": [n for n in cohorts if n in ("heads", "brains")]},
        "baseline": "none",
        "evaluate": {
            "draws": 4, "realism": 0, "evaluations": [], "lesions": {"slices": options.lesions, "diameters_mm": [3, 5], "contrast": -0.2 if mr else 0.05},
        },
        "stages": {
            "prior": {**prior, "sampler": {"name": "posterior", "steps": 20 if mr else 8}},
            "unrolled": {**taught, "family": {"name": "unrolled", "network": NETWORK}},
            "unrolled_without_images": {**taught, "family": {"name": "unrolled", "supervision": "measurements", "network": NETWORK}},
            "bridge": {**taught, "family": {"name": "bridge", "network": {"channels": [32, 64, 128]}}},
        },
    })  # fmt: skip
    began = time.perf_counter()
    result = run_recipe(
        recipe, options.work / place(name), say=lambda text: print("  ", text, flush=True), device=DEVICE
    )
    return {
        "told": told(options, name), "machine": machine(), "threads": torch.get_num_threads(), "minutes": options.minutes,
        "whole_s": time.perf_counter() - began, "rows": rows_of(result.report.stages), "lesions": lesions_of(result.report.stages),
    }  # fmt: skip


def told(options: argparse.Namespace, name: str) -> str:
    """The line that measures this part again; where real scans lie is not said."""
    data = " --data DIR" if options.data else ""
    return f'python benchmarks/reconstruction.py{data} --minutes {options.minutes:g} --lesions {options.lesions} --only "{name}"'


def rows_of(stages: Any) -> list[dict[str, Any]]:
    """Of simulated and of real patients, by method: PSNR, SSIM, misfit, seconds a draw."""
    found: dict[tuple[str, str, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for stage in stages:
        for r in stage.cases:
            metric = "misfit" if r.metric.startswith("misfit of") and "(" not in r.metric else r.metric
            if metric not in (*METRICS, "misfit", "seconds a draw") or not isinstance(r.value, float | int):
                continue
            by = r.by.replace("model", stage.name) if r.by.startswith("model") else r.by
            if by == r.by and stage.name != "prior":
                continue  # classical answers are the same beside every stage
            who = "simulated" if r.patient.startswith("virtual") else "real"
            found[who, by, metric][r.patient].append(float(r.value))
    table = []
    for (who, by, metric), values in found.items():
        each = [float(np.mean(v)) for v in values.values()]
        told = interval(each, list(values))
        table.append(
            {"who": who, "by": by, "metric": metric, "value": told.value, "interval": told.interval, "n": told.n}
        )
    return table


def lesions_of(stages: Any) -> list[dict[str, Any]]:
    return [
        {"by": f.by.replace("model", stage.name), "name": f.name, "value": f.value, "interval": f.interval, "n": f.n}
        for stage in stages
        for f in stage.figures
        if f.name.startswith("lesions of") and (f.by == "model" or stage.name == "prior")
    ]


def write(parts: dict[str, Any]) -> None:
    lines = [(__doc__ or "").strip(), ""]
    for name, found in parts.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"`{found['told']}`",
            "",
            f"{found['machine']}, {found['threads']} threads; {found['minutes']:g} minutes of training each{found.get('beside', '')}.",
            "",
        ]
        for who in ("simulated", "real"):
            rows = [r for r in found["rows"] if r["who"] == who]
            if not rows:
                continue
            n = max(r["n"] for r in rows)
            lines += [
                f"**{n} {who} patients**",
                "",
                "| answer | PSNR (dB) | SSIM | misfit (1 = noise alone) |",
                "|---|---|---|---|",
            ]
            ranked = sorted({r["by"] for r in rows if r["metric"] == "psnr"}, key=lambda by: -_value(rows, by, "psnr"))
            lines += [
                f"| {by} | {_told(rows, by, 'psnr', 1)} | {_told(rows, by, 'ssim', 3)} | {_told(rows, by, 'misfit', 2)} |"
                for by in ranked
            ]
            lines.append("")
        lines += ["| lesions put into what is measured | by | value | 95 % | n |", "|---|---|---|---|---|"]
        for f in found["lesions"]:
            between = f"{f['interval'][0]:.2f} to {f['interval'][1]:.2f}" if f["interval"] else ""
            lines.append(f"| {f['name']} | {f['by']} | {f['value']:.2f} | {between} | {f['n']} |")
    (RESULTS / "reconstruction.md").write_text("\n".join(["# Reconstruction", "", *lines]) + "\n")


def _value(rows: list[dict[str, Any]], by: str, metric: str) -> float:
    return next((float(r["value"]) for r in rows if r["by"] == by and r["metric"] == metric), -np.inf)


def _told(rows: list[dict[str, Any]], by: str, metric: str, digits: int) -> str:
    for r in rows:
        if r["by"] == by and r["metric"] == metric:
            between = f" ({r['interval'][0]:.{digits}f} to {r['interval'][1]:.{digits}f})" if r["interval"] else ""
            return f"{r['value']:.{digits}f}{between}"
    return ""


if __name__ == "__main__":
    main()

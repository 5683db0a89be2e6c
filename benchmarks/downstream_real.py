"""Does synthetic data help, on real scans: X-rays by class (pneumoniamnist). Hippocampi: families_hippocampus.py.

    python benchmarks/downstream_real.py --data DIR [--steps 1500] [--seeds 5]

DIR is the folder of scans. A generator is trained on the same training patients as the arms, synthetic patients are drawn, and
`fabrica downstream` compares. Finished parts are not run again (--work DIR). Writes results/downstream_real.json and .md.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch
from sets import DEVICE, RESULTS, add_device, resumed

from fabrica.generate.patients import draw_patients
from fabrica.learning.checkpoint import load
from fabrica.networks import precision
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.study.downstream import Terms, compare_arms

PARTS: dict[str, dict[str, Any]] = {
    "pneumonia": {
        "path": "images_2d/pneumoniamnist", "split": {"train": 0.7, "test": 0.3, "seed": 0}, "patients": 1200,
        "generator": {"job": {"name": "synthesis", "x": ["image"], "by": {"class": ["0", "1"]}, "drop": 0.1},
                      "family": {"name": "flow", "network": {"channels": [32, 64, 96]}}, "baseline": "none", "evaluate": {"draws": 1}},
        "task": {"job": {"name": "outcome", "from": ["image"], "x": "class", "classes": ["0", "1"]},
                 "family": {"name": "regression", "network": {"channels": [16, 32, 64], "blocks": 1}},
                 "train": {"steps": 400, "batch": 32}},
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/downstream"))
    parser.add_argument("--only", default="")
    parser.add_argument("--steps", type=int, default=1500, help="of the generator")
    parser.add_argument("--seeds", type=int, default=5)
    add_device(parser)
    options = parser.parse_args()
    file = RESULTS / "downstream_real.json"
    found = resumed(file, options.work, PARTS, options.only, lambda name, plan: part(name, plan, options))
    write(found, options)


def part(name: str, plan: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    real, work = options.data / plan["path"], options.work / name
    recipe = {
        **plan["generator"], "cohorts": {"all": {"path": str(real)}}, "split": plan["split"],
        "train": {"steps": options.steps, "batch": 32},
    }  # fmt: skip
    run_recipe(from_plain(recipe), work / "generator", device=DEVICE)
    known = load(work / "generator" / "stages" / "model")
    assert known is not None
    drawn = work / "synthetic"
    if not (drawn / "patients.csv").is_file():
        draw_patients(work / "generator", drawn, plan["patients"], {})
    task = {**plan["task"], "split": plan["split"], "seed": 0}
    compared = compare_arms(task, real, drawn, work / "arms", Terms(seeds=options.seeds, generator=work / "generator"))
    arms = json.loads((work / "arms" / "downstream.json").read_text())["arms"]
    return {
        "seeds": options.seeds, "threads": torch.get_num_threads(),
        "generator_s": known[1]["seconds"], "steps": options.steps, "sentence": compared.sentence(), "arms": arms, "patients": plan["patients"],
        "figures": figures(work / "arms", options.seeds), "machine": f"{platform.processor() or platform.machine()}, {precision.choose('cpu')}",
    }  # fmt: skip


def figures(folder: Path, seeds: int) -> dict[str, list[float]]:
    """The AUC of every arm and seed, where the task is a class."""
    found: dict[str, list[float]] = {}
    for arm in sorted(p for p in folder.iterdir() if p.is_dir()):
        for seed in range(seeds):
            report = json.loads((arm / str(seed) / "report" / "report.json").read_text())
            found.setdefault(arm.name, []).extend(
                f["value"]
                for f in report["stages"][0]["figures"]
                if f["name"].startswith("AUC") and not isinstance(f["value"], str)
            )
    return {k: v for k, v in found.items() if v}


def write(found: dict[str, Any], options: argparse.Namespace) -> None:
    lines = [
        "# Does synthetic data help?", "",
        "`python benchmarks/downstream_real.py --data DIR`, with what each part names. Arms at equal steps; each patient's mean over seeds; intervals over patients; gain over",
        "real images with classical augmentation, on the same unseen patients. The generator saw the training patients alone.", "",
    ]  # fmt: skip
    for name, one in found.items():
        lines += [f"## {name}", "", f"`--only {name} --steps {one['steps']} --seeds {one['seeds']}`, threads: {one['threads']}. Generator: {one['generator_s']:.0f} s of training; {one['patients']} synthetic patients. {one['machine']}.", "",
                  "| arm | endpoint | value | interval | by seed | gain | interval |", "|---|---|---|---|---|---|---|"]  # fmt: skip
        for a in one["arms"]:
            gain = a["gain"] or {"value": None, "interval": None}
            lines.append(
                f"| {a['arm']} | {a['endpoint']} | {a['value']:.3f} | {bounds(a['interval'])} | {min(a['seeds']):.3f} to {max(a['seeds']):.3f} | "
                f"{'' if gain['value'] is None else format(gain['value'], '+.3f')} | {bounds(gain['interval'])} |"
            )
        lines += ["", one["sentence"], ""]
        for arm, values in one["figures"].items():
            lines.append(
                f"- AUC, {arm.replace('_', ' ')}: {sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f} over seeds)"
            )
        lines.append("")
    (RESULTS / "downstream_real.md").write_text("\n".join(lines))


def bounds(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


if __name__ == "__main__":
    main()

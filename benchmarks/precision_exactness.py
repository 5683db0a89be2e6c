"""Is bfloat16 training as exact as float32? The same recipe in both, three seeds each, on two real sets.

    python benchmarks/precision_exactness.py --data DIR [--steps 150]

DIR is the folder of real scans. Each finished training is written at once to results/precision_exactness.json, a second
call goes on where the first stopped, and results/precision_exactness.md is made from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

RESULTS = Path(__file__).parent / "results"
NETWORK = {"channels": [16, 32, 64], "blocks": 1}
SETS: dict[str, dict[str, Any]] = {
    "FLAIR from T1w + T2w, ms_mni, 07 to 19 (mean absolute error)": {
        "path": "mri_multicontrast/ms_mni", "split": {"train": ["patient07"], "test": ["patient19"]}, "metric": "mae",
        "job": {"name": "translation", "from": ["T1w", "T2w"], "x": ["FLAIR"]}, "prepare": {"size": [64, 64]}, "batch": 8,
    },
    "segmentation of mri_hippocampus, slices (Dice)": {
        "path": "mri_hippocampus", "split": {"train": 0.9, "test": 0.1}, "metric": "dice",
        "job": {"name": "segmentation", "from": ["image"], "x": ["label:3"]}, "prepare": {"size": [48, 32]}, "batch": 16,
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--only", default="", help="sets whose name holds this word")
    options = parser.parse_args()
    file = RESULTS / "precision_exactness.json"
    known: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in (n for n in SETS if options.only in n):
        for seed in range(3):
            for precision in ("fp32", "bf16"):
                cell = f"{name} | {precision} | {seed}"
                if cell not in known:
                    known[cell] = trained(SETS[name], options.data, options.steps, precision, seed)
                    file.write_text(json.dumps(known, indent=1))
                    (RESULTS / "precision_exactness.md").write_text("\n".join(page(known)) + "\n")
                    print(cell, known[cell], flush=True)


def trained(plan: dict[str, Any], data: Path, steps: int, precision: str, seed: int) -> dict[str, Any]:
    recipe = {
        "cohorts": {"real": {"path": str(data / plan["path"])}}, "split": plan["split"], "baseline": "none", "seed": seed,
        "job": plan["job"], "family": {"name": "regression", "network": NETWORK}, "prepare": plan["prepare"],
        "train": {"steps": steps, "batch": plan["batch"], "precision": precision}, "evaluate": {"draws": 1},
    }  # fmt: skip
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = run_recipe(from_plain(recipe), Path(folder) / "run", say=lambda text: None)
    stage = result.report.stages[0]
    values = [
        float(r.value)
        for r in stage.cases
        if r.metric.startswith(plan["metric"]) and r.by == "model" and not isinstance(r.value, str)
    ]
    return {
        "value": statistics.mean(values), "last_loss": stage.curve[-1][1], "cases": len(values), "steps": steps,
        "seconds": time.perf_counter() - began,
    }  # fmt: skip


def page(known: dict[str, Any]) -> list[str]:
    lines = [
        "# bfloat16 beside float32", "",
        "`python benchmarks/precision_exactness.py --data DIR`. The same recipe (regression, channels 16-32-64) trained in both",
        "formats with three seeds; figures on patients that training did not see. bfloat16 is as exact when its mean lies within",
        "the spread of the seeds in float32.", "",
        "| set | steps | float32: seeds | bfloat16: seeds | difference of means | spread of seeds (float32) | within |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in SETS:
        found = {
            p: [known[k]["value"] for s in range(3) if (k := f"{name} | {p} | {s}") in known] for p in ("fp32", "bf16")
        }
        if min(map(len, found.values())) == 0:
            continue
        steps = next(cell["steps"] for key, cell in known.items() if key.startswith(name))
        difference = statistics.mean(found["bf16"]) - statistics.mean(found["fp32"])
        spread = max(found["fp32"]) - min(found["fp32"])
        words = [", ".join(f"{v:.4f}" for v in found[p]) for p in ("fp32", "bf16")]
        verdict = "yes" if abs(difference) <= spread else "**no**"
        lines.append(f"| {name} | {steps} | {words[0]} | {words[1]} | {difference:+.4f} | {spread:.4f} | {verdict} |")
    return lines


if __name__ == "__main__":
    main()

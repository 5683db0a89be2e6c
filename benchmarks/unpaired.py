"""Translation learned without pairs, on simulated patients whose true answer is known: with and without the loss of edges, beside pairs.

    python benchmarks/unpaired.py [--minutes 5] [--only "cycle"] [--work runs/unpaired]

T2w from T1w of recipes/unpaired.yaml; every part for the same wall time on the same patients. Judged on patients who trained nothing.
Writes results/unpaired.md.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from sets import DEVICE, RESULTS, add_device, machine, place, resumed

from fabrica.learning.checkpoint import load as load_checkpoint
from fabrica.recipe.checks import load
from fabrica.run.sequence import run_recipe

RECIPE = Path(__file__).parents[1] / "recipes" / "unpaired.yaml"
PARTS: dict[str, list[str]] = {
    "cycle": [],
    "cycle, no loss of edges": ["family.structure=0"],
    "regression, with pairs": ["family={name: regression, network: {channels: [16, 32, 64]}}", "pairing=patient"],
}
METRICS = ("psnr", "ssim")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--only", default="", help="one part")
    parser.add_argument("--work", type=Path, default=Path("runs/unpaired"))
    add_device(parser)
    options = parser.parse_args()
    found = resumed(
        RESULTS / "unpaired.json", options.work, PARTS, options.only, lambda name, changes: part(name, changes, options)
    )
    write(found)


def part(name: str, changes: list[str], options: argparse.Namespace) -> dict[str, Any]:
    settings = [*changes, f"train.minutes={options.minutes}", "baseline=none", "evaluate.evaluations=[]"]
    folder = options.work / place(name)
    result = run_recipe(load(RECIPE, settings), folder, say=lambda text: print("  ", text, flush=True), device=DEVICE)
    (stage,) = result.report.stages
    made = load_checkpoint(folder / "stages" / stage.name)
    assert made is not None
    answers: dict[str, dict[str, list[float]]] = {}
    for row in stage.cases:
        if row.metric in METRICS and not isinstance(row.value, str):
            answers.setdefault(row.by, {}).setdefault(row.metric, []).append(float(row.value))
    return {
        "steps": made[1]["step"], "train_s": made[1]["seconds"], "threads": torch.get_num_threads(), "machine": machine(),
        "minutes": options.minutes, "answers": answers,
    }  # fmt: skip


def write(found: dict[str, Any]) -> None:
    first = next(iter(found.values()))
    lines = [
        "# Translation learned without pairs", "",
        f"`python benchmarks/unpaired.py --minutes {first['minutes']:g}`, threads: {first['threads']}. T2w from T1w of simulated patients (recipes/unpaired.yaml), mean and range over the patients who",
        f"trained nothing. {first['machine']}.", "", "| answer | steps | patients | PSNR, dB | SSIM |", "|---|---|---|---|---|",
    ]  # fmt: skip
    rows = [
        (name, part["steps"], part["answers"].get("model: one draw") or part["answers"]["model"])
        for name, part in found.items()
    ]
    rows += [(by, "", values) for by, values in first["answers"].items() if not by.startswith("model")]
    for name, steps, values in rows:
        told = [
            f"{statistics.mean(v):.{d}f} ({min(v):.{d}f} to {max(v):.{d}f})"
            for v, d in zip((values[m] for m in METRICS), (1, 2), strict=True)
        ]
        lines.append(f"| {name} | {steps} | {len(values['psnr'])} | {' | '.join(told)} |")
    seen = RESULTS / "unpaired_seen.md"
    lines += ["", *([seen.read_text().rstrip(), ""] if seen.exists() else [])]
    (RESULTS / "unpaired.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

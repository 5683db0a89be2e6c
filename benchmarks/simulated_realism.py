"""Statistics of simulated brains beside a real one that was not used for tuning, in plane, brain only, white matter = 1.

    python benchmarks/simulated_realism.py --data DIR

DIR is `mri_multicontrast/glioma_bet`: one patient, brain-extracted, 1 mm; the tumour and 5 mm around it are left out.
One real brain is descriptive only. Writes results/simulated_realism.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from fabrica.data import cohort
from fabrica.data.virtual import Patient, simulate
from fabrica.data.virtual.template import template

NAMES = ("T1w", "T2w", "FLAIR")
Array = np.ndarray[Any, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    options = parser.parse_args()
    columns = {"real TCGA-FG-6692": real(options.data)}
    template()
    cost = []
    for seed, scanner in ((101, "A"), (102, "A"), (103, "B")):
        columns[f"simulated {seed}, scanner {scanner}"], seconds = simulated(seed, scanner)
        cost.append(seconds)
    write(columns, cost)


def real(data: Path) -> dict[str, float]:
    (member,) = [m for m in cohort.find(data).members if "T1w" in m.contrasts()]
    case = member.load([*NAMES, "label"])
    volumes = {n: case.images[n].data[0].numpy() for n in NAMES}
    tumour = ndimage.binary_dilation(case.images["label"].data[0].numpy() > 0, iterations=5)
    return statistics(volumes, (volumes["T1w"] > 0.05 * np.quantile(volumes["T1w"], 0.999)) & ~tumour)


def simulated(seed: int, scanner: str) -> tuple[dict[str, float], float]:
    """All six contrasts, so that the time is that of a whole head; (z, y, x) for the statistics."""
    start = time.process_time()
    made = simulate(Patient(seed=seed, age=45), scanner)
    seconds = time.process_time() - start
    volumes = {n: made.images[n].permute(2, 1, 0).numpy() for n in NAMES}
    return statistics(volumes, made.brain.permute(2, 1, 0).numpy() > 0.5), seconds


def statistics(volumes: dict[str, Array], brain: Array) -> dict[str, float]:
    brain = ndimage.binary_erosion(brain, iterations=2)
    classes = three_classes(volumes["T1w"], brain)
    found: dict[str, float] = {
        f"share of {n}": float((classes == i).sum() / brain.sum()) for i, n in enumerate(("CSF", "GM", "WM"), 0)
    }
    for name in NAMES:
        image = volumes[name] / np.median(volumes[name][classes == 2])
        found[f"{name} GM/WM"] = float(np.median(image[classes == 1]))
        found[f"{name} CSF/WM"] = float(np.median(image[classes == 0]))
        white = ndimage.binary_erosion(classes == 2, iterations=1)
        fine = image - ndimage.gaussian_filter(image, (0, 1.5, 1.5))
        found[f"{name} fine variation in WM"] = float(fine[white].std())
        slope = np.hypot(*np.gradient(ndimage.gaussian_filter(image, (0, 0.5, 0.5)), axis=(1, 2)))
        found[f"{name} gradient p50"], found[f"{name} gradient p99"] = (
            float(v) for v in np.quantile(slope[brain], [0.5, 0.99])
        )
        for low, high in ((0.05, 0.1), (0.3, 0.5)):
            found[f"{name} log10 power {low}-{high} / mm"] = power(image * brain, brain, low, high)
    return found


def three_classes(t1: Array, brain: Array) -> Array:
    """0 CSF, 1 grey, 2 white by k-means on T1, -1 outside."""
    values = t1[brain]
    centres = np.quantile(values, [0.05, 0.4, 0.85])
    for _ in range(25):
        nearest = np.abs(values[:, None] - centres).argmin(1)
        centres = np.array([values[nearest == k].mean() for k in range(3)])
    classes = np.full(t1.shape, -1)
    classes[brain] = nearest
    return classes


def power(image: Array, brain: Array, low: float, high: float) -> float:
    """Mean in-plane power density over the slices that hold most brain."""
    planes = np.argsort(brain.sum((1, 2)))[-40:]
    values = []
    for z in planes:
        spectrum = torch.fft.fft2(torch.from_numpy(np.ascontiguousarray(image[z])).double()).abs() ** 2 / brain[z].sum()
        f = torch.hypot(torch.fft.fftfreq(image.shape[1])[:, None], torch.fft.fftfreq(image.shape[2])[None])
        values.append(float(spectrum[(f >= low) & (f < high)].mean()))
    return float(np.log10(np.mean(values)))


def write(columns: dict[str, dict[str, float]], cost: list[float]) -> None:
    lines = [
        "# Simulated brains beside a real one", "",
        "`python benchmarks/simulated_realism.py --data DIR` (DIR: `mri_multicontrast/glioma_bet`). In plane, brain only, white",
        "matter = 1, tumour left out. This brain was not used for tuning; one brain is descriptive only.", "",
        f"One head of 1 mm in six contrasts took {min(cost):.1f} to {max(cost):.1f} s of CPU time (user and system, one thread,",
        "template loaded).", "",
        "| statistic | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns),
    ]  # fmt: skip
    for key in next(iter(columns.values())):
        lines.append(f"| {key} | " + " | ".join(f"{c[key]:.3g}" for c in columns.values()) + " |")
    (Path(__file__).parent / "results" / "simulated_realism.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()

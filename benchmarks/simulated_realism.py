"""Statistics of simulated brains beside real ones that were not used for tuning, in plane, brain only, white matter = 1.

    python benchmarks/simulated_realism.py --data DIR [--picture FILE]

DIR is the folder of real scans. `mri_multicontrast/glioma_bet`: brain-extracted, 1 mm; the tumour and 5 mm around it
are left out. `longitudinal/ms_mri`: native grids, each contrast on its own; classes come from the T1w scan, moved there
by the transforms that lie beside it. Simulated brains are brought to the same grid. Lengths are in mm. A few real brains
are descriptive only. Writes results/simulated_realism.md; FILE shows real and simulated slices side by side.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from PIL import Image as Picture
from scipy import ndimage

from fabrica.contracts import Field, Image
from fabrica.data import cohort
from fabrica.data.grid import Grid, resample
from fabrica.data.virtual import Patient, simulate
from fabrica.data.virtual.template import template

NAMES = ("T1w", "T2w", "FLAIR")
FILES = {"T1w": "T1W", "T2w": "T2W", "FLAIR": "FLAIR"}
STUDIES = (("patient01", "study1"), ("patient03", "study2"), ("patient04", "study1"))
HEADS = ((101, "A", 45.0), (102, "A", 35.0), (103, "B", 40.0))
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Look:
    """One contrast on its own grid: pixels, tissue classes (-1 outside, 0 CSF, 1 grey, 2 white), spacing (z, y, x) mm."""

    pixels: Array
    classes: Array
    spacing_mm: tuple[float, float, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    template()
    fine = {"real TCGA-FG-6692": glioma(options.data / "mri_multicontrast" / "glioma_bet")}
    native = {f"real {p} {v}": native_study(options.data / "longitudinal" / "ms_mri" / p, v) for p, v in STUDIES}
    grids = {name: look.spacing_mm for name, look in next(iter(native.values())).items()}
    cost = []
    for seed, scanner, age in HEADS:
        made, seconds = simulated(seed, scanner, age)
        cost.append(seconds)
        fine[f"simulated {seed}, scanner {scanner}"] = made
        native[f"simulated {seed}, scanner {scanner}"] = {n: on_grid(made, n, grids[n]) for n in NAMES}
    if options.picture:
        show(native, options.picture)
    write(fine, native, cost)


def glioma(data: Path) -> dict[str, Look]:
    (member,) = [m for m in cohort.find(data).members if "T1w" in m.contrasts()]
    case = member.load([*NAMES, "label"])
    volumes = {n: case.images[n].data[0].numpy() for n in NAMES}
    tumour = ndimage.binary_dilation(case.images["label"].data[0].numpy() > 0, iterations=5)
    brain = (volumes["T1w"] > 0.05 * np.quantile(volumes["T1w"], 0.999)) & ~tumour
    classes = three_classes(volumes["T1w"], ndimage.binary_erosion(brain, iterations=2))
    return {n: Look(v, classes, (1.0, 1.0, 1.0)) for n, v in volumes.items()}


def native_study(folder: Path, visit: str) -> dict[str, Look]:
    """T1w classes inside the brain mask, moved to each contrast's own grid by the transforms of the data set."""
    scans = {
        n: SimpleITK.ReadImage(str(folder / f"{visit}_{f}.nii.gz"), SimpleITK.sitkFloat32) for n, f in FILES.items()
    }
    mask = SimpleITK.ReadImage(str(folder / "brainmask_common_space.nii.gz"), SimpleITK.sitkUInt8)
    to_flair = {
        n: SimpleITK.ReadTransform(str(folder / f"{visit}_{f}_intrastudy_to_FLAIR.txt"))
        for n, f in FILES.items() if n != "FLAIR"
    }  # fmt: skip
    to_common = SimpleITK.ReadTransform(str(folder / f"{visit}_FLAIR_to_common_space.txt"))
    # a transform "a to b" maps points of b to points of a, as resampling needs it
    t1_to_common = chain(to_common.GetInverse(), to_flair["T1w"].GetInverse())
    brain = SimpleITK.Resample(mask, scans["T1w"], t1_to_common, SimpleITK.sitkNearestNeighbor)
    inside = SimpleITK.GetArrayFromImage(brain) > 0
    step = scans["T1w"].GetSpacing()[0]
    inside = ndimage.binary_erosion(inside, np.ones((1, 3, 3)), iterations=max(1, round(2 / step)))
    classes = SimpleITK.GetImageFromArray(
        three_classes(SimpleITK.GetArrayFromImage(scans["T1w"]), inside).astype(np.int16)
    )
    classes.CopyInformation(scans["T1w"])
    looks = {}
    for name, scan in scans.items():
        move = SimpleITK.Transform()
        if name == "FLAIR":
            move = to_flair["T1w"]
        elif name == "T2w":
            move = chain(to_flair["T1w"], to_flair["T2w"].GetInverse())
        moved = SimpleITK.Resample(classes, scan, move, SimpleITK.sitkNearestNeighbor, -1)
        spacing = tuple(reversed(scan.GetSpacing()))
        looks[name] = Look(SimpleITK.GetArrayFromImage(scan), SimpleITK.GetArrayFromImage(moved), spacing)
    return looks


def chain(last: Any, first: Any) -> Any:
    """Points go through `first`, then through `last`."""
    both = SimpleITK.CompositeTransform(3)
    both.AddTransform(last)
    both.AddTransform(first)
    return both


def simulated(seed: int, scanner: str, age: float) -> tuple[dict[str, Look], float]:
    """All six contrasts, so that the time is that of a whole head; (z, y, x) for the statistics."""
    start = time.process_time()
    made = simulate(Patient(seed=seed, age=age), scanner)
    seconds = time.process_time() - start
    volumes = {n: made.images[n].permute(2, 1, 0).numpy() for n in NAMES}
    brain = ndimage.binary_erosion(made.brain.permute(2, 1, 0).numpy() > 0.5, iterations=2)
    classes = three_classes(volumes["T1w"], brain)
    return {n: Look(v, classes, (1.0, 1.0, 1.0)) for n, v in volumes.items()}, seconds


def on_grid(made: dict[str, Look], name: str, spacing: tuple[float, float, float]) -> Look:
    """A simulated contrast on a real scan's spacing: slices averaged, pixels interpolated."""
    look = made[name]
    shape = tuple(int(n / s) for n, s in zip(look.pixels.shape, spacing, strict=True))
    grid = Grid(torch.diag(torch.tensor([*spacing, 1.0], dtype=torch.float64)), shape)  # type: ignore[arg-type]
    moved = []
    for array, kind in ((look.pixels, "intensity"), (look.classes, "label")):
        data = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]
        moved.append(
            resample(
                Image(data, "zyx", torch.eye(4).double(), Field(name, kind)), grid, -1.0 if kind == "label" else 0.0
            )
        )  # type: ignore[arg-type]
    return Look(moved[0].data[0].numpy(), moved[1].data[0].numpy().round(), spacing)


def statistics(looks: dict[str, Look]) -> dict[str, float]:
    classes = looks["T1w"].classes
    inside = (classes >= 0).sum()
    found = {f"share of {n}": float((classes == i).sum() / inside) for i, n in enumerate(("CSF", "GM", "WM"))}
    for name, look in looks.items():
        found |= {f"{name} {what}": value for what, value in of_one(look).items()}
    return found


def of_one(look: Look) -> dict[str, float]:
    step = look.spacing_mm[1:]
    brain = look.classes >= 0
    image = look.pixels / np.median(look.pixels[look.classes == 2])
    white = ndimage.binary_erosion(look.classes == 2, np.ones((1, 3, 3)))
    rough = ndimage.gaussian_filter(image, (0, 1.5 / step[0], 1.5 / step[1]))
    soft = ndimage.gaussian_filter(image, (0, 0.5 / step[0], 0.5 / step[1]))
    slope = np.hypot(*np.gradient(soft, *step, axis=(1, 2)))
    found = {
        "GM/WM": float(np.median(image[look.classes == 1])),
        "CSF/WM": float(np.median(image[look.classes == 0])),
        "fine variation in WM": float((image - rough)[white].std()),
        "gradient p50 / mm": float(np.quantile(slope[brain], 0.5)),
        "gradient p99 / mm": float(np.quantile(slope[brain], 0.99)),
    }
    for low, high in ((0.05, 0.1), (0.3, 0.5)):
        found[f"log10 power {low}-{high} / mm"] = power(image * brain, brain, step, low, high)
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


def power(image: Array, brain: Array, step: tuple[float, ...], low: float, high: float) -> float:
    """Mean in-plane power density (mm^2) over the slices that hold most brain."""
    planes = np.argsort(brain.sum((1, 2)))[-max(10, len(brain) // 4) :]
    values = []
    for z in planes:
        area = step[0] * step[1]
        spectrum = torch.fft.fft2(torch.from_numpy(np.ascontiguousarray(image[z])).double()).abs() ** 2
        f = torch.hypot(
            torch.fft.fftfreq(image.shape[1], step[0])[:, None], torch.fft.fftfreq(image.shape[2], step[1])[None]
        )
        values.append(float((spectrum * area / brain[z].sum())[(f >= low) & (f < high)].mean()))
    return float(np.log10(np.mean(values)))


def show(columns: dict[str, dict[str, Look]], path: Path) -> None:
    """One slice of each brain and contrast, white matter at 0.6 of the window (T2w: 0.35), real above simulated."""
    rows = []
    for looks in columns.values():
        row = []
        for name in NAMES:
            look = looks[name]
            z = int(np.flatnonzero((look.classes >= 0).any((1, 2)))[[0, -1]].mean() * 1.1)
            plane = look.pixels[z] / np.median(look.pixels[look.classes == 2]) * (0.35 if name == "T2w" else 0.6)
            pixels = Picture.fromarray((plane.clip(0, 1) * 255).astype(np.uint8))
            size = [round(n * mm / 0.6) for n, mm in zip(plane.shape[::-1], look.spacing_mm[:0:-1], strict=True)]
            pixels = pixels.resize((size[0], size[1]))
            tile = Picture.new("L", (360, 400))
            tile.paste(pixels, ((360 - pixels.width) // 2, (400 - pixels.height) // 2))
            row.append(np.asarray(tile))
        rows.append(np.hstack(row))
    half = (len(rows) + 1) // 2
    Picture.fromarray(np.hstack([np.vstack(rows[:half]), np.vstack(rows[half:])])).save(path)


def write(fine: dict[str, dict[str, Look]], native: dict[str, dict[str, Look]], cost: list[float]) -> None:
    lines = [
        "# Simulated brains beside real ones", "",
        "`python benchmarks/simulated_realism.py --data DIR` (DIR: the folder of real scans). In plane, brain only, white matter = 1,",
        "lengths in mm. None of these real brains was used for tuning; a few brains are descriptive only.", "",
        f"One head of 1 mm in six contrasts took {min(cost):.1f} to {max(cost):.1f} s of CPU time (user and system, one thread,",
        "template loaded).", "",
        "Looked at side by side (`--picture`): a reader tells them apart. Simulated brains have fewer and coarser folds, above all",
        "frontal ones, a scalp of even fat, and, brought to slices of 3 mm, less noise than a scan acquired so; deep grey is faint.", "",
        "## Voxels of 1 mm (`mri_multicontrast/glioma_bet`, tumour left out)", "", *table(fine), "",
        "## Native grids (`longitudinal/ms_mri`, slices of 3 mm; simulated brains on the grids of the first patient)", "",
        *table(native),
    ]  # fmt: skip
    (Path(__file__).parent / "results" / "simulated_realism.md").write_text("\n".join(lines) + "\n")


def table(columns: dict[str, dict[str, Look]]) -> list[str]:
    found = {name: statistics(looks) for name, looks in columns.items()}
    lines = ["| statistic | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for key in next(iter(found.values())):
        lines.append(f"| {key} | " + " | ".join(f"{c[key]:.3g}" for c in found.values()) + " |")
    return lines


if __name__ == "__main__":
    main()

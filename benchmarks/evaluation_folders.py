"""What an evaluation of whole folders costs: wall time and memory of `fabrica evaluate` by number and size of volumes.

    python benchmarks/evaluation_folders.py [--cases 200] [--side 128] [--curve]

Volumes are made: textured bodies of int16 in NIfTI, the generated ones blurred and noised copies. Each size runs in a process of
its own, tiers 1 and 2 with everything that the verb does by itself. Writes results/evaluation_folders.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy import ndimage
from sets import machine

RESULTS = Path(__file__).parent / "results"
CURVE = ((25, 64), (50, 64), (100, 64), (200, 64), (25, 96), (25, 128), (50, 128))
ASKED_MINUTES, ASKED_GB = 15.0, 8.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--curve", action="store_true", help="the smaller sizes too")
    options = parser.parse_args()
    file = RESULTS / "evaluation_folders.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for cases, side in (*(CURVE if options.curve else ()), (options.cases, options.side)):
        found[f"{cases} of {side}"] = one(cases, side)
        found["machine"] = machine()
        file.write_text(json.dumps(found, indent=1))
        write(found)
        print(cases, side, found[f"{cases} of {side}"], flush=True)


def one(cases: int, side: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for case in range(cases):
            make(folder, case, side)
        call = [
            sys.executable,
            "-m",
            "fabrica",
            "evaluate",
            "--generated",
            str(folder / "generated"),
            "--reference",
            str(folder / "reference"),
        ]
        began = time.perf_counter()
        done = subprocess.run([*call, "--data-range", "2000", "--out", str(folder / "out")], capture_output=True, text=True, check=False)  # fmt: skip
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        size = sum(p.stat().st_size for p in (folder / "out").rglob("*") if p.is_file())
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"cases": cases, "side": side, "seconds": seconds, "peak_bytes": peak, "report_bytes": size, "cores": len(os.sched_getaffinity(0))}  # fmt: skip


def make(folder: Path, case: int, side: int) -> None:
    rng = np.random.default_rng(case)
    axes = np.meshgrid(*[np.linspace(-1, 1, side)] * 3, indexing="ij")
    radius = sum((a / r) ** 2 for a, r in zip(axes, rng.uniform(0.6, 0.9, 3), strict=True))
    coarse = ndimage.zoom(rng.normal(0, 1, (side // 8,) * 3), 8, order=1)
    true = np.where(radius < 1, 1000 + 250 * coarse + 40 * rng.normal(0, 1, (side,) * 3), 0).clip(0, 2000)
    drawn = (ndimage.gaussian_filter(true, 0.7) + 20 * rng.normal(0, 1, true.shape)).clip(0, 2000)
    for name, values in (("reference", true), ("generated", drawn)):
        path = folder / name / f"patient{case:03d}.nii"
        path.parent.mkdir(exist_ok=True, parents=True)
        nibabel.Nifti1Image(values.astype(np.int16), np.eye(4)).to_filename(path)  # type: ignore[no-untyped-call, attr-defined]


def write(found: dict[str, Any]) -> None:
    rows = sorted((v for v in found.values() if isinstance(v, dict)), key=lambda r: (r["side"], r["cases"]))
    lines = [
        "# What an evaluation of folders costs", "",
        "`python benchmarks/evaluation_folders.py --curve`. `fabrica evaluate` on pairs of made volumes: tier 1 of every pair, tier 2 of the sets, the test of",
        "the metrics themselves, the report. Peak: of the largest process until then.", "", f"{found['machine']}.", "",
        "| volumes | side | cores | seconds | a volume | peak, GB | report, MB |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {r['cases']} | {r['side']} | {r['cores']} | {r['seconds']:.0f} | {r['seconds'] / r['cases']:.2f} | {r['peak_bytes'] / 1e9:.2f} | {r['report_bytes'] / 1e6:.1f} |"
        for r in rows
    ]
    largest = max(rows, key=lambda r: r["cases"] * r["side"] ** 3)
    kept = largest["seconds"] < 60 * ASKED_MINUTES and largest["peak_bytes"] < 1e9 * ASKED_GB
    lines += [
        "", f"Asked: 200 volumes of 128 within {ASKED_MINUTES:g} minutes and {ASKED_GB:g} GB on two cores. Largest here: {largest['cases']} of {largest['side']} in "
        f"{largest['seconds'] / 60:.1f} minutes and {largest['peak_bytes'] / 1e9:.1f} GB on {largest['cores']}: {'reached' if kept else '**missed**'}.", "",
    ]  # fmt: skip
    (RESULTS / "evaluation_folders.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

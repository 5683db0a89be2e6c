"""Volumes: what a draw by windows looks like where they meet and costs, and what networks of tokens cost as volumes grow.

    python benchmarks/volumes.py --data DIR [--minutes 4] [--draws 3] [--work runs/volumes]

DIR is `mri_multicontrast/ms_mni`, averaged over blocks as in families_ms.py. A flow learns patches of the T1w images with their place
and draws patients larger than a patch: at once, by blended windows, and window by window side by side. Writes results/volumes.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from families_ms import TEST, TRAIN, averaged
from sets import DEVICE, RESULTS, add_device, machine
from torch import Tensor

from fabrica.contracts import Condition, Family, Field, Problem, Signature
from fabrica.data.store import places
from fabrica.families import with_steps
from fabrica.machine.device import peak_bytes
from fabrica.networks.backbone import backbone
from fabrica.networks.tiled import cut, tiled, windows
from fabrica.networks.unet import UNetShape
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import run_recipe

WINDOW, WHOLE, EVALUATIONS = (32, 48, 48), (56, 104, 88), 8
KINDS: tuple[Literal["unet", "transformer", "state-space"], ...] = ("unet", "transformer", "state-space")
SIDES = (32, 64, 96, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("runs/volumes"))
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--draws", type=int, default=3)
    add_device(parser)
    options = parser.parse_args()
    family, steps = trained(averaged(options.data, options.work / "data"), options)
    found = {
        "machine": f"{machine()}, {torch.get_num_threads()} thread(s)", "minutes": options.minutes, "steps": steps,
        "draws": options.draws, "seams": seams(family, options.draws), "sides": grown(),
    }  # fmt: skip
    (RESULTS / "volumes.json").write_text(json.dumps(found, indent=1))
    write(found)


def trained(data: Path, options: argparse.Namespace) -> tuple[Family, int]:
    """The flow in few evaluations, and how many steps it learned for."""
    folder = options.work / "run"
    recipe = from_plain({
        "cohorts": {"ms": {"path": str(data)}}, "split": {"train": [TRAIN], "test": [TEST]}, "baseline": "none",
        "job": {"name": "synthesis", "x": ["T1w"], "axes": "zyx"}, "evaluate": {"draws": 1, "window": list(WINDOW), "evaluations": []},
        "family": {"name": "flow", "network": {"channels": [16, 32, 64], "blocks": 1}},
        "prepare": {"size": list(WINDOW)}, "train": {"minutes": options.minutes, "batch": 4},
    })  # fmt: skip
    result = run_recipe(recipe, folder, say=lambda text: print("  ", text, flush=True), device=DEVICE)
    answering = Answering(RunFolder(folder, recipe), recipe.stages[0])
    few = with_steps(answering.family.eval(), EVALUATIONS)
    assert few is not None
    return few, int(result.report.stages[0].steps)


def asked(number: int) -> Problem:
    """A whole patient, told where each voxel lies."""
    lines = [places(n, 0, n) for n in WHOLE]
    place = torch.stack(torch.meshgrid(*lines, indexing="ij"))[None]
    return Problem((str(number),), (1, *WHOLE), Condition({"place": place}))


@torch.inference_mode()
def seams(family: Family, draws: int) -> dict[str, dict[str, float]]:
    """Steps from voxel to voxel where windows meet over those two to four voxels away; 1: nothing to see."""
    ways: dict[str, tuple[Callable[[int], Tensor], float]] = {
        "at once": (lambda k: family.sample(asked(k), Rng([k])), 0.25),
        "by blended windows": (lambda k: blended(family, k), 0.25),
        "window by window, side by side": (lambda k: apart(family, k), 0.0),
    }
    found = {}
    for name, (draw, overlap) in ways.items():
        began = time.perf_counter()
        drawn = [draw(k)[0, 0] for k in range(draws)]
        seconds = (time.perf_counter() - began) / draws
        ratios = torch.tensor([[jump(x, axis, overlap) for axis in range(3)] for x in drawn])
        found[name] = {
            "seconds": seconds, **{n: float(v) for n, v in zip("zyx", ratios.mean(0), strict=True)},
            "largest": float(ratios.max()), "windows": len(windows(WHOLE, WINDOW, overlap)),
        }  # fmt: skip
        print(name, found[name], flush=True)
    one = Problem(("one",), (1, *WINDOW), cut(asked(0).condition, WHOLE, windows(WHOLE, WINDOW)[0]))
    began = time.perf_counter()
    for k in range(draws):
        family.sample(one, Rng([k]))
    found["one window"] = {"seconds": (time.perf_counter() - began) / draws, "windows": 1}
    return found


def blended(family: Family, number: int) -> Tensor:
    with tiled(family, WINDOW):
        return family.sample(asked(number), Rng([number]))


def apart(family: Family, number: int) -> Tensor:
    """Finished windows put side by side, each from its own noise: what blending is compared with."""
    problem, out = asked(number), torch.zeros(1, 1, *WHOLE)
    for k, place in enumerate(windows(WHOLE, WINDOW, 0.0)):
        piece = Problem(problem.cases, (1, *WINDOW), cut(problem.condition, WHOLE, place))
        out[(slice(None), slice(None), *place)] = family.sample(piece, Rng([number]).child("window", k))
    return out


def jump(x: Tensor, axis: int, overlap: float) -> float:
    steps = x.diff(dim=axis).abs().movedim(axis, 0).flatten(1).mean(1)
    ends = {e for p in windows(WHOLE, WINDOW, overlap) for e in (p[axis].start, p[axis].stop) if 0 < e < WHOLE[axis]}
    here = torch.stack([steps[e - 1] for e in ends])
    near = {e - 1 + k for e in ends for k in (-4, -3, -2, 2, 3, 4)} - {e - 1 + k for e in ends for k in (-1, 0, 1)}
    return float(here.mean() / torch.stack([steps[e] for e in near if 0 <= e < len(steps)]).mean())


@torch.inference_mode()
def grown() -> dict[str, dict[str, Any]]:
    """Seconds and live bytes of one evaluation by kind of network and side of the volume."""
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        shape = UNetShape((16, 32, 64), 1) if kind == "unet" else UNetShape((96,), 4, patch=4, kind=kind)
        net = backbone(Signature((Field("T1w"),), "zyx"), 1, shape, "fp32").eval()
        for side in SIDES:
            x, level = torch.randn(1, 1, side, side, side), torch.zeros(1)
            times = []
            for _ in range(3):
                began = time.perf_counter()
                net(x, level, Condition())
                times.append(time.perf_counter() - began)
            held = peak_bytes(lambda net=net, x=x, level=level: net(x, level, Condition()))  # type: ignore[misc]
            found.setdefault(kind, {})[str(side)] = {"seconds": sorted(times)[1], "mb": held / 1e6}
            print(kind, side, found[kind][str(side)], flush=True)
    return found


def write(found: dict[str, Any]) -> None:
    seams_of, one = found["seams"], found["seams"]["one window"]["seconds"]
    sides = " x ".join(map(str, WHOLE))
    lines = [
        "# Volumes", "", "`python benchmarks/volumes.py --data DIR/mri_multicontrast/ms_mni`", "", f"{found['machine']}.", "",
        "## Windows", "", f"A flow that learned patches of {' x '.join(map(str, WINDOW))} voxels of one patient's T1w for {found['minutes']:g} minutes ({found['steps']} steps) draws {sides} voxels, {found['draws']} draws, {EVALUATIONS} evaluations each.",
        "Where windows meet: mean step from voxel to voxel across the planes at which a window begins or ends, over that two to four voxels away; 1: nothing to see.", "",
        "| drawn | windows | z | y | x | largest of any draw and axis | seconds | over windows x one window |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in seams_of.items():
        if "largest" in r:
            lines.append(
                f"| {name} | {r['windows'] if name != 'at once' else 1} | {r['z']:.2f} | {r['y']:.2f} | {r['x']:.2f} | {r['largest']:.2f} | {r['seconds']:.1f} | "
                f"{'' if name == 'at once' else format(r['seconds'] / (r['windows'] * one), '.2f')} |"
            )
    lines += ["", f"One window alone: {one:.2f} s.", "", "## Networks as volumes grow", "", "One evaluation of one volume: seconds (live MB). U-Net of channels 16-32-64; tokens of 4 x 4 x 4 voxels, width 96, four blocks.", "",
              "| network | " + " | ".join(f"{n}^3" for n in SIDES) + " |", "|---" * (len(SIDES) + 1) + "|"]  # fmt: skip
    for kind, row in found["sides"].items():
        lines.append(f"| {kind} | " + " | ".join(f"{r['seconds']:.2f} ({r['mb']:.0f})" for r in row.values()) + " |")
    seen = RESULTS / "volumes_seen.md"
    lines += ["", *([seen.read_text().rstrip(), ""] if seen.is_file() else [])]
    (RESULTS / "volumes.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()

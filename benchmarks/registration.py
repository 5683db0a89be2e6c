"""What moved, on heads that no training saw: a learned run, our classical solver, SimpleITK's, each with its time.

    fabrica run recipes/registration.yaml
    python benchmarks/registration.py --run runs/0001 --patients 8

Known smooth motion of 2 to 10 mm (`fabrica.data.moving`). Errors are of the field, over the head; intervals over patients.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fabrica.contracts import Image
from fabrica.data.cohort import Member
from fabrica.data.grid import foreground
from fabrica.data.moving import FIXED, MOTION, MOVING, along_axes, pairs_of, started
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.statistics import interval
from fabrica.physics.registration import registered
from fabrica.physics.warp import exponential, folded
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder

SPACING_MM = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a finished run of recipes/registration.yaml")
    parser.add_argument("--patients", type=int, default=8)
    asked = parser.parse_args()
    heads = VirtualCohort(patients=asked.patients, spacing_mm=SPACING_MM, skull=True, first=1000).cohort().members
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    answering = _opened(asked.run) if asked.run else None
    for member in pairs_of(heads, "T1w", 1, 10.0):
        case = member.load([FIXED + "T1w", MOVING + "T1w", *MOTION])
        fixed, moving = case.images[FIXED + "T1w"], case.images[MOVING + "T1w"]
        truth = exponential(_velocity([case.images[n] for n in MOTION]), fixed.spacing_mm)
        body = foreground(fixed.data[0])
        for name, way in _ways(answering, member).items():
            started = time.perf_counter()
            field = way(fixed, moving)
            seconds = time.perf_counter() - started
            error = float((field - truth).norm(dim=1)[0][body].mean())
            found[name].append((error, 100 * folded(field, fixed.spacing_mm), seconds))
    size = " x ".join(map(str, fixed.data.shape[1:]))
    print(f"{asked.patients} simulated heads, {size} voxels of {SPACING_MM} mm, {torch.get_num_threads()} threads\n")
    print("| way | error (mm) | folded voxels (%) | seconds |\n|---|---|---|---|")
    for name, rows in found.items():
        errors, folds, seconds = np.array(rows).T
        over = interval(errors.tolist(), [str(k) for k in range(len(errors))])
        ends = f" ({over.interval[0]:.2f} to {over.interval[1]:.2f})" if over.interval else ""
        print(f"| {name} | {errors.mean():.2f}{ends} | {folds.mean():.3f} | {np.median(seconds):.1f} |")


def _ways(answering: Answering | None, member: Member) -> dict[str, Callable[[Image, Image], Tensor]]:
    ways: dict[str, Callable[[Image, Image], Tensor]] = {
        "nothing moved": lambda fixed, moving: torch.zeros(1, 3, *fixed.data.shape[1:]),
        "LNCC, coarse to fine (ours)": _climbed,
        "SimpleITK diffeomorphic Demons, 100 steps": _demons,
        "SimpleITK B-spline, mutual information": _splines,
    }
    if answering is not None:
        pair = started(member, "T1w")  # its start counts into its time
        ways["learned from our start"] = lambda fixed, moving: _learned(answering, pair, fixed)
    return ways


def _opened(path: Path) -> Answering:
    run = RunFolder.open(path)
    return Answering(run, run.last_stage(None))


def _velocity(parts: list[Image]) -> Tensor:
    return along_axes(torch.cat([p.data for p in parts]).float(), parts[0].affine)[None]


def _climbed(fixed: Image, moving: Image) -> Tensor:
    one, other = (i.data[None].float() / float(i.data.max()) for i in (fixed, moving))
    return exponential(registered(one, other, fixed.spacing_mm), fixed.spacing_mm)


def _learned(answering: Answering, member: Member, fixed: Image) -> Tensor:
    (drawn,) = answering.draws(member, 1, lambda _: None)
    return exponential(_velocity([drawn[name] for name in MOTION]), fixed.spacing_mm)


def _demons(fixed: Image, moving: Image, steps: int = 100) -> Tensor:
    import SimpleITK

    solver = SimpleITK.DiffeomorphicDemonsRegistrationFilter()
    solver.SetNumberOfIterations(steps)
    solver.SetStandardDeviations(1.0)
    return _field(solver.Execute(_itk(fixed), _itk(moving)))


def _splines(fixed: Image, moving: Image) -> Tensor:
    import SimpleITK

    one, other = _itk(fixed), _itk(moving)
    mesh = [max(2, round(n * s / 30)) for n, s in zip(one.GetSize(), one.GetSpacing(), strict=True)]
    start = SimpleITK.BSplineTransformInitializer(one, mesh)
    solver = SimpleITK.ImageRegistrationMethod()
    solver.SetMetricAsMattesMutualInformation(50)
    solver.SetMetricSamplingStrategy(solver.RANDOM)
    solver.SetMetricSamplingPercentage(0.3, 1)
    solver.SetOptimizerAsLBFGSB(numberOfIterations=60)
    solver.SetInterpolator(SimpleITK.sitkLinear)
    solver.SetShrinkFactorsPerLevel([2, 1])
    solver.SetSmoothingSigmasPerLevel([1, 0])
    solver.SetInitialTransform(start, True)
    solver.Execute(one, other)
    return _field(SimpleITK.TransformToDisplacementField(start, SimpleITK.sitkVectorFloat64, one.GetSize(), one.GetOrigin(),
                                                    one.GetSpacing(), one.GetDirection()))  # fmt: skip


def _itk(image: Image) -> Any:
    """The array with its spacing, at the origin: fields come back along its axes."""
    import SimpleITK

    found = SimpleITK.GetImageFromArray((image.data[0] / image.data.max()).numpy().astype(np.float32))
    found.SetSpacing([float(s) for s in image.spacing_mm[::-1]])
    return found


def _field(vectors: Any) -> Tensor:
    import SimpleITK

    array = SimpleITK.GetArrayFromImage(vectors).astype(np.float32)  # (z, y, x, 3), x first
    return torch.from_numpy(np.ascontiguousarray(array[..., ::-1])).movedim(-1, 0)[None]


if __name__ == "__main__":
    main()

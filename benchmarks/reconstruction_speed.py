"""Speed of reconstruction beside sigpy, BART and ASTRA on the same numbers: medians of interleaved rounds in one run.

    python benchmarks/reconstruction_speed.py [--rounds 7]

Peers that are not installed are left out and named: `pip install sigpy`, `apt-get install bart`, `pip install astra-toolbox` (GPL: here alone, never beside what ships).
A slice of 320 x 320 with 8 coils, a quarter of the lines around a middle of 24, noise; a CT slice of 256 x 256 from 60 views. Every solver is given the same coil maps; Fabrica solves for a real
image whose phase is known, peers for a complex one, which is part of the difference in PSNR.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sets import machine

from fabrica.data.acquisition.masks import MASKS
from fabrica.data.acquisition.mr import coil_sensitivities
from fabrica.data.virtual import VirtualCohort
from fabrica.physics import CartesianSense, Gaussian, LineIntegrals
from fabrica.physics.classical import conjugate_gradients, largest_eigenvalue
from fabrica.physics.consistency import Data
from fabrica.physics.geometry import ParallelGeometry
from fabrica.physics.projector import filtered, projector
from fabrica.physics.variation import descended
from fabrica.physics.wavelets import shrunk
from fabrica.rng import Rng

RESULTS = Path(__file__).parent / "results"
SIDE, COILS, NOISE, ITERATIONS = 320, 8, 0.02, 30
WEIGHTS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of wavelets and edges, each solver its best
Timed = dict[str, Callable[[], Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    found = {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "parts": {**mr(rounds), **ct(rounds)},
        "missing": missing(),
    }
    (RESULTS / "reconstruction_speed.json").write_text(json.dumps(found, indent=1))
    (RESULTS / "reconstruction_speed.md").write_text(page(found))


def missing() -> list[str]:
    names = [
        n for n, module in {"sigpy": "sigpy", "ASTRA": "astra"}.items() if importlib.util.find_spec(module) is None
    ]
    return [*names, *([] if shutil.which("bart") else ["BART"])]


def interleaved(calls: Timed, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds by name: median and lowest of rounds that take turns."""
    seen: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seen[name].append(1000 * (time.perf_counter() - began))
    return {name: {"median": statistics.median(times), "lowest": min(times)} for name, times in seen.items()}


def head() -> torch.Tensor:
    """(1, 1, SIDE, SIDE): a simulated head on a grid as fine."""
    (member,) = VirtualCohort(1, seed=0, spacing_mm=1, skull=True, planes=(86, 87), first=400).cohort().members
    plane = member.load(["T1w"]).images["T1w"].data[0, :1]
    plane = plane / torch.quantile(plane, 0.995)
    return torch.nn.functional.interpolate(plane[None], (SIDE, SIDE), mode="bicubic").clamp(min=0)


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    return float(10 * np.log10(truth.max() ** 2 / np.mean((np.abs(x) - truth) ** 2)))


def mr(rounds: int) -> dict[str, Any]:
    image = head()
    maps = coil_sensitivities(COILS, (SIDE, SIDE), Rng([1]))[None]
    mask = MASKS["lines"]((SIDE, SIDE), 4.0, 24, Rng([2]))[None, None]
    operator, noise = CartesianSense(maps, mask, torch.ones(1, 1, SIDE, SIDE) + 0j), Gaussian(NOISE)
    y = noise.draw(operator(image), Rng([3])) * mask
    truth, size = image[0, 0].numpy(), largest_eigenvalue(operator.normal, image)
    damping = 1e-2 * size
    pull = operator.adjoint(y)
    data = Data(operator, torch.ones(1), pull)

    def least_squares() -> torch.Tensor:
        return conjugate_gradients(lambda x: operator.normal(x) + damping * x, pull, iterations=ITERATIONS)

    def wavelets(weight: float) -> torch.Tensor:
        x = torch.zeros_like(pull)
        for _ in range(2):  # 25 steps each
            x = shrunk(data, weight * pull.abs().amax(), 1 / size, x)
        return x

    def edges(weight: float) -> torch.Tensor:
        start = torch.zeros_like(pull), torch.zeros(1, 2, 1, SIDE, SIDE)
        return descended(
            operator.normal, pull, weight * pull.abs().amax() * torch.ones(1, 1, 1, 1), size, start, iterations=100
        )[0]

    normal: Timed = {"Fabrica": partial(operator.normal, image)}
    cg: Timed = {"Fabrica": least_squares}
    sparse: Timed = {"Fabrica, L1-wavelet": partial(best, wavelets, truth), "Fabrica, TV": partial(best, edges, truth)}
    if importlib.util.find_spec("sigpy"):
        import sigpy.mri as mri
        from sigpy.mri import app

        mps, ksp, weights = maps[0].numpy(), y[0].numpy(), mask[0, 0].numpy().astype(np.float32)
        sense = mri.linop.Sense(mps, weights=weights)
        complex_image = image[0, 0].numpy().astype(np.complex64)
        square = sense.H * sense
        normal["sigpy"] = lambda: square(complex_image)
        lamda = float(damping)
        cg["sigpy"] = lambda: app.SenseRecon(
            ksp, mps, lamda=lamda, weights=weights, max_iter=ITERATIONS, show_pbar=False
        ).run()
        sparse["sigpy, L1-wavelet"] = lambda: best(
            lambda w: app.L1WaveletRecon(
                ksp, mps, w * float(pull.abs().amax()), weights=weights, max_iter=50, show_pbar=False
            ).run(),
            truth,
        )
    if shutil.which("bart"):
        folder = Path(tempfile.mkdtemp())
        write_cfl(folder / "ksp", y[0].permute(2, 1, 0).numpy()[:, :, None])
        write_cfl(folder / "maps", maps[0].permute(2, 1, 0).numpy()[:, :, None])
        cg["BART"] = partial(bart, folder, f"-S -l2 -r {float(damping):g} -i {ITERATIONS}")
        sparse["BART, L1-wavelet"] = lambda: best(lambda w: bart(folder, f"-S -R W:3:0:{w:g} -i 50"), truth)
        sparse["BART, TV"] = lambda: best(lambda w: bart(folder, f"-S -R T:3:0:{w:g} -i 50"), truth)
    return {
        "MR: A^H A of 8 coils": {"ms": interleaved(normal, 5 * rounds)},
        "MR: CG-SENSE, 30 iterations": {"ms": interleaved(cg, rounds), "psnr": {n: psnr(plain(c()), truth) for n, c in cg.items()}},
        "MR: one weight of five, the best": shared(sparse, truth),
    }  # fmt: skip


def best(solve: Callable[[float], Any], truth: np.ndarray) -> tuple[float, float]:
    """(PSNR, milliseconds) of the weight that is best for this solver."""
    found = []
    for weight in WEIGHTS:
        began = time.perf_counter()
        answer = plain(solve(weight))
        found.append((psnr(answer, truth), 1000 * (time.perf_counter() - began)))
    return max(found)


def shared(calls: Timed, truth: np.ndarray) -> dict[str, Any]:
    told = {name: call() for name, call in calls.items()}
    return {
        "ms": {n: {"median": ms, "lowest": ms} for n, (_, ms) in told.items()},
        "psnr": {n: value for n, (value, _) in told.items()},
    }


def plain(x: Any) -> np.ndarray:
    return np.asarray(x[0, 0] if isinstance(x, torch.Tensor) else x)


def bart(folder: Path, told: str) -> np.ndarray:
    """Its program, start and files included (some 10 ms)."""
    line = ["bart", "pics", *told.split(), str(folder / "ksp"), str(folder / "maps"), str(folder / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(line, check=True, capture_output=True, env=environment)
    sides = [int(n) for n in (folder / "out.hdr").read_text().split("\n")[1].split()]
    values = np.fromfile(folder / "out.cfl", np.complex64).reshape(sides[::-1])
    return np.asarray(np.abs(values.reshape(SIDE, SIDE)))


def write_cfl(path: Path, values: np.ndarray) -> None:
    """BART's files: x, y, z, coils, the first axis fastest."""
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, values.shape)) + "\n")
    values.astype(np.complex64).ravel(order="F").tofile(path.with_suffix(".cfl"))


def ct(rounds: int) -> dict[str, Any]:
    side, views = 256, 60
    geometry = ParallelGeometry.around((side, side), views)
    x = torch.nn.functional.interpolate(head(), (side, side), mode="bilinear")
    lines, operator = projector(geometry), LineIntegrals(geometry)
    y = operator(x)
    several = x.repeat(16, 1, 1, 1)
    read = lines.forward_matrix.values()
    forward: Timed = {
        "Fabrica, 1 slice": partial(lines.forward, x), "Fabrica, 16 slices": partial(lines.forward, several),
        "the bare matrix read": partial(torch.sum, read),
    }  # fmt: skip
    backward: Timed = {"Fabrica, 1 slice": partial(lines.backward, y)}
    back: Timed = {"Fabrica": partial(filtered, y, geometry)}
    if importlib.util.find_spec("astra"):
        import astra

        volume = astra.create_vol_geom(side, side)
        project = astra.create_proj_geom("parallel", 1.0, geometry.detectors, np.array(geometry.angles))
        linear = astra.create_projector("linear", project, volume)
        plane, sinogram = x[0, 0].numpy(), y[0, 0].numpy()
        forward["ASTRA, 1 slice"] = lambda: astra.data2d.delete(astra.create_sino(plane, linear)[0])
        backward["ASTRA, 1 slice"] = lambda: astra.data2d.delete(astra.create_backprojection(sinogram, linear)[0])
        back["ASTRA"] = partial(astra_fbp, astra, volume, project, linear, sinogram)
    from skimage.transform import iradon

    angles = np.rad2deg(np.array(geometry.angles))
    back["scikit-image"] = lambda: iradon(y[0, 0].numpy().T, theta=angles, output_size=side)
    return {
        "CT: forward": {"ms": interleaved(forward, 3 * rounds)}, "CT: adjoint": {"ms": interleaved(backward, 3 * rounds)},
        "CT: filtered back projection": {"ms": interleaved(back, rounds)},
    }  # fmt: skip


def astra_fbp(astra: Any, volume: Any, project: Any, linear: Any, sinogram: np.ndarray) -> Any:
    data, out = astra.data2d.create("-sino", project, sinogram), astra.data2d.create("-vol", volume)
    plan = astra.astra_dict("FBP")
    plan |= {"ProjectorId": linear, "ProjectionDataId": data, "ReconstructionDataId": out}
    number = astra.algorithm.create(plan)
    astra.algorithm.run(number)
    found = astra.data2d.get(out)
    astra.algorithm.delete(number)
    astra.data2d.delete([data, out])
    return found


def page(found: dict[str, Any]) -> str:
    lines = [
        "# Speed of reconstruction", "", (__doc__ or "").strip(), "", f"{found['machine']}, {found['threads']} threads, `--rounds {found['rounds']}`. Not installed: {', '.join(found['missing']) or 'none'}.", "",
        "| what | by | ms, median (lowest) | times Fabrica's | PSNR (dB) |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for part, told in found["parts"].items():
        names = list(told["ms"])
        own = told["ms"][names[0]]["median"]
        for name in names:
            ms, quality = told["ms"][name], told.get("psnr", {}).get(name)
            lines.append(
                f"| {part} | {name} | {ms['median']:.2f} ({ms['lowest']:.2f}) | {ms['median'] / own:.2f} | {'' if quality is None else f'{quality:.2f}'} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""The photon kernel of `fabrica.physics.dose`, fitted to Monte Carlo of a published spectrum.

    python -m venv ENV; ENV/bin/pip install pyradmc==0.2.1 warp-lang
    ENV/bin/python benchmarks/dose_kernel.py kernel --histories 2e7 --out kernel.npz
    ENV/bin/python benchmarks/dose_kernel.py field --side 40 --histories 2e7 --out field_40.npz
    python benchmarks/dose_kernel.py fit --kernel kernel.npz --out fabrica/physics/kernel_6mv.json
    python benchmarks/dose_kernel.py compare --out FOLDER        # of field_40.npz, field_100.npz and field_200.npz

The spectrum is that of a Varian 6 MV beam in Ali and Rogers (2012), Phys. Med. Biol. 57, 31. A pencil of it enters water and
its dose is scored in rings; fields diverge from a point 100 cm before the surface. They are witnesses, not fitted.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

SPECTRUM = "varian-6mv"
WIDE_CM, DEEP_CM = 62.0, 50.0
DECAYS = tuple(round(float(m), 5) for m in np.geomspace(0.005, 4, 12))  # per mm
FINE = 0.003  # share of a pencil that a ring, and what is within it, may be off
SEED = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("kernel", "field", "fit", "compare"))
    parser.add_argument("--histories", type=float, default=2e7)
    parser.add_argument("--side", type=float, default=100, help="mm of a square field at the surface")
    parser.add_argument("--kernel", type=Path, default=Path("kernel.npz"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    {"kernel": _kernel, "field": _field, "fit": _fit, "compare": _compare}[asked.what](asked)


def _engine():  # type: ignore[no-untyped-def]
    from pyradmc import AnalyticCrossSections, VoxelGrid
    from pyradmc.backends.warp.engine import WarpEngine

    grid = VoxelGrid.uniform_water(shape=(2, 2, 2), spacing=(WIDE_CM / 2, WIDE_CM / 2, DEEP_CM / 2))
    sections = AnalyticCrossSections(geometry_densities=grid.max_density_by_material())
    return grid, WarpEngine(grid=grid, cross_sections=sections, device="cpu")


def _source(before_cm: float, side_cm: float):  # type: ignore[no-untyped-def]
    from pyradmc.geometry.source import SpectralBeamSource
    from pyradmc.geometry.spectrum import ali_rogers_mv

    middle = WIDE_CM / 2
    place, centre = (middle, middle, -before_cm), (middle, middle, 0.0)
    return SpectralBeamSource(ali_rogers_mv(SPECTRUM), place, centre, side_cm, side_cm)


def _kernel(asked: argparse.Namespace) -> None:
    from pyradmc.scoring.cylinder import CylindricalScoringGrid

    depth = np.concatenate([np.arange(0, 3, 0.1), np.arange(3, 10, 0.25), np.arange(10, 40.01, 0.5)])
    near = [0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1, 1.25, 1.5]
    radius = np.array([*near, 2, 2.5, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30])
    _, engine = _engine()
    score = CylindricalScoringGrid.uniform(1.0, (WIDE_CM / 2, WIDE_CM / 2), depth, radius)
    found = engine.run(_source(1e5, 1e-4), int(asked.histories), 10, seed=SEED, scoring_grid=score)
    np.savez(asked.out, dose=found.dose, sigma=found.dose_sigma, depth_cm=depth, radius_cm=radius)


def _field(asked: argparse.Namespace) -> None:
    """Dose along x, 5 mm x 4 mm (x, depth), mean over the inner half of the field across."""
    from pyradmc.scoring.grid import ScoringGrid

    grid, engine = _engine()
    score = ScoringGrid.rebin(
        grid, shape=(124, 1, 100), spacing=(0.5, asked.side / 20, 0.4), origin=(0.0, (WIDE_CM - asked.side / 20) / 2, 0.0)
    )  # fmt: skip
    found = engine.run(_source(100.0, asked.side / 10), int(asked.histories), 10, seed=SEED, scoring_grid=score)
    np.savez(asked.out, dose=np.asarray(found.dose)[:, 0], sigma=np.asarray(found.dose_sigma)[:, 0])


def _fit(asked: argparse.Namespace) -> None:
    """Weights of each depth by least squares of what is deposited in and within each ring, in mm; some are negative."""
    kept = np.load(asked.kernel)
    radius, depth = 10 * kept["radius_cm"], 10 * (kept["depth_cm"][1:] + kept["depth_cm"][:-1]) / 2
    in_ring = kept["dose"] * np.pi * np.diff(radius**2)  # per depth and ring, for unit fluence of the pencil
    whole = in_ring.sum(1, keepdims=True)
    design = np.exp(-np.outer(radius[:-1], DECAYS)) - np.exp(-np.outer(radius[1:], DECAYS))
    rows = np.concatenate([design / FINE, np.cumsum(design, 0) / FINE, 0.3 * np.eye(len(DECAYS))])
    share = in_ring / whole
    right = np.concatenate([share / FINE, np.cumsum(share, 1) / FINE, np.zeros((len(depth), len(DECAYS)))], 1)
    weights = np.linalg.lstsq(rows, right.T, rcond=None)[0].T * whole
    kept_depths = slice(None, None, 2)  # between which straight lines are within a tenth of a percent
    off = np.abs(np.cumsum(weights @ design.T - in_ring, 1)) / whole
    plain = {
        "source": f"pyradmc 0.2.1, spectrum {SPECTRUM} of Ali and Rogers (2012), water, {asked.histories:g} histories",
        "depths_mm": np.round(depth[kept_depths], 3).tolist(), "decays_per_mm": list(DECAYS),
        "weights": np.round((weights / whole.max())[kept_depths], 6).tolist(),
    }  # fmt: skip
    asked.out.write_text(json.dumps(plain) + "\n")
    print(f"{len(depth)} depths; what lies within a radius is off by at most {off[depth > 15].max():.2%} beyond 15 mm")


def _compare(asked: argparse.Namespace) -> None:
    """The engine and Monte Carlo in the inner half of each field, relative to 100 mm; then the engine's depth doses."""
    import torch

    from fabrica.physics.dose import Beam, dose, rectangle

    affine = torch.tensor([[0, 0, 5.0, -250], [0, 4.0, 0, 2], [5.0, 0, 0, -250], [0, 0, 0, 1]], dtype=torch.float64)
    water, depth, x = torch.ones(101, 90, 101), 2 + 4.0 * np.arange(90), np.arange(101) * 5.0 - 250
    for side in (40.0, 100.0, 200.0):
        kept = np.load(asked.out / f"field_{side:g}.npz")
        deep, wide = np.arange(100) * 4 + 2, (np.arange(124) + 0.5) * 5 - 310
        given = dose(water, affine, [Beam(0.0, (0.0, 0.0, 0.0), rectangle(side, side))]).numpy()
        ours = given[np.abs(x) <= side / 4].mean(0)[:, np.abs(x) <= side / 4].mean(1)
        theirs = kept["dose"][np.abs(wide) <= side / 4].mean(0)
        near = [(np.abs(depth - d) <= 10, np.abs(deep - d) <= 10) for d in (100, 20, 50, 150, 200, 300)]
        one, other = ([float(a[m[k]].mean()) for m in near] for k, a in enumerate((ours, theirs)))
        told = [f"{d} mm: {a / one[0]:.3f} / {b / other[0]:.3f}"
                for d, a, b in zip((20, 50, 150, 200, 300), one[1:], other[1:], strict=True)]  # fmt: skip
        print(f"| {side / 10:g} x {side / 10:g} cm | {', '.join(told)} |")
        if side == 100:
            axis = given[50, :, 50] / given[50, :, 50].max()
            shares = ", ".join(f"{100 * np.interp(d, depth, axis):.1f} % at {d / 10:g} cm" for d in (50, 100, 200))
    print(f"10 x 10 cm: {shares}")


if __name__ == "__main__":
    main()

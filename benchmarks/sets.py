"""What the benchmarks of families share: distances of sets of pictures as multiples of their null, and sheets of pictures."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow

from fabrica.evaluate.sets.embedding import Picture, by_radiomics, by_thumbnail
from fabrica.evaluate.sets.feature import frechet_distance, kernel_distance, precision_recall


def _asked() -> str:
    """What is typed after --device of whichever benchmark runs."""
    parser = argparse.ArgumentParser(add_help=False)
    add_device(parser)
    return str(parser.parse_known_args()[0].device)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda"], help="what a card gives is written to results/cuda"
    )


Array = NDArray[np.float64]
DEVICE = _asked()
RESULTS = Path(__file__).parent / "results" / ("cuda" if DEVICE == "cuda" else "")
RESULTS.mkdir(exist_ok=True)
Embed = Callable[[NDArray[Any]], Array]
DIMENSIONS, NULLS, LARGEST = 32, 20, 8.0
BIN = 8.0  # grey values of 8 bits for texture


class Sets:
    """Held-out real pictures, and what draws are compared with them by.

    Every pair of sets is reduced to 32 dimensions by the principal axes of the two pooled, so that what only the draws show
    counts too. The null of a distance: as many real training pictures as there are draws, in the draws' place.
    """

    def __init__(self, train: NDArray[Any], held: NDArray[Any], spaces: Mapping[str, Embed | None], draws: int) -> None:
        own: dict[str, Embed] = {"texture": texture, "16 x 16 pixels": thumbnails}
        self.spaces = {name: how or own[name] for name, how in spaces.items()}
        self.held = {name: how(held) for name, how in self.spaces.items()}
        self.train = {name: how(train) for name, how in self.spaces.items()}
        self.null: dict[str, dict[str, float]] = {}
        rng = np.random.default_rng(0)
        for name, known in self.train.items():
            pairs = [reduced(known[rng.permutation(len(known))[:draws]], self.held[name]) for _ in range(NULLS)]
            distances = [frechet_distance(x, y) for x, y in pairs]
            kernels = [float(kernel_distance(x, y)) for x, y in pairs]
            self.null[name] = {
                "frechet": float(np.mean(distances)),
                "largest": max(distances),
                "kernel_sd": float(np.std(kernels)),
            }

    def measure(self, images: NDArray[Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, how in self.spaces.items():
            features = how(images)
            x, y = reduced(features, self.held[name])
            distance, pair = float(frechet_distance(x, y)), precision_recall(x, y)
            found[name] = {
                "frechet": distance, "multiple": distance / self.null[name]["frechet"], "kernel": float(kernel_distance(x, y)),
                "precision": float(pair), "recall": pair.details["recall"], "copies": copies(features, self.held[name], self.train[name]),
            }  # fmt: skip
        return found


def reduced(x: Array, y: Array) -> tuple[Array, Array]:
    """Both on the principal axes of both, standardised where features have no common unit (more spread than 100 to 1)."""
    pooled = np.concatenate([x, y])
    middle, spread = pooled.mean(0), pooled.std(0)
    known = spread > 1e-9
    scale = spread[known] if spread[known].max() > 100 * spread[known].min() else 1.0
    pooled = (pooled[:, known] - middle[known]) / scale
    _, _, basis = np.linalg.svd(pooled, full_matrices=False)
    placed = (
        np.clip(pooled, -LARGEST, LARGEST) @ basis[:DIMENSIONS].T if np.ndim(scale) else pooled @ basis[:DIMENSIONS].T
    )
    return placed[: len(x)], placed[len(x) :]


def copies(x: Array, held: Array, train: Array) -> float:
    """Share of x nearer to a training picture than all but 1 % of the held-out pictures are."""
    nearest = [
        np.sqrt((v**2).sum(1)[:, None] + (train**2).sum(1)[None] - 2 * v @ train.T + 1e-9).min(1) for v in (x, held)
    ]
    return float((nearest[0] < np.quantile(nearest[1], 0.01)).mean())


def texture(images: NDArray[Any]) -> Array:
    """IBSI texture and first-order features of the whole picture."""
    return np.stack([by_radiomics(picture(x), BIN) for x in images])


def thumbnails(images: NDArray[Any]) -> Array:
    return np.stack([by_thumbnail(picture(x), BIN) for x in images])


def picture(values: NDArray[Any]) -> Picture:
    plane = np.asarray(values, np.float64).clip(0, 255)
    return Picture("", "", plane, np.ones(plane.shape, bool), (1.0, 1.0))


def sheet(images: NDArray[Any], columns: int) -> Pillow.Image:
    """Pictures side by side, 0 to 255."""
    rows = -(-len(images) // columns)
    side = images.shape[1:]
    out = np.zeros((rows * side[0], columns * side[1]), np.uint8)
    for k, image in enumerate(images):
        y, x = divmod(k, columns)
        out[y * side[0] : (y + 1) * side[0], x * side[1] : (x + 1) * side[1]] = np.clip(image, 0, 255).astype(np.uint8)
    return Pillow.fromarray(out)


def place(name: str) -> str:
    """A part's folder."""
    return "".join(c if c.isalnum() else "-" for c in name)


def resumed(
    file: Path, work: Path, parts: Mapping[str, Any], only: str, measure: Callable[[str, Any], Any]
) -> dict[str, Any]:
    """What every part reached: what this work folder has measured is not measured again, and takes the place of what was in `file`
    before, where the rest stays; `only`: one part, or all.
    """

    def known(where: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(where.read_text()) if where.exists() else {}
        return found

    done = work / "measured.json"
    work.mkdir(parents=True, exist_ok=True)
    for name, plan in parts.items():
        if only in ("", name) and name not in known(done):
            measured = measure(name, plan)
            for where in (done, file):  # read again: others may have written meanwhile
                where.write_text(json.dumps(known(where) | {name: measured}, indent=1))
            print(name, measured, flush=True)
    return known(file)


def machine() -> str:
    names = [x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return f"{names[0] if names else platform.machine()}, torch {torch.__version__}"

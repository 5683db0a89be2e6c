"""Faces taken out of real heads: how far the skin of the face moves, and what is lost of the inside of the skull.

    python benchmarks/faces.py --data ../shared/data/radiotherapy/openkbp [--pictures runs/faces]

CTs of head and neck (OpenKBP, about 4 mm, most of them cut at the forehead; the skin of those that were cropped to the dose is no skin: they
are refused or left out by hand). Front views before and after are written as pictures.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from fabrica.deliver.deidentification.faces import Face, NoHeadError, face_of

SKIN_HU, BONE_HU = -300, 150
MOVED_MM = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=Path, default=Path("runs/faces"))
    options = parser.parse_args()
    options.pictures.mkdir(parents=True, exist_ok=True)
    moved, lost, seconds, refused = [], [], [], 0
    for path in sorted((options.data / "valid").glob("*.npz")) + sorted((options.data / "train").glob("*.npz")):
        volume, affine = read(path)
        if not whole(volume):
            continue
        began = time.perf_counter()
        try:
            face = face_of(volume, affine, hounsfield=True)
        except NoHeadError as error:
            refused += 1
            print(json.dumps({"patient": path.stem, "refused": str(error)}), flush=True)
            continue
        seconds.append(time.perf_counter() - began)
        told = judged(volume, affine, face, options.pictures / f"{path.stem}.png")
        moved.append(told["moved"])
        lost.append(told["inside of the skull lost"])
        print(json.dumps({"patient": path.stem, **told}), flush=True)
    print(json.dumps({
        "heads": len(moved), "refused": refused, "skin of the face moved by 5 mm, median": round(float(np.median(moved)), 3),
        "least": round(min(moved), 3), "inside of the skull lost, most": round(max(lost), 5), "seconds": round(float(np.median(seconds)), 1),
    }))  # fmt: skip


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(z, y, x) in HU, up, to the back, to the left; its affine to LPS mm."""
    with np.load(path) as stored:
        volume = stored["ct"].astype(np.float32).transpose(2, 0, 1)[::-1] - 1024
        steps = stored["voxel_mm"]
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = steps[2], steps[0], steps[1], 1
    return volume, affine


def whole(volume: np.ndarray) -> bool:
    """Whether shoulders are seen: scans that were cropped to where dose may be have a skin that nobody has."""
    widths = [np.ptp(np.flatnonzero((plane > SKIN_HU).any(0))) if (plane > SKIN_HU).any() else 0 for plane in volume]
    return max(widths) > 70  # of 128


def judged(volume: np.ndarray, affine: np.ndarray, face: Face, picture: Path) -> dict[str, float]:
    index = np.indices(volume.shape)
    places = np.moveaxis(np.tensordot(affine[:3, :3], index, 1), 0, -1) + affine[:3, 3]
    removed = face.holds(places)
    before = volume > SKIN_HU
    after = before & ~removed
    front = [np.where(body.any(1), body.argmax(1), volume.shape[1]) * affine[1, 1] for body in (before, after)]
    levels, columns = np.flatnonzero(removed.any((1, 2))), np.flatnonzero(before[removed.any((1, 2))].any((0, 1)))
    middle, high = (columns[0] + columns[-1]) / 2, levels[-1]
    rows = slice(int(high - 130 / affine[2, 0]), int(high - 30 / affine[2, 0]))  # eyes to mouth
    reach = int(40 / affine[0, 2])
    window = (rows, slice(int(middle) - reach, int(middle) + reach))
    there = front[0][window] < volume.shape[1] * affine[1, 1]
    shift = (front[1] - front[0])[window][there]
    cavity = inside_of_skull(volume, affine)
    views = [shaded(f, affine) for f in front]
    Image.fromarray(np.concatenate(views, 1)).save(picture)
    return {
        "moved": round(float((shift >= MOVED_MM).mean()), 3),
        "inside of the skull lost": round(float((removed & cavity).sum() / max(1, cavity.sum())), 5),
        "its cm3": round(float(cavity.sum() * abs(np.linalg.det(affine[:3, :3])) / 1000)),
    }


def inside_of_skull(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """What bone closes around in its plane, without bone, air and what is narrow."""
    steps = np.abs(affine[:3, :3]).sum(0)
    bone = ndimage.binary_closing(volume > BONE_HU, structure=np.ones((1, 3, 3)), iterations=2)
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in bone]) & ~bone & (volume > -100)
    large = filled.sum((1, 2)) * steps[1] * steps[2] > 6000
    narrow = ndimage.binary_opening(filled & large[:, None, None], iterations=max(1, round(8 / steps.mean())))
    labels, count = ndimage.label(narrow)
    if not count:
        return np.zeros_like(bone)
    found: np.ndarray = labels == 1 + int(np.argmax(ndimage.sum_labels(narrow, labels, range(1, count + 1))))
    return found


def shaded(front: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A front view lit from the viewer, upright, as grey levels."""
    down, along = np.gradient(front, affine[2, 0], affine[0, 2])
    light = (1 + 0.5 * along) / np.sqrt(1 + down**2 + along**2)
    picture = (255 * np.clip(light / 1.4, 0, 1)).astype(np.uint8)[::-1]
    return np.repeat(np.repeat(picture, 4, 0), 4, 1)


if __name__ == "__main__":
    main()

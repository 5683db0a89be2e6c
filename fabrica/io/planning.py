"""Treatment plans of the OpenKBP challenge (Babier et al. 2021): packed npz, or a folder of sparse CSV a patient.

Array index (i, j, k) runs back, across and along the patient; which way along, and which side is left, no file states.
Images keep that order when they are written as NIfTI: array[i, j, k].
"""

from __future__ import annotations

import csv
import math
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..contracts import Field, Image
from .scan import Affine, Oddity, Scan, UnreadableError

SIDE = 128  # voxels, of every volume of the challenge
PACKED = frozenset({"ct", "structures", "voxel_mm"})  # new patients have no dose
ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
TARGETS = ("PTV56", "PTV63", "PTV70")
STRUCTURES = (*ORGANS, *TARGETS)  # the order of bits in packed files
POSSIBLE = "possible_dose"
VOXELS = "voxel_dimensions.csv"
_CSV = {"ct": "CT", "dose": "dose", "possible_dose_mask": POSSIBLE, **{name: name for name in STRUCTURES}}
AIR, BRIGHTEST = 1024.0, 4095  # stored = HU + 1024; what lies above is metal
UNITS = {"CT": "HU", "dose": "Gy"}
Array = NDArray[np.float32]


def is_plan(path: Path) -> bool:
    """Whether a file is a packed patient, or one CSV of a patient's folder."""
    if path.suffix.lower() == ".csv":
        return path.name != VOXELS and path.stem in _CSV and (path.parent / VOXELS).is_file()
    if path.suffix.lower() != ".npz":
        return False
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {n.removesuffix(".npy") for n in archive.namelist()} >= PACKED
    except (zipfile.BadZipFile, OSError):
        return False


def listing(path: Path) -> tuple[list[Scan], list[Oddity]]:
    """CT, dose, mask of possible dose and each structure that is drawn; metal is said, empty ones are left out."""
    if path.suffix.lower() == ".csv":
        name = _CSV[path.stem]
        return [_scan(path, name, "", _voxel_mm(path.parent))], _metal(
            path, _csv_values(path, mask=False)
        ) if name == "CT" else []
    plan = _packed(path, path.stat().st_mtime_ns)
    found = [_scan(path, name, name, plan["voxel_mm"]) for name in plan if name != "voxel_mm"]
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return found, _metal(path, archive["ct"].astype(np.float32))


def _scan(path: Path, name: str, member: str, voxel_mm: NDArray[Any]) -> Scan:
    label = name in STRUCTURES or name == POSSIBLE
    return Scan(
        (path,), "planning", (1, SIDE, SIDE, SIDE), "zyx", _affine(voxel_mm), unit="" if label else UNITS[name],
        unit_from="the challenge's definition", kind="label" if label else "intensity", modality=name, member=member,
        recipe=name,
    )  # fmt: skip


def _affine(voxel_mm: NDArray[Any]) -> Affine:
    """Index (k, j, i) -> LPS: i runs back, j across, k along."""
    i, j, k = (float(v) for v in voxel_mm)
    affine = np.zeros((4, 4))
    affine[0, 1], affine[1, 2], affine[2, 0], affine[3, 3] = j, i, k, 1.0
    return affine


def _metal(path: Path, stored: Array) -> list[Oddity]:
    count = int((stored > BRIGHTEST).sum())
    if not count:
        return []
    text = f"has {count} voxels of metal above {BRIGHTEST - AIR:.0f} HU (up to {float(stored.max()) - AIR:.0f})."
    return [Oddity(str(path), text, f"They are read as {BRIGHTEST - AIR:.0f} HU.", "warning")]


def read(scan: Scan) -> Image:
    """(1, k, j, i) in HU, Gy, or 0 and 1. Raises UnreadableError for damaged files."""
    path, name = scan.files[0], str(scan.recipe)
    if path.suffix.lower() == ".csv":
        stored = _csv_values(path, mask=scan.kind == "label")
        if name == "CT":
            stored = np.minimum(stored, BRIGHTEST) - np.float32(AIR)
    else:
        stored = _packed(path, path.stat().st_mtime_ns)[name]
    data = torch.from_numpy(np.ascontiguousarray(stored.transpose(2, 1, 0)))[None]
    field = Field(name, scan.kind, 1, scan.unit)
    return Image(data, "zyx", torch.from_numpy(scan.affine), field, source=scan.name)


@lru_cache(maxsize=2)  # a patient's images are read one after the other
def _packed(path: Path, changed: int) -> dict[str, Array]:
    """Name -> (i, j, k); structures that are nowhere are left out."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        stored, bits = found["ct"].astype(np.float32), found["structures"]
        plan = {
            "CT": np.minimum(stored, BRIGHTEST) - np.float32(AIR),
            "voxel_mm": found["voxel_mm"].astype(np.float32),
        }
        if "dose_cGy" in found:
            plan["dose"] = found["dose_cGy"].astype(np.float32) / np.float32(100)
        volumes = (stored, bits, plan.get("dose", bits))
        if any(a.shape != (SIDE,) * 3 for a in volumes) or plan["voxel_mm"].shape != (3,):
            raise ValueError("its arrays differ in shape")
        if POSSIBLE in found:
            plan[POSSIBLE] = np.unpackbits(found[POSSIBLE])[: SIDE**3].reshape((SIDE,) * 3).astype(np.float32)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise UnreadableError(f"is no whole plan ({error}).", "Copy it again.") from error
    for bit, name in enumerate(STRUCTURES):
        mask = (bits >> bit & 1).astype(np.float32)
        if mask.any():
            plan[name] = mask
    return plan


def _voxel_mm(folder: Path) -> NDArray[np.float32]:
    try:
        values = [float(line) for line in (folder / VOXELS).read_text().split()]
    except (OSError, ValueError) as error:
        raise UnreadableError(f"its {VOXELS} cannot be read ({error}).", "Copy it again.") from error
    if len(values) != 3 or not all(0.1 < v < 20 for v in values):
        raise UnreadableError(f"its {VOXELS} says {values}, expected three sides in mm.", "Copy it again.")
    return np.array(values, np.float32)


def _csv_values(path: Path, mask: bool) -> Array:
    """(i, j, k): numbers at the indices of a sparse table; 1 in a mask, whose table gives none."""
    values = np.zeros(SIDE**3, np.float32)
    with path.open(newline="") as file:
        rows = csv.reader(file)
        next(rows, None)
        try:
            for row in rows:
                place, value = int(row[0]), 1.0 if mask else float(row[1])
                if place < 0 or not math.isfinite(value):
                    raise ValueError(f"{row[0]}: {value}")
                values[place] = value
        except (ValueError, IndexError) as error:
            raise UnreadableError(f"is no sparse volume of {SIDE}^3 voxels ({error}).", "Copy it again.") from error
    return values.reshape((SIDE,) * 3)

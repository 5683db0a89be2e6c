"""The MNI ICBM 152 maps (Fonov 2009, 2011) that the nilearn package carries, and what is derived from them once."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from .fields import points

ORIGIN = (-98.0, -134.0, -72.0)  # RAS mm of the first voxel
HASHES = {  # of the voxels: a release that changes the maps changes every simulated patient, and must be noticed
    "t1": "a42242e3dc051f80e18cf23eb12618a6f09ff951defa2d1e9687d8dcb8810bbf",
    "gm": "31aecb7be828c1bfb9ff518f94fe76c463e4ec834ac96c2de3449ec2122711f5",
    "wm": "b0a50397bf25b0f407ca29e2cfefa2f49f094d06bc0aa2722f2f0b72fcd9b645",
}
LOWER_EDGE = 30  # voxels of 2 mm added below: the brain stem is cut there
Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Template:
    """Tissue maps at 1 mm (gm, wm) and smooth maps at 2 mm."""

    maps: Tensor  # (2, x, y, z) grey, white, 0..1
    smooth: Tensor  # (10, x, y, z): depth, outer, ventricle, cerebellum, stem, skull, normal x3, t1
    away: Tensor  # (3, x, y, z): out of the ventricles, fading


def read_map(kind: str) -> NDArray[np.uint8]:
    """t1, gm or wm as stored, 0..255, (197, 233, 189)."""
    spec = importlib.util.find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise RuntimeError("nilearn is not installed; it carries the brain template. Type: pip install nilearn")
    folder = Path(spec.origin).parent / "datasets" / "data"
    image: Any = nibabel.load(folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz")
    array: NDArray[np.uint8] = np.asarray(image.dataobj, dtype=np.uint8)
    return array


def digest(kind: str) -> str:
    """SHA-256 of the voxels of one map."""
    return hashlib.sha256(read_map(kind).tobytes()).hexdigest()


@functools.lru_cache(maxsize=1)
def template() -> Template:
    """Read and prepared once per process, about 1.5 s."""
    t1, gm, wm = read_map("t1"), read_map("gm") / np.float32(255), read_map("wm") / np.float32(255)
    t1_half, g, w = t1[::2, ::2, ::2], gm[::2, ::2, ::2], wm[::2, ::2, ::2]
    head = ndimage.binary_closing(t1_half > 0, iterations=2)
    x, y, z = np.moveaxis(points(g.shape, ORIGIN, 2.0).numpy(), -1, 0)
    csf = head & (1 - g - w > 0.55)
    deep = _inside_mm(head) > 22
    ventricle = csf & deep & (np.abs(x) < 45) & (y > -62) & (y < 42) & (z > -22) & (z < 36)
    roof = np.where(np.abs(y + 2) < 42, 31 - 30 * ((y + 2) / 42) ** 2, -5)  # of the corpus callosum
    fissure = head & (np.abs(x) <= 1) & (z > roof) & (w < 0.5)
    depth = _signed_mm(head & ~fissure & ~(csf & ~ventricle))
    outer = _signed_mm(head)
    padded = np.pad(np.pad(head, ((0, 0), (0, 0), (LOWER_EDGE, 0)), mode="edge"), 14)
    closed = ndimage.binary_closing(padded, iterations=12)[14:-14, 14:-14, 14 + LOWER_EDGE : -14] | head
    to_ventricle = (ndimage.distance_transform_edt(~ventricle) - ndimage.distance_transform_edt(ventricle)) * 2
    cerebellum = _step((z + 8 + 0.32 * np.abs(x) - 0.12 * (y + 50)) / 1.5) * _step((y + 34 - 0.25 * np.abs(x)) / 1.5)
    stem = _step((np.hypot(x / 19, (y + 24) / 22) - 1) * 8) * _step((z + 2) / 2)
    normal = list(-np.asarray(np.gradient(_smooth(depth, 2.0), 2.0)))
    layers: list[Array] = [_smooth(depth, 0.6), _smooth(outer, 1.2), _smooth(to_ventricle, 0.7), cerebellum, stem,
              _smooth(_signed_mm(closed), 2.5), *normal, t1_half / np.float32(255)]  # fmt: skip
    fading = np.exp(-np.clip(to_ventricle, 0, None) / 14) * _smooth(head, 1)
    away = np.asarray(np.gradient(_smooth(to_ventricle, 1.5), 2.0)) * fading
    arrays = ([gm, wm], layers, away)
    maps, smooth, outward = (torch.from_numpy(np.stack(a).astype(np.float32)) for a in arrays)
    return Template(*(t[None].contiguous(memory_format=torch.channels_last_3d)[0] for t in (maps, smooth, outward)))


def _step(t: Array) -> Array:
    return 1 / (1 + np.exp(np.clip(t, -30, 30)))


def _smooth(a: NDArray[np.generic], sigma: float) -> Array:
    smooth: Array = ndimage.gaussian_filter(a.astype(np.float32), sigma)
    return smooth


def _inside_mm(mask: NDArray[np.bool_]) -> Array:
    padded = np.pad(mask, ((0, 0), (0, 0), (LOWER_EDGE, 0)), mode="edge")
    inside: Array = ndimage.distance_transform_edt(padded)[:, :, LOWER_EDGE:] * 2
    return inside


def _signed_mm(mask: NDArray[np.bool_]) -> Array:
    padded = np.pad(mask, ((0, 0), (0, 0), (LOWER_EDGE, 0)), mode="edge")
    signed = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
    result: Array = signed[:, :, LOWER_EDGE:] * 2
    return result

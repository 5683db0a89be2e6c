"""A mark in drawn images that whoever has the key finds again, and nobody sees (spread spectrum: Cox et al. 1997).

The mark is a pattern of many waves of random phase between two frequencies, counted in waves a side, so that it
survives another number of pixels. It is weaker than noise and lies where the image does; air stays what it was. Whoever
looks for it correlates phases, ring by ring of frequency, over all slices.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats

from ..deliver.files import write_private

Array = NDArray[np.float64]
STRENGTH = 0.0016  # root mean square inside the patient, of the image's bright end
LOWEST, HIGHEST = 6, 160  # waves a side; at most LIMIT of the pixels of the shorter one
LIMIT = 0.38
RING = 2.0  # waves
SMOOTH = 2.0  # pixels: what is coarser is no place for a mark
AROUND = (0.5, 1.5)  # of the usual strength
FALSE_ALARMS = 1e-3
KEY_BYTES = 32


@dataclass(frozen=True)
class Found:
    """How strongly the phases of an image follow a key: a standard normal number where they do not."""

    z: float

    @property
    def chance(self) -> float:
        """Of a value as large in an image without the mark."""
        return float(stats.norm.sf(self.z))

    @property
    def marked(self) -> bool:
        return self.chance < FALSE_ALARMS


def new_key(path: Path) -> None:
    """A key in a file that only its owner may read; raises FileExistsError for one that is there."""
    write_private(path, (secrets.token_hex(KEY_BYTES) + "\n").encode())


def read_key(path: Path) -> bytes:
    """Raises ValueError for a file that is no key."""
    make = f"Make one: fabrica watermark --new-key {path}"
    try:
        key = bytes.fromhex(path.read_text().strip())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no key ({error}). {make}") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"{path} holds {len(key)} bytes, expected {KEY_BYTES}. {make}")
    return key


def marked(volume: Array, key: bytes, strength: float = STRENGTH) -> Array:
    """(z, y, x) or (y, x) with the mark, on the same scale.

    An image that by chance speaks against the key gets a little more, one that speaks for it a little less (informed
    embedding: Malvar and Florencio 2003): all are found about as surely.
    """
    planes = volume if volume.ndim == 3 else volume[None]
    added = _added(planes, key)
    if not added.any():
        return volume
    before, after = (look_for(planes + s * added, key).z for s in (0.0, strength))
    gained = max(after - before, 1e-6)
    share = float(np.clip(1 - before / gained, *AROUND))
    found = planes + share * strength * added
    result: Array = found if volume.ndim == 3 else found[0]
    return result


def _added(planes: Array, key: bytes) -> Array:
    """The mark alone, of root mean square 1 bright end inside the patient: stronger in waves in which the image itself
    is weaker.
    """
    where, top = _inside(planes), _bright(planes)
    if top == 0 or not where.any():
        return np.zeros(planes.shape)
    shape = planes.shape
    k, _, usual = _coefficients(planes, where)
    spectrum = np.zeros(shape, np.complex128)
    spectrum[tuple((k % shape).T)] = np.exp(1j * (_phases(key, k) + _half_pixel(k, shape))) / usual
    added = where * np.fft.ifftn(spectrum).real
    scale = top / max(float(np.sqrt((added[where > 0] ** 2).mean())), 1e-30)
    return np.asarray(added * scale)


def look_for(volume: Array, key: bytes) -> Found:
    """Phases of the image against those of the key; z is normal over keys, whatever the image."""
    planes = volume if volume.ndim == 3 else volume[None]
    where = _inside(planes)
    if not where.any():
        return Found(0.0)
    k, values, usual = _coefficients(planes, where)
    weighed = values / usual**2  # what a mark as strong as 1 / usual is best told by
    power = float((np.abs(weighed) ** 2).sum()) / 2
    return Found(float((weighed * np.exp(-1j * _phases(key, k))).real.sum()) / math.sqrt(power) if power > 0 else 0.0)


def _inside(planes: Array) -> Array:
    """1 in the patient, falling to 0 at the rim: noise in air would be seen."""
    mask = np.stack([ndimage.binary_fill_holes(plane) for plane in planes > planes.mean()]).astype(np.float64)
    return np.asarray(mask * ndimage.gaussian_filter(mask, (0, 1.5, 1.5)))


def _bright(planes: Array) -> float:
    values = planes[planes > planes.mean()]
    return float(np.percentile(values, 99.5) - np.percentile(planes, 1)) if len(values) else 0.0


def _waves(shape: Sequence[int]) -> NDArray[np.int_]:
    """(n, 3) numbers of waves along z, y and x, one of every pair that is each other's mirror, in the band that so
    many voxels hold.
    """
    most = min(HIGHEST, int(LIMIT * min(shape[1:])))
    deep = min(HIGHEST, int(LIMIT * shape[0]))
    axes = (np.arange(-deep, deep + 1), np.arange(-most, most + 1), np.arange(0, most + 1))
    k = np.stack([grid.ravel() for grid in np.meshgrid(*axes, indexing="ij")], 1)
    far = np.hypot(k[:, 1], k[:, 2])
    half = (k[:, 2] > 0) | (k[:, 1] > 0)
    found: NDArray[np.int_] = k[(far >= LOWEST) & (far <= most) & half]
    return found


def _phases(key: bytes, k: NDArray[np.int_]) -> Array:
    """In radians, of these numbers of waves: of the key alone, whatever the size of an image (splitmix64)."""
    seed = np.uint64(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
    z, y, x = ((k[:, i] + HIGHEST).astype(np.uint64) for i in range(3))
    side = np.uint64(2 * HIGHEST + 1)
    mixed = ((z * side + y) * side + x + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return np.asarray(mixed.astype(np.float64) * (2 * math.pi / 2.0**64))


def _coefficients(planes: Array, where: Array) -> tuple[NDArray[np.int_], NDArray[np.complex128], Array]:
    """Waves of the band, their complex weights in the patient without coarse brightness, and how large those of about
    this frequency usually are.
    """
    shape = planes.shape
    k = _waves(shape)
    fine = (planes - ndimage.gaussian_filter(planes, (0, SMOOTH, SMOOTH))) * where
    values = np.fft.fftn(fine)[tuple((k % shape).T)]
    ring = (np.hypot(k[:, 1], k[:, 2]) / RING).astype(int) * (HIGHEST + 1) + np.abs(k[:, 0])
    mean = np.bincount(ring, np.abs(values) ** 2) / np.maximum(np.bincount(ring), 1)
    usual = np.sqrt(mean[ring])
    return k, values * np.exp(-1j * _half_pixel(k, shape)), usual + 1e-6 * float(usual.max()) + 1e-30


def _half_pixel(k: NDArray[np.int_], shape: Sequence[int]) -> Array:
    """Phases are counted from the image's edge, not from the middle of its first pixel: pixels may change in size."""
    return np.asarray(math.pi * (k / np.asarray(shape)).sum(1))

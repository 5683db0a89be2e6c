"""Tissues and what scanners make of them: relaxation, density, HU, SUV, pulse sequences. Times in ms.

Values lie inside the published ranges (grey and white matter: Stanisz 2005, Wansapura 1999, Rooney 2007; proton
density, fat and muscle: BrainWeb, Kwan 1999; water content: Whittall 1997; HU and SUV: textbook ranges). They are one
consistent choice made to look like modern scans, not a copy of one table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Tissue:
    """Relaxation at 1.5 T and 3 T, proton density relative to CSF, CT number, FDG uptake."""

    t1_15t_ms: float
    t2_15t_ms: float
    t1_3t_ms: float
    t2_3t_ms: float
    density: float
    hu: float
    suv: float


TISSUES: dict[str, Tissue] = {
    "csf": Tissue(4000, 1500, 4300, 1500, 1.00, 8, 0.6),
    "gm": Tissue(1120, 92, 1445, 80, 0.82, 37, 7.6),
    "wm": Tissue(640, 78, 850, 70, 0.71, 28, 2.6),
    "fat": Tissue(290, 70, 370, 68, 0.90, -90, 0.3),
    "muscle": Tissue(1010, 42, 1300, 36, 0.80, 50, 0.9),
    "bone": Tissue(250, 0.5, 250, 0.4, 0.15, 1150, 0.3),
    "marrow": Tissue(400, 55, 480, 50, 0.55, 420, 0.9),
    "vessel": Tissue(1440, 5, 1900, 5, 0.10, 45, 1.6),
    "ms": Tissue(1150, 165, 1420, 150, 0.86, 24, 2.0),
    "oedema": Tissue(1250, 170, 1550, 155, 0.88, 19, 2.2),
    "enhancing": Tissue(1300, 130, 1600, 115, 0.86, 38, 8.0),
    "necrosis": Tissue(2300, 420, 2700, 380, 0.95, 12, 0.8),
    "infarct": Tissue(1200, 140, 1500, 128, 0.87, 20, 1.0),
}
NAMES = tuple(TISSUES)
INDEX = {name: i for i, name in enumerate(NAMES)}


@dataclass(frozen=True, slots=True)
class PulseSequence:
    """A spin-echo family sequence; inversion 0 means none, then the magnitude of the signal is taken."""

    repetition_ms: float
    echo_ms: float
    inversion_ms: float = 0.0
    train_ms: float = 0.0  # duration of the echo train: shortens the recovery
    slice_mm: float = 1.0
    saturation: float = 0.0  # of white matter's signal, by magnetisation transfer (Melki and Mulkern 1992)


@dataclass(frozen=True, slots=True)
class Scanner:
    """A field strength with its protocol and imperfections."""

    name: str
    field_t: float
    noise: float  # standard deviation relative to white matter
    bias: float  # amplitude of the receive field
    blur_mm: float
    sequences: Mapping[str, PulseSequence] = field(default_factory=dict)


SCANNERS: dict[str, Scanner] = {
    "A": Scanner("A", 3.0, 0.030, 0.18, 0.38, {
        "T1w": PulseSequence(2300, 10, 1250), "T2w": PulseSequence(6000, 100, slice_mm=2.0),
        "PDw": PulseSequence(4500, 18, slice_mm=2.0), "FLAIR": PulseSequence(8500, 115, 2450, 250, saturation=0.12)}),
    "B": Scanner("B", 1.5, 0.045, 0.10, 0.50, {
        "T1w": PulseSequence(2000, 12, 1050), "T2w": PulseSequence(4500, 95, slice_mm=3.0),
        "PDw": PulseSequence(3200, 15, slice_mm=3.0), "FLAIR": PulseSequence(8000, 110, 2250, 250, 3.0, 0.12)}),
}  # fmt: skip
MR = ("T1w", "T2w", "PDw", "FLAIR")


def signal(
    sequence: PulseSequence, t1_ms: NDArray[np.float64], t2_ms: NDArray[np.float64], density: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Magnitude of the (inversion-recovery) spin-echo signal, relative to full magnetisation of water.

    S = density |1 - 2 exp(-TI/T1) + exp(-(TR - train - TE/2)/T1)| exp(-TE/T2); without inversion the factor is
    1 - exp(-(TR - train - TE/2)/T1) (Bernstein, Handbook of MRI Pulse Sequences, 14.1).
    """
    recovery = np.exp(-(sequence.repetition_ms - sequence.train_ms - sequence.echo_ms / 2) / t1_ms)
    if sequence.inversion_ms:
        longitudinal = np.abs(1 - 2 * np.exp(-sequence.inversion_ms / t1_ms) + recovery)
    else:
        longitudinal = 1 - recovery
    result: NDArray[np.float64] = density * longitudinal * np.exp(-sequence.echo_ms / t2_ms)
    return result


def mixing_matrix(scanner: Scanner, contrasts: Sequence[str], atrophy: float) -> Tensor:
    """(rows, tissues): per MR contrast the signal and its derivatives by log T1 and log T2, then CT + 1000, then PET.

    MR is scaled to white matter = 1: one product with the tissue fractions gives all images.
    """
    high = scanner.field_t > 2
    table = list(TISSUES.values())
    t1 = np.array([t.t1_3t_ms if high else t.t1_15t_ms for t in table])
    t2 = np.array([t.t2_3t_ms if high else t.t2_15t_ms for t in table])
    density = np.array([t.density for t in table])
    rows = []
    for name in (c for c in contrasts if c in MR):
        sequence, step = scanner.sequences[name], math.log(1.02)
        kept = np.array([1 - sequence.saturation if n == "wm" else 1.0 for n in NAMES])
        plain = signal(sequence, t1, t2, density)
        by_t1 = (signal(sequence, t1 * 1.02, t2, density) - plain) / step
        by_t2 = (signal(sequence, t1, t2 * 1.02, density) - plain) / step
        rows += [kept * r / (kept * plain)[INDEX["wm"]] for r in (plain, by_t1, by_t2)]
    uptake = np.array([t.suv * (1 - 0.1 * atrophy if n == "gm" else 1.0) for n, t in TISSUES.items()])
    rows += [np.array([t.hu + 1000.0 for t in table]), uptake]
    return torch.tensor(np.stack(rows), dtype=torch.float32)

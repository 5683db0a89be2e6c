"""What the page shows of a series: a plane in a window, and over it what is doubtful, different or drawn as a class."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Picture

from ..contracts import Image

WINDOWS = {"soft tissue": (-160.0, 240.0), "bone": (-450.0, 1050.0), "lung": (-1350.0, 150.0)}  # HU
HOT = np.array([[0, 0, 0], [160, 20, 0], [255, 120, 0], [255, 220, 60], [255, 255, 255]], float)
AROUND_ZERO = np.array([[40, 110, 255], [0, 0, 0], [255, 70, 40]], float)  # blue is less, red is more
CLASSES = np.array(
    [[0, 0, 0], [240, 180, 41], [63, 182, 139], [138, 184, 255], [239, 111, 108], [200, 140, 255]], float
)
STRENGTH = 0.75  # of the strongest overlay


@dataclass(frozen=True)
class Overlay:
    """Values (1, z, y, x) over a picture, up to `top` in `unit`; `kind`: spread, prior, difference, classes or dose."""

    kind: str
    image: Image
    top: float
    unit: str

    @property
    def legend(self) -> str:
        """What its colours mean."""
        top = f"{self.top:.0f}" if self.top >= 1000 else f"{self.top:.3g}"
        said = {
            "spread": f"spread of the draws, none to {top} {self.unit} (dark to white)",
            "prior": f"decided by the model, not by data, -{top} to {top} {self.unit} (blue to red)",
            "difference": f"result minus source, -{top} to {top} {self.unit} (blue to red)",
            "classes": "classes, a colour each",
            "dose": f"dose, none to {top} {self.unit} (dark to white)",
        }
        return said[self.kind]

    def colours(self, z: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """((y, x, 3) of 0 to 255, (y, x) how much of it is seen)."""
        values = self.image.data[0, z].numpy().astype(float)
        if self.kind == "classes":
            classes = values.astype(int)
            return CLASSES[np.where(classes > 0, 1 + (classes - 1) % (len(CLASSES) - 1), 0)], 0.5 * (classes > 0)
        share = np.clip(values / max(self.top, 1e-9), -1, 1)
        if self.kind in ("difference", "prior"):
            return _graded(AROUND_ZERO, (share + 1) / 2), STRENGTH * np.abs(share)
        return _graded(HOT, share.clip(0)), STRENGTH * share.clip(0) ** 0.5


def _graded(stops: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(share, at, stops[:, c]) for c in range(3)], -1)


def overlay_of(kind: str, image: Image, unit: str) -> Overlay:
    """Its top is the 99.5th percentile of what is not 0; of a dose the highest, which nobody may overlook."""
    sizes = image.data.abs().flatten()
    some = sizes[sizes > 0]
    if not len(some):
        return Overlay(kind, image, 1.0, unit)
    share = 1.0 if kind == "dose" else 0.995
    top = some.max() if share == 1 else torch.quantile(some[:: max(1, len(some) // 200_000)], share)
    return Overlay(kind, image, float(top), unit)


def picture(image: Image, z: int, low: float, high: float, over: Overlay | None = None) -> bytes:
    """A plane as PNG, in square pixels, seen from the feet."""
    plane = image.data[0, z].numpy()
    grey = 255 * np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
    made = Picture.fromarray(grey.astype(np.uint8), "L")
    if over is not None:
        colour, seen = over.colours(z)
        mixed = grey[..., None] * (1 - seen[..., None]) + colour * seen[..., None]
        made = Picture.fromarray(mixed.astype(np.uint8), "RGB")
    steps = image.affine[:3, :3].norm(dim=0)
    height, width = plane.shape[0] * float(steps[1]), plane.shape[1] * float(steps[2])
    factor = 512 / max(height, width)
    shown = made.resize((max(1, round(width * factor)), max(1, round(height * factor))))
    buffer = io.BytesIO()
    shown.save(buffer, "PNG")
    return buffer.getvalue()


def window_of(image: Image, name: str) -> tuple[float, float]:
    """Of HU one of WINDOWS; of other numbers up to their 99.5th percentile."""
    if image.meaning.unit == "HU":
        return WINDOWS.get(name, WINDOWS["soft tissue"])
    return 0.0, float(torch.quantile(image.data.flatten()[:: max(1, image.data.numel() // 200_000)], 0.995)) or 1.0

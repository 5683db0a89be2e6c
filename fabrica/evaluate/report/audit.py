"""The page of an audit: verdicts, and the closest pairs to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from torch import Tensor

from .pictures import encode

PAGE = Path(__file__).with_suffix(".html")


def write_page(path: Path, run: str, about: str, gate: Any, pairs: Sequence[tuple[Tensor, Tensor, float]]) -> None:
    """HTML that needs nothing but itself."""
    shown = [{"draw": _png(one), "real": _png(other), "gap": gap} for one, other, gap in pairs]
    environment = jinja2.Environment(autoescape=True)
    checks: Mapping[str, Any] = gate.checks
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.from_string(PAGE.read_text()).render(run=run, about=about, checks=checks, pairs=shown))


def _png(image: Tensor) -> str:
    pixels = image[0, image.shape[1] // 2].numpy()
    return encode(
        {"pixels": pixels, "low": 0.0, "high": max(float(np.percentile(pixels, 99.5)), 1e-6), "colour": "grey"}
    )

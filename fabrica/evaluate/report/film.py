"""Films in a report: answers side by side, moving."""

from __future__ import annotations

import base64
import io as buffers
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture

SIDE, DURATION_MS = 224, 70
Array = NDArray[np.floating[Any]]


def moving(films: Mapping[str, Array]) -> str:
    """HTML: (t, y, x) by name, 0 to 1, as one animated GIF with their names below."""
    names, count = list(films), len(next(iter(films.values())))
    frames = []
    for t in range(count):
        row = np.concatenate([np.clip(films[name][t], 0, 1) for name in names], 1)
        grey = Picture.fromarray((255 * row).astype(np.uint8), "L")
        frames.append(grey.resize((SIDE * len(names), SIDE)))
    buffer = buffers.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=DURATION_MS, loop=0)
    told = " | ".join(escape(name) for name in names)
    data = base64.b64encode(buffer.getvalue()).decode()
    picture = f'<img class="film" alt="film: {told}" src="data:image/gif;base64,{data}">'
    return f'{picture}<p class="soft">{told}</p>'

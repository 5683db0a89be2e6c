"""The page of an audit: verdicts, and the closest pairs to be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from torch import Tensor

from .pictures import encode

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit of {{ run }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; max-width: 1080px; margin: 32px auto; padding: 0 24px; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: 8px 12px; border-bottom: 1px solid #ddd; }
.PASS { color: #0a7d4f; } .REFUSED { color: #b42318; } .WARN, .VOID { color: #a15c00; } .soft { color: #5b6875; }
.pairs { display: flex; flex-wrap: wrap; gap: 12px; background: #000; padding: 12px; } figure { margin: 0; color: #cfd6dd; font-size: 13px; }
img { image-rendering: pixelated; width: 120px; height: auto; } </style></head><body>
<h1>Audit of {{ run }}</h1><p class="soft">{{ about }}</p>
<table><tr><th>check</th><th>verdict</th><th>p value</th><th>what it means</th></tr>
{% for name, c in checks.items() %}<tr><td>{{ name }}</td><td class="{{ c.verdict }}"><strong>{{ c.verdict }}</strong></td>
<td>{{ "%.4f"|format(c.value) if c.value is not none }}</td><td>{{ c.reason }}{% if c.overruled %} <em>Overruled: {{ c.overruled }}</em>{% endif %}</td></tr>{% endfor %}</table>
{% if pairs %}<h2>Closest pairs</h2><p class="soft">Draw, and the training image nearest to it: to be looked at. Nearness alone is no proof of a copy.</p>
<div class="pairs">{% for p in pairs %}<figure><img alt="draw" src="data:image/png;base64,{{ p.draw }}"><img alt="training image"
 src="data:image/png;base64,{{ p.real }}"><figcaption>distance {{ "%.3f"|format(p.gap) }}</figcaption></figure>{% endfor %}</div>{% endif %}
<p class="soft">Membership, groups, shift and robustness: NOT ASSESSED. An honest verdict on copies is none on them.</p>
</body></html>
"""  # noqa: E501


def write_page(path: Path, run: str, about: str, gate: Any, pairs: Sequence[tuple[Tensor, Tensor, float]]) -> None:
    """HTML that needs nothing but itself."""
    shown = [{"draw": _png(one), "real": _png(other), "gap": gap} for one, other, gap in pairs]
    environment = jinja2.Environment(autoescape=True)
    checks: Mapping[str, Any] = gate.checks
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.from_string(PAGE).render(run=run, about=about, checks=checks, pairs=shown))


def _png(image: Tensor) -> str:
    pixels = image[0, image.shape[1] // 2].numpy()
    return encode(
        {"pixels": pixels, "low": 0.0, "high": max(float(np.percentile(pixels, 99.5)), 1e-6), "colour": "grey"}
    )

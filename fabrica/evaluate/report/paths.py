"""A chain of stages as a drawing: how far paths lie apart at each, and whose chance it is at the end."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

WIDE, ROW, LEFT = 320, 26, 150


def drawing(room: Mapping[str, float], shares: Mapping[str, float]) -> str:
    """SVG: a bar for each stage on either side; `room` on scales of their own, `shares` from 0 to 1."""
    height = ROW * len(room) + 34
    parts = [
        f'<text x="{LEFT}" y="14" font-size="11">room between paths</text>',
        f'<text x="{LEFT + WIDE + 40}" y="14" font-size="11">share of the variance at the end</text>',
    ]
    for k, name in enumerate(room):
        y = 24 + ROW * k
        share = min(1.0, max(0.0, shares[name]))
        parts.append(f'<text x="{LEFT - 8}" y="{y + 13}" font-size="11" text-anchor="end">{escape(name)}</text>')
        parts.append(f'<text x="{LEFT + 4}" y="{y + 13}" font-size="11">{room[name]:.3g}</text>')
        x = LEFT + WIDE + 40
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDE}" height="{ROW - 8}" fill="#e8edf2"/>')
        parts.append(f'<rect x="{x}" y="{y}" width="{WIDE * share:.1f}" height="{ROW - 8}" fill="#1f77b4"/>')
        parts.append(f'<text x="{x + WIDE + 6}" y="{y + 13}" font-size="11">{100 * share:.0f} %</text>')
    size = f'viewBox="0 0 {LEFT + 2 * WIDE + 90} {height}" role="img" aria-label="Room between paths by stage"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="paths" {size}>{"".join(parts)}</svg>'

"""Dose-volume histograms as a drawing: how much of each structure receives at least so much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT, LEFT, BELOW = 640, 300, 44, 34
COLOURS = ("#d62728", "#ff7f0e", "#e6c619", "#1f77b4", "#17becf", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f")
POINTS = 80
Array = NDArray[np.floating[Any]]


def curve(dose_gy: Array, mask: NDArray[np.bool_], levels: Array) -> Array:
    """Percent of a structure that receives at least each level."""
    own = np.sort(dose_gy[mask])
    return np.asarray(100 * (1 - np.searchsorted(own, levels, side="left") / len(own)))


def drawing(
    dose_gy: Array, truth_gy: Array | None, masks: Mapping[str, NDArray[np.bool_]], draws_gy: Sequence[Array] = ()
) -> str:
    """SVG: the model's curves full, the plan's dashed, a colour for each structure; '' where there is no structure.

    Of several draws the room between their lowest and highest curve is shaded; what share of patients it holds nobody
    has calibrated.
    """
    found = {name: mask for name, mask in masks.items() if mask.any()}
    if not found:
        return ""
    top = max(float(d.max()) for d in (dose_gy, truth_gy) if d is not None)
    top = 10 * np.ceil(max(top, 10) / 10)
    levels = np.linspace(0, top, POINTS)
    lines, names = _axes(top), []
    for k, (name, mask) in enumerate(found.items()):
        colour = COLOURS[k % len(COLOURS)]
        if len(draws_gy) > 1:
            lines.append(_band(levels, [curve(one, mask, levels) for one in draws_gy], top, colour))
        lines.append(_line(levels, curve(dose_gy, mask, levels), top, colour, ""))
        if truth_gy is not None:
            lines.append(_line(levels, curve(truth_gy, mask, levels), top, colour, ' stroke-dasharray="5 4"'))
        names.append(f'<tspan fill="{colour}" dx="{10 if k else 0}">{escape(name)}</tspan>')
    told = f'<text x="{LEFT}" y="{HEIGHT + 14}" font-size="11">{"".join(names)}</text>'
    shaded = f", {len(draws_gy)} draws shaded" if len(draws_gy) > 1 else ""
    label = f"Dose-volume histogram: model full, plan dashed{shaded}"
    size = f'viewBox="0 0 {WIDTH} {HEIGHT + 22}" role="img" aria-label="{label}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="dvh" {size}>{"".join(lines)}{told}</svg>'


def _place(dose: float, volume: float, top: float) -> tuple[float, float]:
    x = LEFT + (WIDTH - LEFT - 8) * dose / top
    return round(x, 1), round(6 + (HEIGHT - BELOW - 6) * (1 - volume / 100), 1)


def _line(levels: Array, volumes: Array, top: float, colour: str, dashes: str) -> str:
    points = " ".join("{},{}".format(*_place(float(d), float(v), top)) for d, v in zip(levels, volumes, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'


def _band(levels: Array, curves: Sequence[Array], top: float, colour: str) -> str:
    low, high = np.min(curves, 0), np.max(curves, 0)
    there = [_place(float(d), float(v), top) for d, v in zip(levels, high, strict=True)]
    back = [_place(float(d), float(v), top) for d, v in zip(levels[::-1], low[::-1], strict=True)]
    points = " ".join(f"{x},{y}" for x, y in [*there, *back])
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="0.18" stroke="none"/>'


def _axes(top: float) -> list[str]:
    parts = []
    for volume in (0, 25, 50, 75, 100):
        (x0, y), (x1, _) = _place(0, volume, top), _place(top, volume, top)
        parts.append(f'<line x1="{x0}" y1="{y}" x2="{x1}" y2="{y}" stroke="#ccc"/>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" font-size="11" text-anchor="end">{volume}</text>')
    for dose in range(0, int(top) + 1, 10):
        x, y = _place(dose, 0, top)
        parts.append(f'<text x="{x}" y="{y + 14}" font-size="11" text-anchor="middle">{dose}</text>')
    x, y = _place(top / 2, 0, top)
    parts.append(f'<text x="{x}" y="{y + 27}" font-size="11" text-anchor="middle">dose (Gy); volume (%)</text>')
    return parts

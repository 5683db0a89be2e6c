"""Courses until an event as a drawing: who stays without one, how true the chances are, and whether they are of use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..judging.courses import Courses, Foretold, thirds
from ..metrics import survival

Array = NDArray[np.float64]
WIDE, HIGH, LEFT, TOP, GAP = 250, 200, 44, 22, 62
COLOURS = ("#2ca02c", "#ff7f0e", "#d62728")
THRESHOLDS = np.linspace(0.01, 0.6, 60)
Place = Callable[[float, float], tuple[float, float]]


def drawing(seen: Courses, model: Foretold) -> str:
    """SVG of three panels: Kaplan-Meier by thirds of the foretold risk with bands, calibration and net benefit at the
    middle horizon; '' where too few had the event.
    """
    if seen.able:
        return ""
    horizon = seen.horizons[len(seen.horizons) // 2]
    panels = [_courses(seen, model), _calibration(seen, model, horizon), _benefit(seen, model, horizon)]
    size = f'viewBox="0 0 {3 * (WIDE + GAP) + 8} {HIGH + 62}" role="img"'
    label = f"{seen.name}: courses by thirds of risk, calibration and net benefit within {horizon:g} {seen.unit}"
    inner = "".join(f'<g transform="translate({k * (WIDE + GAP)} 0)">{p}</g>' for k, p in enumerate(panels))
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="course" {size} aria-label="{label}">{inner}</svg>'


def _courses(seen: Courses, model: Foretold) -> str:
    end = float(seen.grid[-1])
    place, parts = _panel("without the event", f"{seen.unit}; lowest, middle, highest third by risk", end, (0, 1))
    for own, colour in zip(thirds(model.risk), COLOURS, strict=True):
        curve = survival.kaplan_meier(seen.time[own], seen.event[own])
        times = np.append(curve.times[curve.times <= end], end)
        kept = len(times) - 1
        steps = [_stairs(times, values[:kept], 1.0) for values in (curve.share, curve.low, curve.high)]
        ring = [*steps[1], *steps[2][::-1]]
        parts.append(f'<polygon points="{_points(ring, place)}" fill="{colour}" fill-opacity="0.15" stroke="none"/>')
        parts.append(_line(steps[0], place, colour))
    return "".join(parts)


def _stairs(times: Array, values: Array, start: float) -> list[tuple[float, float]]:
    found, last = [(0.0, start)], start
    for when, value in zip(times, [*values, None], strict=True):
        found.append((float(when), last))
        if value is not None:
            last = float(value)
            found.append((float(when), last))
    return found


def _calibration(seen: Courses, model: Foretold, horizon: float) -> str:
    told = survival.calibration_at(model.within(horizon), horizon, seen.time, seen.event)
    curve = told.details["curve"]
    top = min(1.0, 1.1 * max(max(c[0], c[3]) for c in curve))
    place, parts = _panel("seen (95 % band)", f"foretold chance within {horizon:g} {seen.unit}", top, (0, top))
    parts.append(_line([(0, 0), (top, top)], place, "#999", ' stroke-dasharray="4 4"'))
    for told_chance, chance, low, high, _ in curve:
        parts.append(_line([(told_chance, low), (told_chance, min(high, top))], place, "#1f77b4"))
        x, y = place(told_chance, chance)
        parts.append(f'<circle cx="{x}" cy="{y}" r="3.2" fill="#1f77b4"/>')
    return "".join(parts)


def _benefit(seen: Courses, model: Foretold, horizon: float) -> str:
    own, everybody = survival.net_benefit(model.within(horizon), horizon, seen.time, seen.event, THRESHOLDS)
    top = max(float(own.max()), float(everybody.max()), 0.01) * 1.1
    low = -0.15 * top
    place, parts = _panel("net benefit", "chance from which one would act; grey: everybody", 0.6, (low, top))
    parts.append(_line([(0, 0), (0.6, 0)], place, "#999", ' stroke-dasharray="4 4"'))
    grey = [(float(t), float(v)) for t, v in zip(THRESHOLDS, everybody, strict=True) if v >= low]
    parts.append(_line(grey, place, "#999"))
    kept = [(float(t), max(low, float(v))) for t, v in zip(THRESHOLDS, own, strict=True)]
    parts.append(_line(kept, place, "#1f77b4"))
    return "".join(parts)


def _panel(up: str, along: str, right: float, ends: tuple[float, float]) -> tuple[Place, list[str]]:
    """A frame with its scale, and where a value lies in it."""
    low, high = ends

    def place(x: float, y: float) -> tuple[float, float]:
        return round(LEFT + WIDE * x / right, 1), round(TOP + HIGH * (high - y) / (high - low), 1)

    parts = [f'<text x="{LEFT}" y="{TOP - 8}" font-size="11">{up}</text>']
    for share in (0, 0.5, 1):
        value = low + share * (high - low)
        (x0, y), (x1, _) = place(0, value), place(right, value)
        parts.append(f'<line x1="{x0}" y1="{y}" x2="{x1}" y2="{y}" stroke="#ccc"/>')
        parts.append(f'<text x="{x0 - 5}" y="{y + 4}" font-size="10" text-anchor="end">{value:.2g}</text>')
        x, _ = place(share * right, low)
        parts.append(
            f'<text x="{x}" y="{TOP + HIGH + 14}" font-size="10" text-anchor="middle">{share * right:.2g}</text>'
        )
    parts.append(
        f'<text x="{LEFT + WIDE / 2}" y="{TOP + HIGH + 30}" font-size="11" text-anchor="middle">{along}</text>'
    )
    return place, parts


def _points(line: Sequence[tuple[float, float]], place: Place) -> str:
    return " ".join("{},{}".format(*place(x, y)) for x, y in line)


def _line(line: Sequence[tuple[float, float]], place: Place, colour: str, dashes: str = "") -> str:
    return f'<polyline points="{_points(line, place)}" fill="none" stroke="{colour}" stroke-width="1.6"{dashes}/>'

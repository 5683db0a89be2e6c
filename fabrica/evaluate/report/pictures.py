"""Pictures of a report: which panels a case is shown by, and how numbers become colours."""

from __future__ import annotations

import base64
import io as buffers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage
from torch import Tensor

from ...contracts import SCALES, Field
from ...data.cases import Prepared
from .histogram import drawing

Array = NDArray[np.floating[Any]]
AROUND, WIDE = 4, 0.7  # pixels around what is shown; a frame as wide as this share of the picture is the picture


@dataclass(frozen=True)
class Beside:
    """An image (C, z, y, x) to be shown beside a case's, from `low` to `high`; a difference unless told."""

    values: Tensor
    low: float = -0.2
    high: float = 0.2
    colour: str = "diverging"


@dataclass
class Pictures:
    """For a few cases: inputs, truth, draw, mean, spread, error, through the middle of the patient."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    most: int = 6

    def add(
        self, case: str, prepared: Prepared, x: Tensor, fields: Sequence[Field], given: Sequence[str], hidden: str = "",
        crude: Mapping[str, Tensor] = MappingProxyType({}), more: Mapping[str, Beside] = MappingProxyType({}),
    ) -> None:  # fmt: skip
        """x (draws, C, z, y, x); `crude`: what the data alone say, by name, and `more` to be shown beside, by title."""
        if len(self.rows) >= self.most:
            return
        z = self._slice(prepared, x)
        panels: list[dict[str, Any]] = []
        for name in given:
            computed = name in prepared.traces and prepared.traces[name].like.meaning.unit == "mm"  # distances
            if name in prepared.tensors and name != hidden and not computed:
                panels.append(_given_panel(name, prepared, z))
        start = 0
        for f in fields:
            part = x[:, start : start + f.channels, z]
            start += f.channels
            if hidden and f.name != hidden:
                continue
            truth = prepared.tensors.get(f.name)
            if f.kind != "label":
                panels += [panel_of(name, y[start - f.channels, z].numpy(), f.unit) for name, y in crude.items()]
            panels += (
                _label_panels(f, part, truth, z)
                if f.kind == "label"
                else [
                    _washed(panel, prepared, z, f.unit)
                    for panel in _intensity_panels(f, part, truth, z, bool(given) or bool(crude))
                ]
            )
        for title, one in more.items():
            panels.append(panel_of(title, one.values[0, z].nan_to_num().numpy(), "", one.low, one.high, one.colour))
        self.rows.append({"case": case, "slice": z, "panels": panels, "drawing": _planned(prepared, x, fields)})

    def append(self, case: str, drawing: str) -> None:
        """More (HTML) below a case, where it is shown."""
        if drawing and self.rows and self.rows[-1]["case"] == case:
            self.rows[-1]["drawing"] += drawing

    @staticmethod
    def _slice(prepared: Prepared, x: Tensor) -> int:
        lesion = prepared.tensors.get("lesion")
        if lesion is not None and float(lesion.sum()) > 0:
            return int(lesion[0].flatten(1).sum(1).argmax())
        return min(x.shape[2] - 1, int(0.55 * x.shape[2]))


WINDOWS = {"HU": (-160.0, 240.0)}  # what a unit is shown by where that is not its whole scale: soft tissue
DIFFERENCES = {"HU": (75.0, 100.0), "Gy": (10.0, 20.0)}  # of spread and of error; else SPREAD and ERROR of the scale
SPREAD, ERROR = 0.3, 0.4
WASHED = 0.1  # of a dose's window: less is not coloured


def panel_of(
    title: str, pixels: Array, unit: str = "", low: float = 0.0, high: float = 1.0, colour: str = "grey"
) -> dict[str, Any]:
    """Pixels (y, x) on the network's scale; in units that have a constant the caption says the window in the unit."""
    scale = SCALES.get(unit)
    if scale is None:
        shown = f"{low:g} to {high:g}"
    elif colour == "grey":
        first, last = WINDOWS.get(unit, (low * scale.width + scale.offset, high * scale.width + scale.offset))
        low, high = ((v - scale.offset) / scale.width for v in (first, last))
        shown = f"{first:g} to {last:g} {unit}"
    else:
        shown = f"{low * scale.width:g} to {high * scale.width:g} {unit}"
    return {"title": title, "pixels": pixels, "low": low, "high": high, "shown": shown, "colour": colour}


def _differences(unit: str) -> tuple[float, float]:
    """Up to where spread and error are shown, on the network's scale."""
    if unit not in DIFFERENCES:
        return SPREAD, ERROR
    spread, error = DIFFERENCES[unit]
    return spread / SCALES[unit].width, error / SCALES[unit].width


def _planned(prepared: Prepared, x: Tensor, fields: Sequence[Field]) -> str:
    """Dose-volume histograms of a dose, mean of its draws; nothing of other images."""
    if [f.unit for f in fields] != ["Gy"]:
        return ""
    width = SCALES["Gy"].width
    marks = {n: t[0].numpy() > 0.5 for n, t in prepared.tensors.items()
             if prepared.traces[n].like.meaning.kind == "label" and n != "possible_dose"}  # fmt: skip
    truth = prepared.tensors.get(fields[0].name)
    draws = [width * one[0].numpy() for one in x]
    return drawing(width * x.mean(0)[0].numpy(), None if truth is None else width * truth[0].numpy(), marks, draws)


def _washed(panel: dict[str, Any], prepared: Prepared, z: int, unit: str) -> dict[str, Any]:
    """A dose in colours over the CT that it belongs to."""
    ct = prepared.tensors.get("CT")
    if unit != "Gy" or ct is None or panel["colour"] != "grey":
        return panel
    return washed(panel, ct[0, z].numpy())


def washed(panel: dict[str, Any], ct: Array) -> dict[str, Any]:
    """A panel of a dose in colours over a slice (y, x) of its CT, on the network's scale."""
    return {**panel, "colour": "wash", "under": panel_of("", ct, "HU")}


def _given_panel(name: str, prepared: Prepared, z: int) -> dict[str, Any]:
    """Classes of a mask are spread over all greys."""
    whole, pixels = prepared.tensors[name], prepared.tensors[name][0, z].numpy()
    classes = bool((whole == whole.round()).all())
    high = max(1.0, float(whole.max())) if classes else 1.0
    return panel_of(f"{name} (given)", pixels, prepared.traces[name].like.meaning.unit, 0.0, high)


def _valued(title: str, pixels: Array, unit: str) -> dict[str, Any]:
    """A panel of an image; of motion, which goes both ways, in two colours."""
    return panel_of(title, pixels, unit, -1.0, 1.0, "diverging") if unit == "mm" else panel_of(title, pixels, unit)


def _intensity_panels(f: Field, part: Tensor, truth: Tensor | None, z: int, paired: bool) -> list[dict[str, Any]]:
    mean = part.mean(0)[0].numpy()
    panels, (spread, error) = [], _differences(f.unit)
    if truth is not None:
        panels.append(
            _valued(f"{f.name} (true)" if paired else f"{f.name} (a real patient)", truth[0, z].numpy(), f.unit)
        )
    panels.append(_valued(f"{f.name} (one draw)" if len(part) > 1 else f"{f.name} (model)", part[0, 0].numpy(), f.unit))
    if not paired:
        return panels + [_valued(f"draw {i + 1}", p[0].numpy(), f.unit) for i, p in enumerate(part[1:4], 1)]
    if len(part) > 1:
        panels.append(_valued("mean of draws", mean, f.unit))
        panels.append(panel_of("spread of draws", part.std(0)[0].numpy(), f.unit, 0.0, spread, "heat"))
    if truth is not None:
        panels.append(
            panel_of(
                "error of the mean" if len(part) > 1 else "error",
                mean - truth[0, z].numpy(),
                f.unit,
                -error,
                error,
                "diverging",
            )
        )
    return panels


def _label_panels(f: Field, part: Tensor, truth: Tensor | None, z: int) -> list[dict[str, Any]]:
    top = float(max(1, f.channels - 1))
    panels = [panel_of(f"{f.name} (one draw)", part[0].argmax(0).float().numpy(), "", 0.0, top)]
    if truth is not None:
        panels.insert(0, panel_of(f"{f.name} (real)", truth[0, z].numpy(), "", 0.0, top))
    return panels


PANEL = 176  # pixels a side in the page


def framed(panels: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The panels of a row, all cut to where any of them shows something: a patient in a wide grid is seen as well.

    They stay as they are where they have several shapes, or where little would be cut.
    """
    if len({p["pixels"].shape for p in panels}) != 1:
        return list(panels)
    shown = np.any([_shows(p) for p in panels], 0)
    found = [np.flatnonzero(shown.any(axis)) for axis in (1, 0)]
    if not all(map(len, found)):
        return list(panels)
    box = tuple(slice(max(0, own[0] - AROUND), own[-1] + 1 + AROUND) for own in found)
    if all(own[-1] - own[0] + 1 + 2 * AROUND > WIDE * n for own, n in zip(found, shown.shape, strict=True)):
        return list(panels)
    return [_cut(p, box) for p in panels]


def _shows(panel: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Where a panel is not as at its corner."""
    pixels = np.nan_to_num(panel["pixels"])
    seen: NDArray[np.bool_] = abs(pixels - pixels[0, 0]) > 0.02 * (panel["high"] - panel["low"])
    return seen


def _cut(panel: Mapping[str, Any], box: tuple[slice, ...]) -> dict[str, Any]:
    under = panel.get("under")
    return {
        **panel, "pixels": panel["pixels"][box],
        **({} if under is None else {"under": {**under, "pixels": under["pixels"][box]}}),
    }  # fmt: skip


def encode(panel: Mapping[str, Any]) -> str:
    """A panel as base64 PNG: window applied, patient seen from the feet (radiological), front up."""
    picture = paint(panel["pixels"], panel["low"], panel["high"], panel["colour"])
    if (under := panel.get("under")) is not None:
        grey = paint(under["pixels"], under["low"], under["high"]).convert("RGB")
        share = Picture.fromarray(np.where(panel["pixels"] > WASHED * panel["high"], 140, 0).astype(np.uint8), "L")
        picture = Picture.composite(picture, grey, share)
    factor = max(1, round(PANEL / max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Picture.Resampling.NEAREST)
    buffer = buffers.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def outlined(pixels: NDArray[np.floating[Any]], mask: NDArray[np.bool_]) -> str:
    """An image (y, x) with a red line around a mask, as base64 PNG."""
    high = max(float(np.percentile(pixels, 99.5)), 1e-6)
    factor = max(1, round(PANEL / max(pixels.shape)))
    grey = np.array(paint(pixels, 0.0, high)).repeat(factor, 0).repeat(factor, 1)
    wide = mask.repeat(factor, 0).repeat(factor, 1)
    line = ndimage.binary_dilation(wide, iterations=2) & ~wide
    picture = Picture.fromarray(
        np.where(line[..., None], np.array([255, 64, 48], np.uint8), grey[..., None].repeat(3, 2))
    )
    buffer = buffers.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def paint(pixels: NDArray[np.floating[Any]], low: float, high: float, colour: str = "grey") -> Picture.Image:
    """(y, x) to an 8-bit picture: grey, heat (black to yellow), wash (blue to red) or diverging (blue, black, red)."""
    t = np.clip((pixels - low) / (high - low), 0, 1)
    if colour == "grey":
        return Picture.fromarray((255 * t).astype(np.uint8), "L")
    if colour == "wash":  # blue, cyan, green, yellow, red
        rgb = np.stack([np.clip(1.5 - np.abs(4 * t - k), 0, 1) for k in (3, 2, 1)], -1)
    elif colour == "heat":
        rgb = np.stack([np.clip(2.2 * t, 0, 1), np.clip(2.2 * t - 0.8, 0, 1), np.clip(3 * t - 2.2, 0, 1)], -1)
    else:
        d = 2 * t - 1
        rgb = np.stack([np.clip(d, 0, 1), 0.35 * np.abs(d), np.clip(-d, 0, 1)], -1)
    return Picture.fromarray((255 * rgb).astype(np.uint8), "RGB")

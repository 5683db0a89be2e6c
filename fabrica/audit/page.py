"""The page of an audit: verdicts, and what stands behind each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from torch import Tensor

from ..evaluate.report.pictures import encode
from ..safeguards.amplification import Amplification
from ..safeguards.fairness import Fairness
from ..safeguards.gate import Gate
from ..safeguards.privacy.copies import Described
from ..safeguards.privacy.gallery import Pair
from ..safeguards.privacy.membership import Attack
from ..safeguards.sites import LeftOut
from .scans import LOST_DB, NOTICED, Ladder

PAGE = Path(__file__).with_suffix(".html")
WIDTH, HEIGHT, EDGE = 460, 260, 40  # of the curve, in pixels


@dataclass
class Evidence:
    """What checks found besides their verdicts."""

    pairs: Sequence[Pair] = ()
    described: Described | None = None
    attacks: Sequence[Attack] = ()
    fairness: Fairness | None = None
    copied: Fairness | None = None  # by group: who has a draw nearer than any other person
    amplified: Amplification | None = None
    ladder: Ladder | None = None
    sites: Sequence[LeftOut] = ()
    unseen_sites: Sequence[str] = ()


def write_page(path: Path, run: str, about: str, gate: Gate, evidence: Evidence) -> None:
    """HTML that needs nothing but itself."""
    shown = [{"draw": _png(p.draw), "real": _png(p.real), "pair": p} for p in evidence.pairs]
    environment = jinja2.Environment(autoescape=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = environment.from_string(PAGE.read_text())
    curve = _curve(evidence.ladder) if evidence.ladder else None
    kinds = list(dict.fromkeys(r.kind for r in evidence.ladder.rungs)) if evidence.ladder else []
    path.write_text(
        page.render(run=run, about=about, checks=gate.checks, shown=shown, found=evidence, curve=curve, kinds=kinds)
    )


def _curve(ladder: Ladder) -> dict[str, Any]:
    """Every rung as a point: what it costs (dB) against the share of scans that are told; and the two bounds."""
    most = max(LOST_DB * 2, *(ladder.lost(r) for r in ladder.rungs))

    def across(lost: float) -> float:
        return round(EDGE + (WIDTH - 2 * EDGE) * min(max(lost, 0.0), most) / most, 1)

    def down(told: float) -> float:
        return round(HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * told, 1)

    points = [
        {"x": across(ladder.lost(r)), "y": down(r.told), "name": f"{r.kind} {r.rung}",
         "bad": ladder.lost(r) >= LOST_DB and r.told < NOTICED}
        for r in ladder.rungs if r.told is not None
    ]  # fmt: skip
    return {"points": points, "x": across(LOST_DB), "y": down(NOTICED), "most": most, "width": WIDTH, "height": HEIGHT,
            "edge": EDGE}  # fmt: skip


def _png(image: Tensor) -> str:
    pixels = image[0, image.shape[1] // 2].numpy()
    return encode(
        {"pixels": pixels, "low": 0.0, "high": max(float(np.percentile(pixels, 99.5)), 1e-6), "colour": "grey"}
    )

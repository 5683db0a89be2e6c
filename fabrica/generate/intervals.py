"""Intervals of new draws: from what calibration patients told and how the draws of a case scatter, seen in turn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from .. import io
from ..contracts import Image
from ..run.answering import Answering
from ..safeguards.uncertainty import Intervals, read_intervals


@dataclass
class Moments:
    """Mean and spread of draws that are seen one after the other (Welford 1962)."""

    intervals: Intervals
    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    squares: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def see(self, data: Tensor) -> None:
        self.count += 1
        off = data.double() - self.mean
        self.mean = self.mean + off / self.count
        self.squares = self.squares + off * (data - self.mean)

    @property
    def spread(self) -> Tensor:
        """Standard deviation; none of one draw."""
        return (self.squares / max(1, self.count - 1)).sqrt()


def wanted_of(answering: Answering, draws: int, lines: list[str]) -> dict[str, Moments]:
    """Of the contrasts whose intervals hold for as many draws; why others have none is said."""
    wanted: dict[str, Moments] = {}
    for name, own in read_intervals(answering.run.home(answering.stage)).items():
        if answering.job.restores:
            lines.append(f"No intervals of {name}: they were told on another brightness than that of this image.")
        elif own.draws != draws:
            lines.append(f"No intervals of {name}: intervals hold for {own.draws} draws. Type: --draws {own.draws}")
        else:
            wanted[name] = Moments(own)
    return wanted


def write_interval(answering: Answering, like: Image, moments: Moments, folder: Path) -> list[Path]:
    """CONTRAST-low.nii.gz and CONTRAST-high.nii.gz."""
    name, written = like.meaning.name, list[Path]()
    scale = answering.preparation.draw_scale(name, like.meaning.unit)
    reach = moments.intervals.factor * (moments.spread + moments.intervals.floor * scale.width)
    for end, sign in (("low", -1), ("high", 1)):
        path = folder / f"{name}-{end}.nii.gz"
        io.write_nifti(replace(like, data=(moments.mean + sign * reach).float()), path)
        written.append(path)
    return written

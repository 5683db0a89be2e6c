"""What a checkpoint says of itself besides its weights, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.prepare import GridPreparation, preparation_from
from .checkpoint import load


@dataclass(frozen=True)
class Facts:
    """How far a stage is trained, on whom, and what its numbers mean."""

    format: int
    step: int
    total: int
    seconds: float
    precision: str
    reference: str
    size: tuple[int, int, int]
    preparation: Mapping[str, Any]  # as plain data; `grid_preparation` makes it a value
    curve: tuple[tuple[int, float], ...] = ()
    batch: int | None = None
    float32_layers: tuple[str, ...] = ()  # in which bfloat16 was found wrong
    trained_on: frozenset[str] = frozenset()  # hashes of patients; none are kept of a private training
    privacy: Mapping[str, Any] | None = None  # what it promised and spent
    adapter: Mapping[str, Any] | None = None  # whose weights it changes, where it is but a change

    @property
    def finished(self) -> bool:
        return self.step >= self.total

    @property
    def grid_preparation(self) -> GridPreparation:
        return preparation_from(self.preparation)

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Facts:
        """From what `checkpoint.json` holds."""
        z, y, x = (int(n) for n in plain["size"])
        return Facts(
            int(plain["format"]),
            int(plain["step"]),
            int(plain["total"]),
            float(plain["seconds"]),
            str(plain["precision"]),
            str(plain["reference"]),
            (z, y, x),
            plain["preparation"],
            tuple((int(s), float(v)) for s, v in plain["curve"]),
            plain.get("batch"),
            tuple(map(str, plain.get("float32_layers", ()))),
            frozenset(plain.get("trained_on", ())),
            plain.get("privacy"),
            plain.get("adapter"),
        )


def facts_of(place: Path) -> Facts | None:
    """Of the checkpoint in a folder, None without one; raises CheckpointError where it was cut short or changed."""
    known = load(place)
    return None if known is None else Facts.of(known[1])

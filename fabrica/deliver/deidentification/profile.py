"""The table of the standard as data: what becomes of each attribute, by profile and option (PS3.15 Table E.1-1)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

EDITION = "2026c"
Dates = Literal["remove", "shift", "keep"]
KEEPING = ("uids", "device", "institution", "characteristics")  # options that keep what the profile takes out
CODES = {  # CID 7050
    "profile": ("113100", "Basic Application Confidentiality Profile"),
    "faces": ("113102", "Clean Recognizable Visual Features Option"),
    "descriptors": ("113105", "Clean Descriptors Option"),
    "full_dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "modified_dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
    "device": ("113109", "Retain Device Identity Option"),
    "uids": ("113110", "Retain UIDs Option"),
    "institution": ("113112", "Retain Institution Identity Option"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rule:
    """A row: the action of the basic profile, and those of options that change it (K keep, C clean)."""

    action: str  # X remove, Z empty, D dummy, U another UID; several where the object decides
    options: Mapping[str, str]

    def under(self, chosen: frozenset[str]) -> str:
        """X, Z, D, U, K or C. Of alternatives the one that leaves every object conforming: D before Z before X; of
        sequences of references U.
        """
        for option in sorted(chosen & set(self.options)):
            if self.options[option] in "KC":
                return self.options[option]
        return next(letter for letter in "UDZX" if letter in self.action)


@dataclass(frozen=True, slots=True)
class Options:
    """What of the standard's options is chosen; nothing of them is the basic profile alone.

    `keep`: of KEEPING. `dates`: removed, shifted by days of each patient's own, or kept. `descriptors`: words of a
    description that are known to name no one stay, where the profile takes the whole text out. `faces`: taken out of
    the pixels of heads.
    """

    keep: frozenset[str] = frozenset()
    dates: Dates = "remove"
    descriptors: bool = False
    faces: bool = False

    def __post_init__(self) -> None:
        if self.faces and "uids" in self.keep:
            raise ValueError("--faces remove changes pixels, which may not keep their UID. Leave --keep uids out.")
        if strange := sorted(self.keep - set(KEEPING)):
            raise ValueError(f"--keep {strange[0]} is none. Write {', '.join(KEEPING)}")
        if self.dates not in ("remove", "shift", "keep"):
            raise ValueError(f"--dates {self.dates} is none. Write remove, shift or keep.")

    @property
    def chosen(self) -> frozenset[str]:
        """Names of columns of the table."""
        dates = {"remove": set[str](), "shift": {"modified_dates"}, "keep": {"full_dates"}}[self.dates]
        return self.keep | dates | ({"descriptors"} if self.descriptors else set())


@cache
def rules() -> Mapping[int, Rule]:
    """By tag."""
    text = (Path(__file__).parent / "profile.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in text if not line.startswith("#"))
    found = {}
    for row in rows:
        options = dict(part.split("=") for part in row["options"].split())
        found[int(row["tag"], 16)] = Rule(row["action"], options)
    return found

"""What tables say of patients: how long somebody stayed without an event, and who is healthy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .values import Field, class_name


@dataclass(frozen=True, slots=True)
class Course:
    """Two columns: the time, and the event: `happened` then, or `censored`, as nobody looked any longer."""

    event: str = "event"
    time: str = "years"
    unit: str = "years"
    happened: str = "1"
    censored: str = "0"
    horizons: tuple[float, ...] = (1.0, 3.0, 5.0)  # at which chances are told
    proportional: bool = False  # answers are log-risks on a baseline; else hazards of even intervals up to the last

    def __post_init__(self) -> None:
        if self.happened == self.censored or self.event == self.time:
            raise ValueError("a course needs two words (happened, censored) and two columns (time, event).")
        whens = self.horizons
        if not whens or whens[0] <= 0 or any(a >= b for a, b in pairwise(whens)):
            raise ValueError(f"horizons is {list(whens)}, expected rising times above 0: [1, 3, 5]")

    @property
    def until(self) -> float:
        """The last horizon, in the unit of time."""
        return self.horizons[-1]

    def fields(self) -> tuple[Field, ...]:
        """As values of a case: a number and a class, whose second word is the event."""
        return (
            Field(self.time, "number", 1, self.unit),
            Field(self.event, "class", 2, "", (self.censored, self.happened)),
        )

    def has_event(self, values: Mapping[str, Any]) -> bool:
        return class_name(values[self.event]) == self.happened

    def fault(self, values: Mapping[str, Any]) -> str:
        """What is wrong with a case's course; '' where it can be used, or where nothing is said of it."""
        time, event = values.get(self.time), values.get(self.event)
        words = f"{self.happened} (it happened) or {self.censored} (nobody looked any longer)"
        if time is None and event is None:
            return ""
        if event is None:
            return f"was followed {time} {self.unit} and has no {self.event}. Write {words} in that column."
        if class_name(event) not in (self.happened, self.censored):
            return (
                f"has {self.event} {event}, expected {words}. Write it so, or say the words: "
                "course: {happened: dead, censored: alive}"
            )
        if not isinstance(time, int | float):
            said = "no time" if time is None else f"the time {time!r}"
            return f"has {self.event} {event} and {said}. Write the {self.unit} in a column {self.time}."
        if not time > 0 or not math.isfinite(time):
            return (
                f"has {self.time} {time:g}, expected {self.unit} after the image, above 0. Correct it, or take it out."
            )
        return ""


@dataclass(frozen=True, slots=True)
class Health:
    """Who is healthy, by columns and their words; and how what is not is marked and judged."""

    columns: Mapping[str, tuple[str, ...]]  # disease -> (none,)
    mask: str = "lesion"  # a label map of what is not healthy, where a case has one
    smooth_mm: float = 1.0  # deviation of the Gaussian that what is left is smoothed by
    false_positives: float = 0.01  # share of the voxels of healthy people that may be marked

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("healthy says who is: healthy: {disease: [none]}, a column and its words.")
        if not 0 < self.false_positives < 0.5 or not 0 <= self.smooth_mm <= 10:
            raise ValueError("expected false_positives in 0..0.5 and smooth_mm in 0..10.")

    def known(self, values: Mapping[str, Any]) -> bool:
        """Whether a case says anything of it."""
        return any(name in values for name in self.columns)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether a case is said to be healthy: by every column that says anything of it."""
        return self.known(values) and all(
            class_name(values[name]) in words for name, words in self.columns.items() if name in values
        )

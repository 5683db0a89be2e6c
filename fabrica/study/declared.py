"""What a study declares before its data: a claim, how many patients, who is left out, how often is looked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..contracts import class_name
from ..evaluate.honesty import endpoints
from ..evaluate.honesty.claim import Claim
from ..evaluate.statistics import SMALLEST
from ..registry import unknown


@dataclass(frozen=True)
class Exclusion:
    """Who does not belong: a value of the case `below` or `above` a number, or one of the words `is`."""

    value: str
    below: float | None = None
    above: float | None = None
    words: tuple[str, ...] = ()

    @staticmethod
    def of(plain: Any) -> Exclusion:
        """Raises ValueError for anything but {value: age, below: 18}, above, or is: [words]."""
        known = ("value", "below", "above", "is")
        if not isinstance(plain, Mapping) or not isinstance(plain.get("value"), str) or len(plain) < 2:
            raise ValueError(f"The exclusion {plain!r} is none. Write: {{value: age, below: 18}}, or is: [words]")
        for key in plain:
            if key not in known:
                raise unknown("key of an exclusion", str(key), list(known))
        for key in ("below", "above"):
            if key in plain and (isinstance(plain[key], bool) or not isinstance(plain[key], int | float)):
                raise ValueError(f"The exclusion by {plain['value']} has {key} {plain[key]!r}, expected a number.")
        words = plain.get("is", [])
        if not isinstance(words, list):
            raise ValueError(f"The exclusion by {plain['value']} has is: {words!r}, expected a list of words.")
        return Exclusion(plain["value"], plain.get("below"), plain.get("above"), tuple(map(class_name, words)))

    def holds(self, values: Mapping[str, float | str]) -> bool:
        """Whether a case is excluded. Raises ValueError where it does not say the value: nobody knows then."""
        if self.value not in values:
            raise ValueError(f"says no {self.value}, by which the study excludes. Name it in a table.")
        said = values[self.value]
        if self.words and class_name(said) in self.words:
            return True
        if (self.below is not None or self.above is not None) and not isinstance(said, int | float):
            raise ValueError(f"has {self.value} {said!r}, expected a number. Correct the table.")
        below = self.below is not None and float(said) < self.below
        return below or (self.above is not None and float(said) > self.above)

    def in_words(self) -> str:
        parts = [f"below {self.below:g}"] if self.below is not None else []
        parts += [f"above {self.above:g}"] if self.above is not None else []
        return f"{self.value} " + " or ".join([*parts, *self.words])


@dataclass(frozen=True)
class Plan:
    """What study.yaml declares."""

    claim: Claim
    patients: int
    exclusions: tuple[Exclusion, ...] = ()
    looks: int = 1

    @staticmethod
    def of(plain: Any) -> Plan:
        """Strictly from plain data; raises ValueError with the line to type."""
        known = ("claim", "patients", "exclusions", "looks")
        if not isinstance(plain, Mapping):
            raise ValueError(
                "A study is a block of keys. Write: claim: {...}, patients: 60, exclusions: [...], looks: 1"
            )
        for key in plain:
            if key not in known:
                raise unknown("key of a study", str(key), list(known))
        patients, looks = plain.get("patients"), plain.get("looks", 1)
        if type(patients) is not int or patients < SMALLEST:
            raise ValueError(f"patients is {patients!r}, expected at least {SMALLEST}. Write: patients: 60")
        if type(looks) is not int or not 1 <= looks <= 10:
            raise ValueError(f"looks is {looks!r}, expected 1 to 10. Write: looks: 1")
        rules = plain.get("exclusions", [])
        if not isinstance(rules, list):
            raise ValueError("exclusions is a list of rules. Write: exclusions: [{value: age, below: 18}]")
        claim = Claim.of(plain.get("claim"))
        if claim.against not in ("competitor", "goal") or claim.arm or claim.endpoint not in endpoints.BETTER:
            raise ValueError(
                "A study is against the run's own baseline or a goal. Write: against: competitor, or: goal"
            )
        return Plan(claim, patients, tuple(map(Exclusion.of, rules)), looks)

    def due(self, look: int) -> int:
        """Patients that look number 1, 2, ... needs: even shares of all."""
        return -(-self.patients * look // self.looks)

"""A figure with what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


class Result(float):
    """A number that carries its interval, its p value and how it was made; a plain float to whoever wants only that.

    `n` counts the units that it rests on (patients where patients are known), `convention` names the variant of the
    method, `details` holds further figures by name. Frozen.
    """

    __slots__ = ("convention", "details", "interval", "n", "p_value", "standard_error")

    interval: tuple[float, float] | None
    p_value: float | None
    standard_error: float | None
    n: int
    convention: str
    details: Mapping[str, Any]

    def __new__(
        cls, value: float, n: int, convention: str, *, interval: tuple[float, float] | None = None,
        p_value: float | None = None, standard_error: float | None = None, details: Mapping[str, Any] | None = None,
    ) -> Result:  # fmt: skip
        made = super().__new__(cls, value)
        given = {
            "n": n, "convention": convention, "interval": interval, "p_value": p_value,
            "standard_error": standard_error, "details": MappingProxyType(dict(details or {})),
        }  # fmt: skip
        for name, known in given.items():
            object.__setattr__(made, name, known)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """For processes and copies."""
        known = self.interval, self.p_value, self.standard_error, dict(self.details)
        return _restored, (float(self), self.n, self.convention, *known)

    @property
    def value(self) -> float:
        return float(self)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"A result is frozen; {name} cannot be set.")

    def __repr__(self) -> str:
        known = {"interval": self.interval, "p_value": self.p_value, "standard_error": self.standard_error}
        shown = "".join(f", {k}={v}" for k, v in known.items() if v is not None)
        return f"Result({float(self):.6g}, n={self.n}{shown}, {self.convention!r})"


def _restored(
    value: float, n: int, convention: str, interval: tuple[float, float] | None, p_value: float | None,
    standard_error: float | None, details: dict[str, Any],
) -> Result:  # fmt: skip
    return Result(
        value, n, convention, interval=interval, p_value=p_value, standard_error=standard_error, details=details
    )


@dataclass
class Row:
    """One metric of one image of one case, by the model or by a competitor."""

    case: str
    patient: str
    contrast: str
    by: str  # "model: draw", "model: mean of draws", "input copied", ...
    metric: str
    value: float | str  # text when not evaluated
    unit: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure over all patients of a stage."""

    stage: str
    by: str
    name: str
    value: float | str  # text when not evaluated
    interval: tuple[float, float] | None
    n: int
    convention: str

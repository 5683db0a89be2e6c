"""Sentences measured by their facts: what is right, what is invented, what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Facts = Mapping[str, str]  # attribute -> what is said of it
NOTHING = {"count": "no"}


def wording_figures(
    said: Sequence[str], true: Sequence[str], read: Sequence[Facts], facts: Sequence[Facts]
) -> dict[str, float]:
    """Of the slices of a case: texts as they are and the facts read from them, said and true.

    `exact sentences` is a share of all slices; precision and recall are of facts, in slices that show something;
    `invented` is the share of empty slices in which something is said, `omitted` of others in which nothing is. A
    figure without slices to count is left out.
    """
    figures = {
        "exact sentences": _mean([a.strip().lower() == b.strip().lower() for a, b in zip(said, true, strict=True)])
    }
    pairs = list(zip(read, facts, strict=True))
    shown = [(a, b) for a, b in pairs if dict(b) != NOTHING]
    empty = [a for a, b in pairs if dict(b) == NOTHING]
    right = sum(len(a.items() & b.items()) for a, b in shown)
    if shown:
        figures["fact precision"] = right / max(1, sum(len(a) for a, _ in shown))
        figures["fact recall"] = right / sum(len(b) for _, b in shown)
        figures["omitted"] = _mean([dict(a) == NOTHING for a, _ in shown])
    if empty:
        figures["invented"] = _mean([dict(a) != NOTHING for a in empty])
    return figures


def obeyed(read: Sequence[Facts], asked: Sequence[Facts]) -> float | None:
    """Share of the facts asked for that drawn images show; None where nothing was asked for."""
    total = sum(len(b) for b in asked)
    return sum(len(a.items() & b.items()) for a, b in zip(read, asked, strict=True)) / total if total else None


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / max(1, len(values))

"""Words of descriptions that name no one: what is imaged, how, and where in the body (PS3.15 E.3.5)."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

NUMBER = re.compile(r"\d{1,2}(\.\d{1,2})?(mm|s|d|x)?|[23]d")


@cache
def known() -> frozenset[str]:
    """Of `words.txt`; those that contrasts and label maps are recognised by are among them."""
    return frozenset((Path(__file__).parent / "words.txt").read_text().split())


@cache
def technical() -> frozenset[str]:
    """Attributes of `technical.txt`: their text is of a machine or a code, never of a person."""
    return frozenset((Path(__file__).parent / "technical.txt").read_text().split())


def cleaned(text: str) -> str:
    """The known words of a text, and its short numbers where a known word stands beside them; nothing else."""
    parts = re.split(r"[^A-Za-z0-9.*+]+", text)
    kept = [part for part in parts if part.casefold() in known() or NUMBER.fullmatch(part.casefold())]
    return " ".join(kept) if any(part.casefold() in known() for part in kept) else ""

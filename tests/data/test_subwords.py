"""Subwords: texts there and back, the same on every machine, and what cannot be understood is said."""

import hashlib

import pytest
import torch

from fabrica.data.findings import PLACES, SIDES, Lesion, sentence
from fabrica.data.subwords import Subwords, learned_from

TEXTS = [sentence([Lesion(d, s, p)] * n) for d in (3, 10, 20) for s in SIDES for p in PLACES for n in (0, 1, 2, 3, 5)]


@pytest.fixture(scope="module")
def learned() -> str:
    return learned_from(TEXTS, 128)


def test_texts_come_back(learned: str) -> None:
    words = Subwords(learned, 24)
    for row, text in zip(words.words(TEXTS), TEXTS, strict=True):
        assert words.text(row) == text.lower()
    assert words.words(TEXTS).shape == (len(TEXTS), 24)
    assert words.words([""]).tolist() == [[0] * 24]
    assert words.text(torch.zeros(24, dtype=torch.long)) == ""


def test_what_is_learned_is_the_same_in_any_order(learned: str) -> None:
    assert learned_from(reversed(TEXTS), 128) == learned
    assert (
        hashlib.sha256(learned.encode()).hexdigest()
        == hashlib.sha256(learned_from(TEXTS * 2, 128).encode()).hexdigest()
    )


def test_what_cannot_be_understood_is_said(learned: str) -> None:
    words = Subwords(learned, 24)
    assert words.fault(TEXTS[7]) == words.fault("  ") == ""
    assert words.fault(TEXTS[7].upper()) == ""
    assert "training saw no such words" in words.fault("Zebra crossing, 12 km")
    assert "reads 4" in Subwords(learned, 4).fault(TEXTS[7])


def test_texts_that_teach_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="No training case has a text"):
        learned_from(["", "  "], 128)
    with pytest.raises(ValueError, match="Write: words: "):
        learned_from(["abcdefghijklmnopqrstuvwxyz"], 16)

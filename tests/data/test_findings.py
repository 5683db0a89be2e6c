"""Findings: known answers, every fact of a sentence read back, sides that follow the patient."""

import itertools

import numpy as np
import pytest

from fabrica.data.findings import NONE, PLACES, SIDES, Lesion, described, facts_of, lesions_of, sentence

LPS = np.array([[0, 0, 2, 0], [0, 2, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1.0]])  # 2 mm; x runs to the left, y to the back


def _mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((40, 40), bool)
    for y0, y1, x0, x1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


@pytest.mark.parametrize(
    ("boxes", "text"),
    [
        ([], NONE),
        ([(5, 6, 5, 6)], NONE),  # one voxel
        ([(5, 7, 3, 5)], "One lesion: small, right, anterior."),  # 4 voxels of 4 mm2: a disc of 4.5 mm
        ([(30, 34, 34, 38)], "One lesion: medium, left, posterior."),  # 9.0 mm
        ([(15, 25, 15, 25)], "One lesion: large, midline, central."),  # 22.6 mm
        ([(30, 34, 34, 38), (5, 7, 34, 36)], "Two lesions, all left; the largest: medium, left, posterior."),
        ([(30, 34, 34, 38), (5, 7, 3, 5), (5, 7, 34, 36)], "Three lesions, on both sides; the largest: medium, left, posterior."),
        ([(5, 7, x, x + 2) for x in (2, 8, 27, 33)], "Several lesions, on both sides; the largest: small, right, anterior."),
    ],
)  # fmt: skip
def test_known_slices(boxes: list[tuple[int, int, int, int]], text: str) -> None:
    assert described(_mask(*boxes), LPS) == text


def test_a_flipped_slice_is_another_side_and_a_flipped_axis_the_same() -> None:
    mask = _mask((5, 9, 3, 7))
    assert "right" in described(mask, LPS)
    assert "left" in described(mask[:, ::-1], LPS)
    turned = LPS.copy()
    turned[0, 2], turned[0, 3] = -2, 78
    assert described(mask[:, ::-1], turned) == described(mask, LPS)


def test_parts_that_touch_at_a_corner_are_one_lesion() -> None:
    (one,) = lesions_of(_mask((5, 7, 5, 7), (7, 9, 7, 9)), LPS)
    assert one.diameter_mm == pytest.approx(2 * np.sqrt(32 / np.pi))


def test_every_fact_of_a_sentence_is_read_back() -> None:
    for diameter, side, place, count in itertools.product((3.0, 9.0, 30.0), SIDES, PLACES, (1, 2, 3, 6)):
        facts = facts_of(sentence([Lesion(diameter, side, place)] * count))
        size = {3.0: "small", 9.0: "medium", 30.0: "large"}[diameter]
        wanted = {
            "count": {1: "one", 2: "two", 3: "three", 6: "several"}[count],
            "size": size,
            "side": side,
            "place": place,
        }
        assert facts == wanted | ({} if count == 1 else {"sides": "one"})
    assert facts_of(NONE) == {"count": "no"}


def test_of_broken_sentences_what_is_left_is_read() -> None:
    assert facts_of("two lesions, on both") == {"count": "two", "sides": "both"}
    assert facts_of("large. left") == {"size": "large", "side": "left"}
    assert facts_of("") == facts_of("zebra") == {}

"""Pictures gathered in a run: what the set shows, and what it cannot."""

import numpy as np
import pytest

from fabrica.evaluate.sets.gallery import Gallery
from fabrica.evaluate.sets.realism import LEAST


def _image(seed: int, level: float = 1.0, shape: tuple[int, ...] = (1, 24, 24)) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[-2], : shape[-1]]
    disc = np.hypot(rows - rng.uniform(10, 14), columns - rng.uniform(10, 14)) < rng.uniform(6, 8)
    return (level * disc + 0.1 * rng.normal(size=shape)).astype(np.float32)


def _gallery(drawn: list[np.ndarray], most: int = 60) -> Gallery:
    gallery = Gallery(most, (1.0, 1.0, 1.0))
    for i, x in enumerate(drawn):
        gallery.add(f"p{i}", f"p{i}", x, _image(3000 + i), {"class": i % 2})
    return gallery


def test_likeness_and_difference_are_told_apart() -> None:
    alike, missing = _gallery([_image(i) for i in range(24)]).realism(0)
    other, _ = _gallery(
        [_image(i) + 0.4 * np.random.default_rng(i).normal(size=(1, 24, 24)) for i in range(24)]
    ).realism(0)
    assert alike is not None
    assert other is not None
    assert missing == ["memorised share: needs --training, the images that the generator learned from."]
    assert alike.sentence().startswith("By none of 3 embeddings")
    assert other.sentence().startswith(("Generated differ", "The embeddings disagree"))
    assert max(t.p_value for t in other.tests if t.embedding != "thumbnail") < 0.01


def test_copies_of_training_are_seen() -> None:
    training = [_image(i) for i in range(30)]
    gallery = _gallery(training[:24])
    gallery.add_training((f"t{i}", f"t{i}", x, {}) for i, x in enumerate(training))
    found, _ = gallery.realism(0)
    assert found is not None
    assert found.authentic["thumbnail"]["generated"] < 0.1
    assert (
        found.authentic["thumbnail"]["holdout"] > 0.3
    )  # test patients, whom training did not see, are the expectation
    assert not any("memorised" in line or "--" in line for line in found.not_evaluated)


def test_no_null_is_said() -> None:
    found, missing = _gallery([_image(i) for i in range(LEAST + 1)]).realism(0)
    assert found is not None
    assert not found.distances
    assert any(f"needs at least {LEAST} generated and {2 * LEAST} real" in line for line in missing)


def test_too_few_say_so_and_blank_draws_are_counted() -> None:
    gallery = _gallery([np.zeros((1, 24, 24), np.float32), *(_image(i) for i in range(LEAST - 2))])
    found, missing = gallery.realism(0)
    assert found is None
    assert missing[0].startswith("1 images are constant")
    assert f"at least {LEAST} test patients" in missing[1]
    same = Gallery(9, (1.0, 1.0, 1.0))
    for i in range(8):
        same.add(str(i), str(i), _image(3), _image(3), {})
    assert "all the same" in same.realism(0)[1][0] or "the same to" in same.realism(0)[1][0]


def test_no_more_than_asked_and_volumes() -> None:
    gallery = _gallery([_image(i, shape=(4, 24, 24)) for i in range(9)], most=7)
    assert gallery.full
    assert len(gallery.drawn) == len(gallery.real) == 7
    assert gallery.drawn[0].values.ndim == 3
    assert gallery.drawn[0].spacing_mm == (1.0, 1.0, 1.0)
    gallery.add_training((str(i), str(i), _image(i), {}) for i in range(20))
    assert len(gallery.training) == 7


@pytest.mark.parametrize("obeys", [True, False])
def test_whether_draws_are_what_was_asked_for(obeys: bool) -> None:
    gallery = Gallery(60, (1.0, 1.0, 1.0))
    for i in range(40):
        level = 1.0 + (i % 2)
        gallery.add(
            f"p{i}", f"p{i}", _image(i, level if obeys else 3 - level), _image(500 + i, level), {"class": i % 2}
        )
    found, missing = gallery.adherence({"class": None}, 0)
    assert not missing
    thumbnail = next(a for a in found if a.embedding == "thumbnail")
    assert thumbnail.measure.startswith("class: ")
    assert thumbnail.real > 0.9
    assert thumbnail.generated > 0.9 if obeys else thumbnail.generated < 0.1
    assert "differ in it" in _gallery([_image(i) for i in range(4)]).adherence({"class": None}, 0)[1][0]


def test_other_draws_of_the_same_cases() -> None:
    gallery = _gallery([_image(i) for i in range(20)])
    near, far = (gallery.distances(_gallery([_image(50 + i, s) for i in range(20)]).drawn) for s in (1.0, 2.0))
    assert set(near) == {f"kernel distance, {n}" for n in ("radiomics", "spectrum", "thumbnail")}
    assert near["kernel distance, thumbnail"] < far["kernel distance, thumbnail"]
    assert gallery.distances(gallery.drawn[:3]) == {}

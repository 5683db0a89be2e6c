"""Work spread over cores: order, errors, and pictures that are made when their turn comes."""

import os
from dataclasses import replace

import numpy as np
import pytest

from fabrica.evaluate.sets.embedding import Changed, Picture, bin_width, embed, read, standardised, usable
from fabrica.evaluate.threads import side_by_side


def _picture(i: int) -> Picture:
    values = np.random.default_rng(i).normal(100, 20, (24, 24))
    return Picture(f"p{i}", f"p{i}", values, np.ones((24, 24), bool), (1.0, 1.0))


@pytest.mark.parametrize("cores", [1, 2, 7])
def test_order_and_errors(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert side_by_side(lambda i: i * i, range(50)) == [i * i for i in range(50)]
    assert side_by_side(lambda i: i, []) == []

    def fails(i: int) -> int:
        if i == 3:
            raise ValueError("the fourth")
        return i

    with pytest.raises(ValueError, match="the fourth"):
        side_by_side(fails, range(9))


def test_changed_pictures_are_made_once_for_all_embeddings() -> None:
    pictures, made = [_picture(i) for i in range(6)], []

    def change(picture: Picture) -> Picture:
        made.append(picture.name)
        return replace(picture, values=picture.values + 5)

    changed = Changed(pictures, change)
    assert (len(changed), made) == (6, [])
    how = usable({"x": pictures})
    features = read(changed, how, 4.0)
    assert sorted(made) == [p.name for p in pictures]
    plain = read([change(p) for p in pictures], how, 4.0)
    assert features.keys() == plain.keys() == how.keys()
    for name in how:
        np.testing.assert_array_equal(features[name], plain[name])
    assert [p.name for p in changed[2:4]] == ["p2", "p3"]


def test_embed_is_reading_and_standardising_and_the_users_own_is_read_in_turn() -> None:
    sets = {"x": [_picture(i) for i in range(5)], "y": [_picture(i) for i in range(9, 15)]}
    order: list[str] = []

    def own(picture: Picture, width: float) -> np.ndarray:
        order.append(picture.name)
        return np.array([picture.values.mean(), picture.values.std() / width])

    more = {"mine": own}
    width = bin_width(list(sets.values()))
    for name in ("radiomics", "mine"):
        raw = {k: read(v, {name: usable(sets, more)[name]}, width)[name] for k, v in sets.items()}
        for side, rows in standardised(raw, name).items():
            np.testing.assert_array_equal(rows, embed(sets, name, more)[side])
    assert order[:5] == [f"p{i}" for i in range(5)]
    pooled = np.concatenate(list(embed(sets, "mine", more).values()))
    np.testing.assert_allclose([pooled.mean(0), pooled.std(0)], [[0, 0], [1, 1]], atol=1e-9)

"""Each embedding sees what it is there for, and no side is favoured."""

import numpy as np
import pytest
from scipy import ndimage

from fabrica.evaluate.sets.embedding import EMBEDDINGS, Picture, bin_width, embed


def _set(count: int, seed: int, change: str = "", axes: int = 2) -> list[Picture]:
    rng, pictures = np.random.default_rng(seed), []
    for i in range(count):
        image = ndimage.gaussian_filter(rng.normal(size=(48,) * axes), 2) * 60 + 100
        image += 4 * rng.normal(size=image.shape)
        if change == "blur":
            image = ndimage.gaussian_filter(image, 0.6)
        if change == "checkerboard":
            image += 3 * (np.indices(image.shape).sum(0) % 2)
        if change == "mirrored shade":
            image += np.linspace(-30, 30, 48)
        pictures.append(Picture(f"{i}", f"p{i}", image, np.ones(image.shape, bool), (1.0,) * axes))
    return pictures


def _distance(name: str, change: str) -> float:
    found = embed({"x": _set(12, 1, change), "y": _set(12, 2)}, name)
    return float(((found["x"].mean(0) - found["y"].mean(0)) ** 2).max())


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_sets_of_one_source_are_near_and_faults_are_far(name: str) -> None:
    null = _distance(name, "")
    seen = {change: _distance(name, change) / null for change in ("blur", "checkerboard", "mirrored shade")}
    wanted = {
        "radiomics": ("blur", "checkerboard"),
        "spectrum": ("blur", "checkerboard"),
        "thumbnail": ("mirrored shade",),
    }
    for change in wanted[name]:
        assert seen[change] > 3, (change, seen)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_order_and_sides_do_not_matter_and_units_neither(name: str) -> None:
    x, y = _set(4, 1), _set(5, 2, "blur")
    one, other = embed({"x": x, "y": y}, name), embed({"y": y, "x": x[::-1]}, name)
    np.testing.assert_allclose(one["x"][::-1], other["x"], atol=1e-9)
    scaled = [[Picture(p.name, p.patient, 7 * p.values, p.inside, p.spacing_mm) for p in s] for s in (x, y)]
    again = embed({"x": scaled[0], "y": scaled[1]}, name)
    if name != "radiomics":  # energy and the like have units
        np.testing.assert_allclose(again["x"], one["x"], atol=1e-6)
    assert np.isfinite(one["x"]).all()


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_volumes(name: str) -> None:
    found = embed({"x": _set(3, 1, axes=3), "y": _set(3, 2, axes=3)}, name)
    assert found["x"].shape == found["y"].shape
    assert np.isfinite(found["x"]).all()


def test_what_cannot_be_embedded_is_said() -> None:
    flat = [Picture("a", "a", np.ones((20, 20)), np.ones((20, 20), bool), (1.0, 1.0))] * 2
    with pytest.raises(ValueError, match="constant"):
        bin_width([flat])
    same = _set(1, 1) * 3
    with pytest.raises(ValueError, match="the same"):
        embed({"x": same, "y": same}, "spectrum")

"""Sums along beams in closed form, targets of levels, a first guess that is as high as prescribed."""

import numpy as np
import pytest
import torch

from fabrica.contracts import Field, Image
from fabrica.data.beams import ANGLES, Anatomy, check_axial, met, nested
from fabrica.data.beams_compiled import _swept, along
from fabrica.io import UnreadableError

AFFINE = np.array([[0, 0, 3.0, 0], [0, 3.0, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 1]])  # z up, y back, x left


def anatomy(levels: dict[str, float] | None = None, **masks: np.ndarray) -> Anatomy:
    z, y, x = np.indices((12, 60, 60))
    body = np.hypot(y - 30, x - 30) < 25
    far = np.sqrt((2.5 * (z - 6)) ** 2 + (3.0 * (y - 28)) ** 2 + (3.0 * (x - 33)) ** 2)
    drawn = masks or {"PTV70": far < 10, "PTV56": far < 20, "Cord": np.hypot(y - 45, x - 30) < 2}
    return Anatomy(
        np.where(body, 0.0, -1000.0).astype(np.float32), drawn, body, AFFINE, levels or {"PTV70": 70.0, "PTV56": 56.0}
    )


@pytest.mark.parametrize("angle", range(0, 360, 17))
def test_what_lies_before_a_voxel_is_its_depth(angle: int) -> None:
    """In an even disc, along any direction: the way from the edge."""
    y, x = np.indices((101, 101))
    disc = (np.hypot(y - 50, x - 50) * 2.0 < 80).astype(np.float32)[None, None]
    down, across = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    found = along(disc, down, across, 2.0, 2.0)[0, 0]
    for py, px in ((50, 50), (40, 62), (65, 38)):
        place = 2.0 * np.array([py - 50, px - 50])
        way = np.array([down, across])
        side = place - (place @ way) * way
        assert found[py, px] == pytest.approx(place @ way + np.sqrt(80**2 - side @ side), abs=2.5)


def test_pixels_need_not_be_square() -> None:
    wall = np.ones((1, 1, 40, 60), np.float32)
    assert along(wall, 1.0, 0.0, 5.0, 2.0)[0, 0, 39, 30] == pytest.approx(39.5 * 5.0, rel=1e-5)
    assert along(wall, 0.0, -1.0, 5.0, 2.0)[0, 0, 20, 0] == pytest.approx(59.5 * 2.0, rel=1e-5)


def test_a_level_that_is_missing_is_as_the_next() -> None:
    _, y, x = np.indices((12, 60, 60))
    wide, narrow = np.abs(x - 30) < 9, np.abs(x - 30) < 3
    levels = {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}
    found = nested(anatomy(levels, PTV63=narrow, PTV56=wide))
    assert [level for level, _ in found] == [63, 63, 56]
    assert [int(m.sum()) for _, m in found] == [int(narrow.sum()), int(narrow.sum()), int(wide.sum())]
    apart = nested(anatomy(levels, PTV70=narrow, PTV56=np.abs(y - 30) < 3))
    assert int(apart[2][1].sum()) == int((narrow | (np.abs(y - 30) < 3)).sum())
    assert nested(anatomy(levels, Cord=narrow)) == []


def test_nothing_is_guessed_higher_than_what_is_prescribed() -> None:
    """A patient without the highest level: his targets get what they are prescribed, not the plan of somebody else."""
    _, _, x = np.indices((12, 60, 60))
    levels = {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}
    a = anatomy(levels, PTV63=np.abs(x - 30) < 4, PTV56=np.abs(x - 30) < 9)
    assert [level for level, _ in nested(a)] == [63, 63, 56]
    guess = met(a, nested(a), a.body()).guess_gy
    assert float(guess[a.masks["PTV63"] & a.possible].mean()) == pytest.approx(63, rel=0.05)


def test_the_guess_is_as_high_as_prescribed_in_each_target() -> None:
    a = anatomy()
    found = met(a, nested(a), a.body())
    high, low = a.masks["PTV70"], a.masks["PTV56"] & ~a.masks["PTV70"]
    assert float(found.guess_gy[high].mean()) == pytest.approx(70, rel=0.12)
    assert 50 < float(found.guess_gy[low].mean()) < 66
    beside = a.possible & ~a.masks["PTV56"]
    assert float(found.guess_gy[beside].mean()) < 0.6 * 56
    assert found.water_mm.shape[0] == len(ANGLES)
    assert found.hits[0].max() == pytest.approx(len(ANGLES))


def test_where_beams_come_from_follows_the_patient_not_the_array() -> None:
    """A volume stored from back to front meets the same beams."""
    a = anatomy()
    turned = AFFINE.copy()
    turned[1, 1], turned[1, 3] = -3.0, 59 * 3.0
    masks = {n: m[:, ::-1] for n, m in a.masks.items()}
    b = Anatomy(a.hounsfield[:, ::-1], masks, a.possible[:, ::-1], turned, a.levels)
    one, other = (met(k, nested(k), k.body()) for k in (a, b))
    np.testing.assert_allclose(one.water_mm, other.water_mm[:, :, ::-1], atol=1e-3)
    np.testing.assert_allclose(one.guess_gy, other.guess_gy[:, ::-1], atol=1e-3)


def test_slices_along_the_patient_are_refused() -> None:
    sagittal = torch.tensor(AFFINE[:, [2, 1, 0, 3]])
    with pytest.raises(UnreadableError, match="do not lie across the patient"):
        check_axial(Image(torch.zeros(1, 4, 4, 4), "zyx", sagittal, Field("CT", "intensity", 1, "HU")))


@pytest.mark.parametrize("down", [0.9, -0.9])
def test_the_compiled_sweep_is_the_one_that_is_written(down: float) -> None:
    fields = np.random.default_rng(0).random((2, 2, 7, 9)).astype(np.float32)
    across = float(np.sqrt(1 - down**2))
    plain = _swept.py_func(fields, down, across, 3.0, 2.0)
    np.testing.assert_allclose(plain, _swept(fields, down, across, 3.0, 2.0), rtol=1e-5)

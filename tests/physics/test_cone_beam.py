"""Cone-beam projections in closed form, and what FDK makes of them: levels, places, the cone's reach."""

import numpy as np
import pytest

from fabrica.physics import cone_rays
from fabrica.physics.cone_beam import Panel, angles, projected, reconstructed

SPACING = (3.0, 3.0, 3.0)
SHAPE = (24, 60, 60)
PANEL = Panel(rows=40, columns=96, pixel_mm=4.0)
TURNS = angles(120)


def ball(radius: float, centre: tuple[float, float, float] = (0, 0, 0), shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """Shares of voxels within a ball, in mm from the middle of the volume: z, y, x."""
    fine = 3
    lines = [
        ((np.arange(n * fine) + 0.5) / fine - 0.5 - (n - 1) / 2) * s - c
        for n, s, c in zip(shape, SPACING, centre, strict=True)
    ]
    z, y, x = np.meshgrid(*lines, indexing="ij")
    inside = (z**2 + y**2 + x**2 < radius**2).astype(np.float32)
    return inside.reshape(shape[0], fine, shape[1], fine, shape[2], fine).mean((1, 3, 5))


def test_the_ray_through_the_middle_of_a_ball_is_its_diameter() -> None:
    found = projected(0.02 * ball(30), SPACING, PANEL, TURNS)
    middle = found[:, 19:21, 47:49].mean((1, 2))
    np.testing.assert_allclose(middle, 0.02 * 60, rtol=0.02)
    assert not found[:, :, 0].any()


@pytest.mark.parametrize("turn", [0.0, np.pi / 2, 2.2])
def test_a_ball_off_the_axis_casts_its_shadow_where_the_geometry_says(turn: float) -> None:
    """The source stands in front (-y) at 0 and goes to the left (+x)."""
    place = (12.0, -20.0, 35.0)
    found = projected(ball(9, place), SPACING, PANEL, np.array([turn]))[0]
    rows, columns = np.indices(found.shape)
    v, u = (float((found * k).sum() / found.sum()) for k in (rows, columns))
    source = 1000 * np.array([-np.cos(turn), np.sin(turn)])
    along = -source / 1000
    across = np.array([np.sin(turn), np.cos(turn)])
    away = np.array(place[1:]) - source
    scale = 1536 / float(away @ along)
    assert u == pytest.approx(float(away @ across) * scale / 4 + 47.5, abs=0.3)
    assert v == pytest.approx(place[0] * scale / 4 + 19.5, abs=0.3)


def test_levels_come_back() -> None:
    volume = 0.02 * ball(30) + 0.01 * ball(9, (0, 30, -40))
    found = reconstructed(projected(volume, SPACING, PANEL, TURNS), PANEL, TURNS, SHAPE, SPACING)
    inner = ball(24) > 0.99
    assert float(found[inner].mean()) == pytest.approx(0.02, rel=0.02)
    assert float(np.abs(found[inner] - 0.02).max()) < 0.002
    small = ball(5, (0, 30, -40)) > 0.99
    assert float(found[small].mean()) == pytest.approx(0.01, rel=0.06)
    empty = (ball(40) < 0.01) & (ball(16, (0, 30, -40)) < 0.01)
    assert float(np.abs(found[6:18][empty[6:18]]).mean()) < 4e-4


def test_a_shift_of_the_patient_moves_the_image() -> None:
    volume = 0.02 * ball(20)
    shifts = np.zeros((len(TURNS), 3))
    shifts[:, 2] = 9.0
    found = reconstructed(projected(volume, SPACING, PANEL, TURNS, shifts), PANEL, TURNS, SHAPE, SPACING)
    x = (np.arange(60) - 29.5) * 3
    centre = float((found[12, 29:31] * x).sum() / found[12, 29:31].sum())
    assert centre == pytest.approx(9.0, abs=0.8)


def test_a_narrow_panel_keeps_the_middle() -> None:
    """What is cut is continued smoothly: no bright ring at the end of what is seen."""
    volume = 0.02 * ball(60, shape=(12, 60, 60))
    narrow = Panel(rows=24, columns=36, pixel_mm=4.0)
    found = reconstructed(projected(volume, SPACING, narrow, TURNS), narrow, TURNS, (12, 60, 60), SPACING)
    assert float(found[6, 24:36, 24:36].mean()) == pytest.approx(0.02, rel=0.25)


def test_impossible_panels_are_refused() -> None:
    with pytest.raises(ValueError, match="behind the axis"):
        Panel(panel_mm=900)


def test_the_compiled_rays_are_those_that_are_written() -> None:
    rng = np.random.default_rng(0)
    volume, spacing = rng.random((4, 7, 6)).astype(np.float32), np.array([3.0, 3.0, 2.5])
    turns, moved = np.array([0.0, 2.0]), np.array([[0.0, 0, 0], [1.0, -2, 0.5]])
    told = (volume, spacing, turns, moved, (8, 9), (4.0, 1000.0, 1536.0), 1.5)
    plain = cone_rays.summed.py_func(*told)
    np.testing.assert_allclose(plain, cone_rays.summed(*told), rtol=1e-4, atol=1e-5)
    for place in ((1.2, 3.4, 2.2), (-0.5, 0.0, 5.5), (3.9, 6.6, -0.3)):
        assert cone_rays._sample.py_func(volume, *place) == pytest.approx(cone_rays._sample(volume, *place))
    back = (rng.random((2, 8, 9)).astype(np.float32), turns, np.array([4, 7, 6]), spacing, 2.6, 1000.0)
    np.testing.assert_allclose(cone_rays.brought_back.py_func(*back), cone_rays.brought_back(*back), rtol=1e-4)

"""Polygons against scikit-image and closed forms; holes, gaps, planes between slices; and back."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.draw import polygon2mask

from fabrica.io.radiotherapy.contours import filled, keyholed, outlines, voxels


@pytest.mark.parametrize("seed", range(20))
def test_polygons_as_an_independent_library_fills_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    turn = np.sort(rng.uniform(0, 2 * np.pi, 40))
    far = rng.uniform(5, 24, 40)
    points = np.column_stack([31.3 + far * np.sin(turn), 29.7 + far * np.cos(turn)])
    np.testing.assert_array_equal(filled([points], (64, 60)), polygon2mask((64, 60), points))


def test_a_circle_has_its_area() -> None:
    turn = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    circle = np.column_stack([100.2 + 80 * np.sin(turn), 99.4 + 80 * np.cos(turn)])
    assert filled([circle], (200, 200)).sum() == pytest.approx(np.pi * 80**2, rel=1e-3)


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none_out() -> None:
    left = np.array([[2, 2], [2, 7], [12, 7], [12, 2]], float)
    right = np.array([[2, 7], [2, 11], [12, 11], [12, 7]], float)
    both = filled([left], (16, 16)).astype(int) + filled([right], (16, 16))
    assert both.max() == 1
    assert both.sum() == 10 * 9


def test_a_hole_as_a_keyhole_and_as_a_contour_of_its_own() -> None:
    outer = np.array([[2, 2], [2, 17], [17, 17], [17, 2]], float) + 0.5
    inner = np.array([[6, 6], [6, 12], [12, 12], [12, 6]], float) + 0.5
    keyhole = np.concatenate([outer, outer[:1], inner[:1], inner[::-1], outer[:1]])
    ring = filled([outer, inner], (20, 20))
    np.testing.assert_array_equal(filled([keyhole], (20, 20)), ring)
    assert ring.sum() == 15 * 15 - 6 * 6
    assert not ring[9, 9]
    assert ring[4, 4]


def test_points_outside_the_image_are_cut() -> None:
    wide = np.array([[-5, -5], [-5, 30], [30, 30], [30, -5]], float)
    assert filled([wide], (8, 9)).all()


@pytest.mark.parametrize("seed", range(6))
def test_outlines_give_the_volume_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.standard_normal((9, 40, 37)), (1, 2, 2)) > 0.02
    again = voxels(outlines(mask), mask.shape, (3.0, 1.0, 1.0))
    np.testing.assert_array_equal(again, mask)  # holes, islands, edges of the image and all


def test_outlines_hold_no_point_on_a_straight_line() -> None:
    box = np.zeros((3, 30, 30), bool)
    box[1, 5:25, 5:25] = True
    (line,) = outlines(box)
    assert len(line) == 8  # a square with its corners cut


def _ball(places: np.ndarray, radius: float = 10.0, centre: float = 15.0) -> list[np.ndarray]:
    turn = np.linspace(0, 2 * np.pi, 300, endpoint=False)
    lines = []
    for z in places:
        if (squared := radius**2 - (z - centre) ** 2) > 0:
            r = np.sqrt(squared)
            lines.append(np.column_stack([np.full(300, z), 20 + r * np.sin(turn), 20 + r * np.cos(turn)]))
    return lines


@pytest.mark.parametrize("places", [np.arange(0, 30, 3.0), np.arange(0, 30, 0.5), np.arange(0.3, 30, 1.0)])
def test_contours_on_other_planes_than_the_slices(places: np.ndarray) -> None:
    """Every third slice, twice as fine, and between the slices: a ball of the same volume."""
    z, y, x = np.indices((30, 40, 40))
    ball = (z - 15) ** 2 + (y - 20) ** 2 + (x - 20) ** 2 < 100
    mask = voxels(_ball(places), (30, 40, 40), (1.0, 1.0, 1.0))
    assert 2 * (mask & ball).sum() / (mask.sum() + ball.sum()) > 0.95
    assert mask.sum() == pytest.approx(ball.sum(), rel=0.05)


def test_a_gap_parts_two_pieces() -> None:
    lines = [line for z in (3, 4, 5, 12, 13) for line in _ball(np.array([float(z)]), 4.0, float(z))]
    mask = voxels(lines, (20, 40, 40), (1.0, 1.0, 1.0))
    assert np.flatnonzero(mask.any((1, 2))).tolist() == [3, 4, 5, 12, 13]


def test_a_contour_that_is_there_twice_counts_once() -> None:
    lines = _ball(np.array([15.0]))
    once, twice = (voxels(n, (30, 40, 40), (1, 1, 1)) for n in (lines, lines * 2))
    assert once.any()
    np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("seed", range(6))
def test_keyholes_hold_the_same_volume(seed: int) -> None:
    """Holes, islands in holes and holes of those: no contour lies in another any more."""
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.standard_normal((5, 60, 57)), (0.5, 2, 2)) > -0.03
    mask[2, 10:50, 10:50] = True
    mask[2, 15:45, 15:45] = False
    mask[2, 20:40, 20:40] = True
    mask[2, 25:35, 25:35] = False
    lines = outlines(mask)
    joined = keyholed(lines)
    assert len(joined) < len(lines)
    np.testing.assert_array_equal(voxels(joined, mask.shape, (1, 1, 1)), mask)

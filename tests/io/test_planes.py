"""Frames become volumes: any order, copies, gaps, tilt, time, mixed orientations."""

import random
from pathlib import Path

import numpy as np
import pytest

from fabrica.io.planes import Plane, stacks

AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))


def plane(
    z: float, frame: int = 0, time: float = 0.0, tilt: float = 0.0, directions=AXIAL, key=(), weight: int = 0
) -> Plane:
    row, column = directions
    normal = np.cross(row, column)
    position = tuple(float(v) for v in normal * z + np.array(column) * tilt * z)
    return Plane(Path("a.dcm"), frame, position, row, column, (0.8, 0.9), 2.0, time, key, frame, weight)


def test_any_order_gives_the_same_volume() -> None:
    planes = [plane(3.0 * i, i) for i in range(9)]
    random.Random(0).shuffle(planes)
    (stack,) = stacks(planes)
    assert [p.frame for p in stack.frames[0]] == list(range(9))
    np.testing.assert_allclose(stack.affine[:3, 0], [0, 0, 3])
    np.testing.assert_allclose(stack.affine[:3, 1], [0, 0.8, 0])
    np.testing.assert_allclose(stack.affine[:3, 2], [0.9, 0, 0])
    assert not stack.remarks


def test_duplicates_are_left_out_and_said() -> None:
    planes = [plane(3.0 * i, i, weight=100) for i in range(4)]
    cut_short = plane(6.0, 9, weight=70)
    for order in ([*planes, cut_short], [cut_short, *planes]):
        (stack,) = stacks(order)
        assert [p.frame for p in stack.frames[0]] == [0, 1, 2, 3]  # of two copies the heavier one is whole
        assert "1 duplicate" in stack.remarks[0]


def test_a_gap_keeps_the_longest_even_run() -> None:
    (stack,) = stacks([plane(z, i) for i, z in enumerate((0.0, 2, 4, 10, 12, 14, 16))])
    assert [p.frame for p in stack.frames[0]] == [3, 4, 5, 6]
    assert "6 mm at 1 gap" in stack.remarks[0]
    assert stack.affine[2, 3] == 10


def test_tilt_stays_in_the_geometry() -> None:
    (stack,) = stacks([plane(5.0 * i, i, tilt=0.3) for i in range(5)])
    np.testing.assert_allclose(stack.affine[:3, 0], [0, 1.5, 5.0])
    assert "tilt" in stack.remarks[0]


def test_moments_become_a_time_axis() -> None:
    (stack,) = stacks([plane(2.0 * z, t * 4 + z, time=t) for t in (2, 0, 1) for z in (3, 1, 0, 2)])
    assert len(stack.frames) == 3
    assert [p.frame for p in stack.frames[1]] == [4, 5, 6, 7]


def test_echoes_and_orientations_are_apart() -> None:
    found = stacks(
        [plane(2.0 * i, i, key=(e,)) for i in range(3) for e in "ab"]
        + [plane(float(i), i, directions=SAGITTAL) for i in range(4)]
    )
    assert sorted(len(s.frames[0]) for s in found) == [3, 3, 4]


def test_incomplete_moments_keep_the_usual_number() -> None:
    planes = [plane(2.0 * z, 10 * t + z, time=t) for t in range(2) for z in range(5)] + [plane(10.0, 99)]
    (stack,) = stacks(planes)
    assert (len(stack.frames), len(stack.frames[0])) == (2, 5)
    assert "positions left out" in stack.remarks[0]


def test_one_slice_uses_its_thickness() -> None:
    (stack,) = stacks([plane(7.0)])
    np.testing.assert_allclose(stack.affine[:3, 0], [0, 0, 2])
    assert np.linalg.det(stack.affine[:3, :3]) == pytest.approx(-2 * 0.8 * 0.9)

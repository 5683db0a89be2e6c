"""Motion in closed form: shifts, turns, scalings; exponentials against a matrix's; folds that are there are counted."""

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from fabrica.physics.warp import (
    blurred,
    carried,
    composed,
    exponential,
    folded,
    jacobian,
    moved,
    smooth_velocity,
)

SPACING = (3.0, 2.0, 1.5)
SHAPE = (16, 24, 28)


def places() -> torch.Tensor:
    """(3, z, y, x) in mm from the middle."""
    lines = [(torch.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    return torch.stack(torch.meshgrid(*lines, indexing="ij"))


def linear(matrix: torch.Tensor) -> torch.Tensor:
    """(1, 3, z, y, x): the matrix applied to places."""
    return torch.einsum("ab,b...->a...", matrix.float(), places())[None]


def test_a_shift_takes_what_lies_where_it_points() -> None:
    image = torch.rand(1, 1, *SHAPE)
    shift = torch.zeros(1, 3, *SHAPE)
    shift[:, 1], shift[:, 2] = 4.0, -3.0  # two rows on, two columns back
    found = moved(image, shift, SPACING)
    torch.testing.assert_close(found[..., :-2, 2:], image[..., 2:, :-2], atol=1e-4, rtol=0)
    labels = (image > 0.5).float()
    assert set(torch.unique(moved(labels, shift / 3, SPACING, nearest=True)).tolist()) <= {0.0, 1.0}


def test_planes_work_as_volumes_do() -> None:
    image = torch.rand(2, 1, 20, 30)
    shift = torch.zeros(2, 2, 20, 30)
    shift[:, 0] = 3.0
    torch.testing.assert_close(moved(image, shift, (1.5, 1.0))[..., :-2, :], image[..., 2:, :], atol=1e-4, rtol=0)


def test_the_exponential_of_a_linear_velocity_is_that_of_its_matrix() -> None:
    """In the middle, which the edges of the grid do not reach."""
    matrix = torch.tensor([[0.02, 0.05, 0.0], [-0.05, 0.02, 0.03], [0.0, -0.03, -0.04]])
    found = exponential(linear(matrix), SPACING)
    expected = linear(torch.from_numpy(expm(matrix.numpy().astype(np.float64)) - np.eye(3)))
    inner = (slice(None), slice(None), slice(5, 11), slice(8, 16), slice(9, 19))
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-2, rtol=0)


def test_the_way_back_is_the_velocity_turned_round() -> None:
    velocity = smooth_velocity(torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(1)), SPACING, 9.0, 5.0)
    there, back = exponential(velocity, SPACING), exponential(-velocity, SPACING)
    left = composed(there, back, SPACING).norm(dim=1)
    assert float(left.mean()) < 0.1
    assert float(left.max()) < 1.0
    assert float(there.norm(dim=1).max()) > 3
    assert folded(there, SPACING) == 0


def test_space_grows_by_the_determinant() -> None:
    matrix = torch.tensor([[0.1, 0.0, 0.0], [0.0, -0.2, 0.1], [0.0, 0.0, 0.05]])
    expected = float(torch.linalg.det(matrix + torch.eye(3)))
    torch.testing.assert_close(jacobian(linear(matrix), SPACING), torch.full((1, *SHAPE), expected), atol=1e-4, rtol=0)


def test_a_fold_is_found() -> None:
    field = torch.zeros(1, 3, *SHAPE)
    field[:, 2, :, :, 14:] = -20.0  # what lies to the right is thrown over what lies to the left
    assert 0 < folded(field, SPACING) < 0.2


def test_energy_is_kept_where_space_grows() -> None:
    dose = torch.ones(1, 1, *SHAPE)
    field = linear(torch.diag(torch.tensor([0.1, 0.1, 0.1])))
    torch.testing.assert_close(carried(dose, field, SPACING), dose)
    torch.testing.assert_close(carried(dose, field, SPACING, energy=True), 1.1**3 * dose, atol=1e-3, rtol=0)


def test_velocities_are_as_fast_as_said_and_rest_at_the_edges() -> None:
    velocity = smooth_velocity(torch.randn(2, 3, *SHAPE), SPACING, 8.0, 6.0)
    assert velocity.norm(dim=1).flatten(1).max(1).values.tolist() == pytest.approx([6, 6], rel=1e-4)
    assert float(velocity[..., 0, :, :].abs().max()) < 1e-3


def test_blurring_keeps_what_is_even() -> None:
    torch.testing.assert_close(
        blurred(torch.full((1, 2, 9, 12, 5), 3.0), (1.0, 2.0, 0.5)), torch.full((1, 2, 9, 12, 5), 3.0)
    )

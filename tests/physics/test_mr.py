"""MR: laws of the operator, coils learned from k-space beside the true ones, least squares beside the closed form."""

import math

import pytest
import torch

from fabrica.contracts import Measurement
from fabrica.data.acquisition.mr import coil_sensitivities, image_phase
from fabrica.physics import CartesianSense, Gaussian
from fabrica.physics.calibration import calibrated, coil_maps, middle_of
from fabrica.physics.classical import conjugate_gradients, largest_eigenvalue
from fabrica.physics.mr import to_image, to_k_space
from fabrica.rng import Rng
from fabrica.testing import check_operator

SIDES = (24, 20)


def _operator(rows: int = 1, sides: tuple[int, ...] = SIDES, around: tuple[int, ...] | None = None) -> CartesianSense:
    made = torch.Generator().manual_seed(3)
    maps = torch.randn(rows, 3, *sides, dtype=torch.complex64, generator=made)
    mask = torch.rand(rows, 1, *sides, generator=made) > 0.5
    phase = torch.exp(1j * torch.rand(rows, 1, *sides, generator=made))
    return CartesianSense(maps, mask, 1.7 * phase, around)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(
    ("sides", "around"), [(SIDES, None), (SIDES, (32, 24)), ((6, 8, 10), None), ((5, 7, 9), (8, 8, 16))]
)
def test_the_operator_keeps_the_laws(rows: int, sides: tuple[int, ...], around: tuple[int, ...] | None) -> None:
    x = torch.randn(2, 1, *(around or sides))
    check_operator(_operator(rows, sides, around), x)
    operator = _operator(rows, sides, around)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)), atol=2e-5, rtol=1e-4)


def test_a_readout_that_is_measured_whole_needs_no_transform() -> None:
    lines = torch.zeros(1, 1, *SIDES, dtype=torch.bool)
    lines[:, :, ::3] = True
    base = _operator()
    operator = CartesianSense(base.maps, lines, base.weight)
    assert operator._masked_axes() == (2,)
    x = torch.randn(2, 1, *SIDES)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)), atol=2e-5, rtol=1e-4)
    whole = CartesianSense(base.maps, torch.ones_like(lines), base.weight)
    assert whole._masked_axes() == ()
    torch.testing.assert_close(whole.normal(x), whole.adjoint(whole(x)), atol=2e-5, rtol=1e-4)


def test_the_transform_is_orthonormal_and_centred() -> None:
    """A constant lies in the middle sample; a point gives constants; a box its closed form."""
    constant = to_k_space(torch.ones(1, 8, 6, dtype=torch.complex64), 2)
    assert float(constant[0, 4, 3].real) == pytest.approx(math.sqrt(48))
    assert float(constant.abs().sum()) == pytest.approx(math.sqrt(48), abs=1e-4)
    n, half = 64, 10
    box = torch.zeros(1, 1, n, dtype=torch.complex64)
    box[..., n // 2 - half : n // 2 + half + 1] = 1
    k = torch.arange(n) - n // 2
    dirichlet = torch.where(
        k == 0,
        2.0 * half + 1,
        torch.sin(math.pi * k * (2 * half + 1) / n) / torch.sin(math.pi * k / n).where(k != 0, torch.ones(1)),
    )
    torch.testing.assert_close(to_k_space(box, 1)[0, 0].real * math.sqrt(n), dirichlet, atol=1e-4, rtol=1e-4)
    x = torch.randn(2, 5, 7, dtype=torch.complex64)
    torch.testing.assert_close(to_image(to_k_space(x, 2), 2), x)


def test_a_grid_around_the_scanners_is_measured_in_its_middle() -> None:
    small, wide = _operator(), _operator(around=(32, 28))
    x = torch.randn(1, 1, *SIDES)
    around = torch.randn(1, 1, 32, 28)
    around[:, :, 4:28, 4:24] = x
    torch.testing.assert_close(wide(around), small(x))
    assert wide.adjoint(small(x)).shape == around.shape
    with pytest.raises(ValueError, match="larger than the grid of x"):
        _operator(around=(16, 16))
    corner = Measurement(small(x), small, Gaussian(1.0)).corner((1, 8, 8))
    assert corner.value.shape == (1, 3, 8, 8)


def test_conjugate_gradients_solve_rows_by_themselves() -> None:
    made = torch.Generator().manual_seed(0)
    root = torch.randn(3, 12, 12, generator=made)
    matrix = root @ root.transpose(1, 2) + torch.eye(12)
    right = torch.randn(3, 12, 1, generator=made)
    right[1] = 0
    found = conjugate_gradients(lambda x: matrix @ x, right, iterations=60)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), atol=1e-3, rtol=1e-3)
    assert not found[1].any()
    value = largest_eigenvalue(lambda x: matrix @ x, right, 200)
    torch.testing.assert_close(value[:, 0, 0], torch.linalg.eigvalsh(matrix)[:, -1], rtol=1e-2, atol=1e-2)


def _object(sides: tuple[int, int] = (72, 64)) -> torch.Tensor:
    """(1, y, x): an ellipse with structure."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in sides], indexing="ij")
    inside = ((y / 0.85) ** 2 + (x / 0.7) ** 2 < 1).float()
    return (inside * (0.5 + 0.3 * torch.cos(9 * x) * torch.cos(7 * y)) + 0.2 * inside * (x > 0.2))[None]


def _k_space(coils: int = 6, deviation: float = 0.005) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(k-space, mask, image, maps) of one slice, undersampled four times."""
    rng = Rng([5])
    image = _object()
    sides = tuple(image.shape[1:])
    maps, phase = coil_sensitivities(coils, sides, rng), image_phase(sides, rng.child("phase"))
    mask = torch.rand(*sides, generator=torch.Generator().manual_seed(1)) < 0.25
    mask[24:48, 20:44] = True
    noise = deviation * torch.view_as_complex(rng.child("noise").normal(coils, *sides, 2)[0])
    return (to_k_space(image * phase * maps, 2) + noise) * mask, mask, image, maps


def test_coil_maps_are_those_that_made_the_data() -> None:
    """Up to one phase at each voxel, which no data tell; where nobody lies coils are told to see nothing, or anything."""
    k_space, mask, image, maps = _k_space()
    found = coil_maps(k_space, middle_of(mask))
    inside = image[0] > 0.3
    agreement = (found.conj() * maps).sum(0).abs()[inside]
    assert float(agreement.min()) > 0.97
    assert float(agreement.mean()) > 0.999
    length = found.abs().square().sum(0).sqrt()[inside]
    torch.testing.assert_close(length, torch.ones_like(length))


def test_noise_gain_and_phase_are_told_from_the_samples() -> None:
    k_space, mask, image, _ = _k_space(deviation=0.01)
    measured = calibrated(40 * k_space, mask)  # a scanner's own gain
    assert isinstance(measured.operator, CartesianSense)
    (x,) = measured.operator.solved(measured.value).values()
    inside = image[0] > 0.3
    scale = float(x[0, 0][inside].mean() / image[0][inside].mean())
    assert 0.8 < scale * float(image.max()) < 1.25  # its brightest are brought to about 1
    assert float((x[0, 0][inside] / scale - image[0][inside]).abs().mean()) < 0.08
    edge = measured.value[0] * (mask & ~(to_k_space(image.to(torch.complex64), 2)[0].abs() > 0.02))
    size = edge.abs().square().sum() / (edge != 0).sum()
    assert float(size) == pytest.approx(1.0, rel=0.25)  # whitened
    told = calibrated(k_space, mask, deviation=0.01)
    assert float(told.operator.weight.abs().max()) == pytest.approx(1 / (2**0.5 * 0.01))
    (own,) = told.operator.solved(told.value).values()
    assert float((own[0, 0][inside] - image[0][inside]).abs().mean()) < 0.08


def test_a_noise_scan_whitens_coils_that_hear_each_other() -> None:
    k_space, mask, _, _ = _k_space(deviation=1e-4)
    mixing = torch.eye(6, dtype=torch.complex64) + 0.4 * torch.randn(
        6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(2)
    )
    noise = mixing @ torch.randn(6, 4000, dtype=torch.complex64, generator=torch.Generator().manual_seed(3)) * 0.02
    measured = calibrated((mixing @ k_space.flatten(1)).reshape(k_space.shape), mask, noise)
    covariance = noise @ noise.conj().T / 4000
    whitening = torch.linalg.inv(torch.linalg.cholesky(covariance))
    torch.testing.assert_close(
        measured.value[0].flatten(1), whitening @ mixing @ k_space.flatten(1), rtol=1e-2, atol=0.5
    )


def test_maps_that_are_told_are_used_as_the_coils_are_unmixed() -> None:
    """Of coils that hear each other, with true maps of any size: the image is that of maps learned from the samples."""
    k_space, mask, image, maps = _k_space(deviation=1e-3)
    mixing = torch.eye(6, dtype=torch.complex64) + 0.4 * torch.randn(
        6, 6, dtype=torch.complex64, generator=torch.Generator().manual_seed(2)
    )
    noise = mixing @ torch.randn(6, 4000, dtype=torch.complex64, generator=torch.Generator().manual_seed(3)) * 1e-3
    heard, seen = ((mixing @ one.flatten(1)).reshape(one.shape) for one in (k_space, maps))
    inside = image[0] > 0.3
    off = {}
    for name, given in (("learned", None), ("told", 7 * seen), ("those of unmixed coils", 7 * maps)):
        measured = calibrated(heard, mask, noise, maps=given)
        assert isinstance(measured.operator, CartesianSense)
        (x,) = measured.operator.solved(measured.value).values()
        scale = float(x[0, 0][inside].mean() / image[0][inside].mean())
        off[name] = float((x[0, 0][inside] / scale - image[0][inside]).abs().mean())
    assert off["told"] < 1.5 * off["learned"]
    assert off["those of unmixed coils"] > 2 * off["told"]


def test_what_cannot_be_told_is_refused() -> None:
    k_space, mask, _, _ = _k_space()
    scattered = mask.clone()
    scattered[30:42:2] = False
    with pytest.raises(ValueError, match="expected at least 12"):
        calibrated(k_space, scattered)
    dead = k_space.clone()
    dead[2] = 0
    with pytest.raises(ValueError, match="coil 2 holds no signal"):
        calibrated(dead, mask)
    narrow = torch.zeros_like(mask)
    narrow[24:48, 20:44] = True
    with pytest.raises(ValueError, match="too few samples lie at the edge"):
        calibrated(k_space, narrow)

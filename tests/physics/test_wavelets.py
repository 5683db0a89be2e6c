"""Wavelets: orthonormal, blind to slopes, and an image told from fewer samples by the fewest of them."""

import pytest
import torch

from fabrica.data.acquisition.masks import MASKS
from fabrica.data.acquisition.mr import coil_sensitivities
from fabrica.physics import CartesianSense, Gaussian, Mask
from fabrica.physics.wavelets import few_wavelets, levels, restored, transformed
from fabrica.rng import Rng


@pytest.mark.parametrize("sides", [(32, 48), (64, 64), (20, 36), (15, 16)])
def test_the_transform_is_orthonormal(sides: tuple[int, int]) -> None:
    x = torch.randn(2, 1, *sides, dtype=torch.float64)
    there = transformed(x)
    torch.testing.assert_close(restored(there), x)
    torch.testing.assert_close(there.square().sum(), x.square().sum())


def test_details_are_blind_to_cubic_slopes() -> None:
    """Four vanishing moments, away from where a periodic image jumps."""
    line = torch.linspace(0, 1, 64, dtype=torch.float64)
    x = (line**3 - line)[:, None] + 2 * line[None] ** 2
    details = transformed(x[None, None])[0, 0, 32:60, 32:60]
    assert levels(x) == 4
    assert float(details.abs().max()) < 1e-10


def test_white_noise_is_taken_out_as_far_as_the_noise_goes() -> None:
    """The discrepancy principle: what is left is as large as the noise, row by row."""
    rng = Rng([0, 1])
    line = torch.linspace(-1, 1, 64)
    clean = torch.exp(-((line[:, None] ** 2 + line[None] ** 2) / 0.2)).expand(2, 1, 64, 64)
    deviation = torch.tensor([0.05, 0.1])
    y = clean + deviation.reshape(-1, 1, 1, 1) * rng.normal(1, 64, 64)
    x = few_wavelets(Mask(torch.ones(1, 1, 64, 64)), Gaussian(deviation), y)
    left = (y - x).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(left, deviation, rtol=0.03, atol=0.0)
    assert ((x - clean).square().flatten(1).mean(1).sqrt() < 0.35 * deviation).all()


def test_k_space_is_completed_better_than_by_least_squares() -> None:
    """Of physics that is known: discs with soft edges, a quarter of the samples, eight coils."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, 64)] * 2, indexing="ij")
    large, small = (
        torch.sigmoid((r - (d2**0.5)) * 15) for r, d2 in ((0.8, y**2 + x**2), (0.3, (y - 0.2) ** 2 + (x + 0.1) ** 2))
    )
    image = (0.5 * large + 0.4 * small)[None, None]
    mask = MASKS["random"]((64, 64), 4.0, 12, Rng([0]))[None, None]
    maps = coil_sensitivities(8, (64, 64), Rng([1]))[None]
    operator, noise = CartesianSense(maps, mask, torch.ones(1, 1, 64, 64) + 0j), Gaussian(0.02)
    measured = noise.draw(operator(image), Rng([2])) * mask
    found, plain = few_wavelets(operator, noise, measured), operator.solved(measured)["CG-SENSE"]
    assert float((found - image).square().mean()) < 0.5 * float((plain - image).square().mean())
    off = noise.misfit(measured, operator(found))[mask.expand_as(measured)]
    assert float(off.mean()) == pytest.approx(1, abs=0.05)

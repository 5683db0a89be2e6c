"""Blur and fewer voxels: laws, known answers, and how much noise an image shows."""

import pytest
import torch

from fabrica.physics import Resolution
from fabrica.physics.resolution import gathered, noise_of
from fabrica.testing import check_operator


def test_the_operator_keeps_the_laws() -> None:
    x = torch.randn(2, 1, 12, 10)
    check_operator(Resolution([gathered(12, 6, 0.5, 2.0), None]), x)
    check_operator(Resolution([gathered(12, 4, 1.0, 3.0), gathered(10, 6, 0.2, 1.5)]), x)
    check_operator(Resolution([None, gathered(6, 3, 0.5, 2.0), None]), torch.randn(2, 1, 4, 6, 5))


def test_pixels_gather_the_mean_of_what_they_cover() -> None:
    x = torch.arange(24.0).reshape(1, 1, 4, 6)
    found = Resolution([gathered(4, 2, 0.5, 2.0), gathered(6, 3, 0.5, 2.0)])(x)
    torch.testing.assert_close(found, torch.nn.functional.avg_pool2d(x, 2))
    between = gathered(4, 3, 0.5, 1.0)  # half a voxel aside: the mean of two
    torch.testing.assert_close(between @ torch.tensor([0.0, 1, 2, 3]), torch.tensor([0.5, 1.5, 2.5]))
    assert torch.equal(gathered(5, 5, 0.0, 1.0), torch.eye(5))


def test_what_is_only_made_larger_and_what_is_interpolated() -> None:
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    smooth = (torch.sin(y / 4) + torch.cos(x / 5))[None, None]
    operator = Resolution([gathered(16, 8, 0.5, 2.0)] * 2)
    coarse = operator(smooth)
    larger, (cubic,) = operator.crude(coarse), operator.solved(coarse).values()
    torch.testing.assert_close(larger, coarse.repeat_interleave(2, -1).repeat_interleave(2, -2))
    inner = (..., slice(3, -3), slice(3, -3))
    assert float((cubic - smooth)[inner].abs().max()) < 0.3 * float((larger - smooth)[inner].abs().max())


def test_noise_is_told_from_the_image() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 96), torch.linspace(-1, 1, 96), indexing="ij")
    image = ((y**2 + x**2 < 0.5).float() * (0.7 + 0.2 * torch.sin(9 * x)))[None]
    for sigma in (0.03, 0.1):
        noise = sigma * torch.randn(1, 96, 96, generator=torch.Generator().manual_seed(0))
        assert noise_of(image + noise) == pytest.approx(sigma, rel=0.1)
        assert noise_of((image + noise) * (image > 0)) == pytest.approx(sigma, rel=0.12)  # a mask blanked the rest
    assert noise_of(torch.zeros(1, 8, 8)) == 0


def test_a_noisy_image_is_smoothed_by_the_classical_answer() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    image = (y**2 + x**2 < 0.5).float()[None, None]
    noisy = image + 0.1 * torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    (found,) = Resolution([None, None]).solved(noisy).values()
    assert float((found - image).square().mean()) < 0.25 * float((noisy - image).square().mean())

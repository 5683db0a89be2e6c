"""The details that draws share: known cut-offs are found, patch by patch, and background is none."""

import pytest
import torch

from fabrica.rng import Rng
from fabrica.safeguards.agreement import PATCH, ring_correlation, shared_detail


def _white(seed: int, sides: tuple[int, int] = (128, 128), count: int = 1) -> torch.Tensor:
    return Rng([seed]).normal(count, *sides)[0]


def _passed(noise: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """White noise of frequencies between two, in cycles a pixel."""
    lines = [torch.fft.fftfreq(n) for n in noise.shape[-2:]]
    radius = (lines[0][:, None] ** 2 + lines[1] ** 2).sqrt()
    return torch.fft.ifft2(torch.fft.fft2(noise) * ((radius >= low) & (radius < high))).real


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.35])
def test_a_known_cut_off_is_found(cut: float) -> None:
    """Coarser than it all draws are one, finer each is its own."""
    draws = _passed(_white(0), 0, cut) + _passed(_white(1, count=4), cut, 1)
    found = shared_detail(draws, pixel_mm=0.8)
    assert found is not None
    assert found.median == pytest.approx(0.8 * 0.5 / cut, rel=0.12)


def test_draws_that_are_the_same_share_all() -> None:
    found = shared_detail(_white(0).expand(3, -1, -1), 1.0)
    assert found is not None
    assert found.median == pytest.approx(PATCH / 2 / (PATCH / 2), rel=0.1)
    own = ring_correlation(_white(2, (PATCH, PATCH), 64)[None])
    assert float(own.abs().max()) < 0.1  # nothing is shared by chance


def test_the_map_says_where() -> None:
    """The left half is shared to its pixels, the right one is coarse; the background is none."""
    sure = _white(0, (128, 160)).expand(4, -1, -1)
    unsure = _passed(_white(3, (128, 160)), 0, 0.08) + _passed(_white(4, (128, 160), 4), 0.08, 1)
    draws = torch.where(torch.arange(160) < 64, sure, unsure)
    draws = torch.where(torch.arange(160) < 128, draws, 0.0)
    found = shared_detail(draws, 1.0)
    assert found is not None
    assert float(found.map[:, :24].nanmean()) < 1.5
    assert float(found.map[:, 90:110].nanmean()) > 4
    assert bool(found.map[:, 150:].isnan().all())


def test_one_draw_shares_nothing_and_small_images_hold_no_patch() -> None:
    assert shared_detail(_white(0)[:1] if _white(0).ndim > 2 else _white(0)[None], 1.0) is None
    assert shared_detail(torch.rand(3, 20, 64), 1.0) is None
    assert shared_detail(torch.zeros(3, 64, 64), 1.0) is None

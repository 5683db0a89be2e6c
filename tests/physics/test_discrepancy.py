"""The discrepancy principle: known answers of a misfit that grows with the share, row by row."""

import pytest
import torch

from fabrica.physics import Gaussian
from fabrica.physics.discrepancy import Search, mean_misfit, strongest


def test_the_largest_share_that_noise_allows_is_found() -> None:
    """Each row its own; one that fits at any share takes nearly the largest, one that never fits the least."""
    known = torch.tensor([3e-4, 0.05, 1e9, 1e-9]).reshape(-1, 1, 1, 1)
    seen = []

    def walk(share: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        seen.append(share)
        return share

    found, last = strongest(
        walk, lambda s: (s / known).flatten(), torch.zeros(4, 1, 1, 1), Search(1e-5, 1.0, 20), torch.ones(4, 1, 1, 1)
    )
    assert found[:2].flatten().tolist() == pytest.approx([3e-4, 0.05], rel=1e-3)
    assert float(found[2]) == pytest.approx(1, rel=1e-3)
    assert float(found[3]) == pytest.approx(1e-5)
    assert torch.equal(last, seen[-1])
    assert len(seen) == 20


def test_a_misfit_counts_what_was_measured_alone() -> None:
    y, part = torch.zeros(2, 1, 2, 2), torch.tensor([[True, False], [True, True]])[None, None]
    mean = torch.full((2, 1, 2, 2), 0.2)
    mean[..., 0, 1] = 1e6
    assert mean_misfit(Gaussian(torch.tensor([0.1, 0.2])), y, mean, part).tolist() == pytest.approx([4.0, 1.0])

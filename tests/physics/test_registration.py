"""Registration without learning: known motion is found, nothing folds, what is the same stays."""

from functools import cache

import pytest
import torch

from fabrica.data.virtual import VirtualCohort
from fabrica.physics.registration import registered, similarity
from fabrica.physics.warp import exponential, folded, moved, smooth_velocity


@cache
def _pair(spacing: int = 4) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple[float, ...]]:
    (member,) = VirtualCohort(patients=1, spacing_mm=spacing, skull=True).cohort().members
    image = member.load(["T1w"]).images["T1w"]
    moving = image.data[None].float() / image.data.max()
    noise = torch.randn(1, 3, *moving.shape[2:], generator=torch.Generator().manual_seed(0))
    field = exponential(smooth_velocity(noise, image.spacing_mm, 24.0, 9.0), image.spacing_mm)
    return moved(moving, field, image.spacing_mm), moving, field, image.spacing_mm


def test_known_motion_of_a_head_is_found() -> None:
    fixed, moving, field, spacing = _pair()
    found = exponential(registered(fixed, moving, spacing), spacing)
    body = (fixed > 0.1)[0, 0]
    before, after = (x.norm(dim=1)[0][body].mean() for x in (field, found - field))
    assert float(before) > 2
    assert float(after) < 0.5 * float(before)
    assert folded(found, spacing) == 0
    assert float(similarity(fixed, moved(moving, found, spacing))) > float(similarity(fixed, moving)) + 0.1


def test_other_contrast_is_borne() -> None:
    """Bright becomes dark: correlation is squared."""
    fixed, moving, field, spacing = _pair()
    found = exponential(registered(1 - fixed, moving, spacing, steps=(40, 20, 5)), spacing)
    body = (fixed > 0.1)[0, 0]
    assert float((found - field).norm(dim=1)[0][body].mean()) < 0.65 * float(field.norm(dim=1)[0][body].mean())


def test_what_is_the_same_stays() -> None:
    fixed, _, _, spacing = _pair()
    assert float(registered(fixed, fixed, spacing, steps=(5, 5, 5)).abs().max()) < 0.2


def test_images_of_two_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="expected two of one grid"):
        registered(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1, 1, 8, 8, 9), (1, 1, 1))

"""Laws of every fault of acquisition: worse by rung, the same by seed, on the grid and in the unit of the scan."""

from dataclasses import replace

import pytest
import torch

from fabrica.data.virtual import VirtualCohort
from fabrica.safeguards.ladder import LADDER, RUNGS, degraded


@pytest.fixture(scope="module")
def images() -> dict:
    (member,) = VirtualCohort(1, spacing_mm=4, planes=[16, 22]).cohort().members
    return member.load(["T1w", "CT"]).images


@pytest.mark.parametrize("name", ["T1w", "CT"])
@pytest.mark.parametrize("kind", list(LADDER))
def test_every_rung_is_worse_than_the_one_before(images: dict, kind: str, name: str) -> None:
    image = images[name]
    before = 0.0
    for rung in RUNGS:
        worse = degraded(image, kind, rung, 3)
        assert worse.data.shape == image.data.shape
        assert worse.data.dtype == image.data.dtype
        assert worse.meaning == image.meaning
        assert torch.isfinite(worse.data).all()
        off = float((worse.data - image.data).square().mean().sqrt())
        assert off > before
        before = off
        assert torch.equal(worse.data, degraded(image, kind, rung, 3).data)
    air = float(image.data.double().quantile(0.02))
    assert float(worse.data.double().quantile(0.02)) == pytest.approx(air, abs=0.3 * float(image.data.std()))


@pytest.mark.parametrize("kind", list(LADDER))
def test_a_gain_stays_a_gain_and_flat_pictures_are_no_exception(images: dict, kind: str) -> None:
    image = images["T1w"]
    louder = replace(image, data=image.data * 5)
    torch.testing.assert_close(
        degraded(louder, kind, 2, 1).data, 5 * degraded(image, kind, 2, 1).data, rtol=1e-3, atol=0.5
    )
    flat = replace(image, data=image.data[:, 2], axes="yx")
    assert degraded(flat, kind, 2, 1).data.shape == flat.data.shape

"""What is computed without learning: motion that comes back, contours that follow, doses that are the engine's."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fabrica.computations import ACCUMULATED, AT_PLANNING, COMPUTATIONS, EQD2, Accumulate, Deliver, Register, Warp
from fabrica.contracts import Case, Image
from fabrica.data.daily import PLANNED, days_of
from fabrica.data.grid import grid_of, resample
from fabrica.data.moving import MOTION, velocity_on
from fabrica.data.simulated_days import SimulatedDays
from fabrica.data.simulated_plans import SimulatedPlans
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.metrics.overlap import dice
from fabrica.io import UnreadableError
from fabrica.physics.plan import eqd2
from fabrica.physics.warp import carried, exponential, folded


@pytest.fixture(scope="module")
def day() -> Case:
    heads = VirtualCohort(patients=2, spacing_mm=4, skull=True, disease="none").cohort()
    seen = SimulatedDays(count=1, largest_mm=20).added_to(SimulatedPlans().added_to(heads))
    one = days_of(seen.members)[1]
    return one.load(["CT", "Brainstem", *MOTION, *(PLANNED + n for n in ("CT", "PTV70", "Brainstem"))])


def _field(images: dict[str, Image]) -> torch.Tensor:
    grid = grid_of(images[MOTION[0]])
    return exponential(velocity_on(images, grid), grid.affine[:3, :3].norm(dim=0).tolist())


@pytest.fixture(scope="module")
def registered(day: Case) -> dict[str, Image]:
    return Register().compute([day])


def test_the_motion_of_a_day_is_found(day: Case, registered: dict[str, Image]) -> None:
    body = day.images["CT"].data[0] > -300
    true, found = _field(day.images), _field(registered)
    still, left = (float(f.norm(dim=1)[0][body].mean()) for f in (true, found - true))
    assert still > 1.0
    assert left < 0.6 * still
    assert folded(found, day.images["CT"].spacing_mm) == 0
    assert all(registered[name].meaning.unit == "mm" for name in MOTION)


def test_contours_follow(day: Case) -> None:
    truth = day.images["Brainstem"].data[0].numpy()
    stays = day.images[PLANNED + "Brainstem"].data[0].numpy()
    followed = Warp(["Brainstem", "Larynx"]).compute([day])
    assert list(followed) == ["Brainstem"]
    assert dice(followed["Brainstem"].data[0].numpy(), truth) > max(0.97, dice(stays, truth))
    with pytest.raises(UnreadableError, match="none of Larynx"):
        Warp(["Larynx"]).compute([day])


def test_the_plan_is_given_to_the_day(day: Case) -> None:
    deliver = Deliver("PTV70", 70.0, gantry_degrees=[0, 120, 240], grid_mm=4)
    images = deliver.compute([day])
    target = day.images[PLANNED + "PTV70"].data > 0.5
    assert float(images[AT_PLANNING].data[target].mean()) == pytest.approx(70, abs=0.7)
    assert images["dose"].meaning.unit == "Gy"
    assert float(images["dose"].data.min()) >= 0
    outside = resample(images["dose"], grid_of(day.images["CT"])).data[day.images["CT"].data < -990]
    assert float((outside > 1).float().mean()) < 0.3  # air in the head is in the patient
    same = deliver.compute([replace(day, images={**day.images, "CT": day.images[PLANNED + "CT"]})])
    assert torch.allclose(same["dose"].data, same[AT_PLANNING].data, atol=1e-3)
    assert "0, 120, 240 degrees" in deliver.words()


def test_a_wrong_scale_of_hounsfield_units_is_seen_in_the_dose(day: Case) -> None:
    deliver = Deliver("PTV70", 70.0, gantry_degrees=[0, 120, 240], grid_mm=4)
    right = deliver.compute([day])["dose"].data
    ct = day.images["CT"]
    shifted = torch.where(ct.data > -300, ct.data + 100, ct.data)
    water = torch.where(ct.data > 300, torch.zeros(()), ct.data)
    for wrong in (shifted, water):
        off = deliver.compute([replace(day, images={**day.images, "CT": replace(ct, data=wrong)})])["dose"].data
        assert float((off - right)[right > 40].abs().mean()) > 0.5


def test_doses_add_up_on_the_planning_anatomy(day: Case) -> None:
    still = {name: replace(day.images[name], data=torch.zeros_like(day.images[name].data)) for name in MOTION}
    flat = replace(day.images["CT"], data=torch.full_like(day.images["CT"].data, 60.0))
    even = [replace(day, images={**day.images, **still, "dose": flat})] * 2
    assert float(Accumulate(30).compute(even)[ACCUMULATED].data.mean()) == pytest.approx(60, abs=1e-3)
    effective = Accumulate(20, alpha_beta_gy=3.0)
    done = effective.compute(even)[EQD2].data
    assert torch.allclose(effective.measured(flat).data, done, atol=1e-3)
    assert Accumulate(20).measured(flat) is flat
    assert float(done.mean()) == pytest.approx(float(eqd2(torch.tensor(60.0), 20, 3.0)), abs=1e-3)


def test_a_dose_goes_back_with_its_tissue(day: Case) -> None:
    """A dose that lies on the organ today lies on it at planning; without the motion it would not."""
    mask = day.images["Brainstem"]
    given = replace(day, images={**day.images, "dose": replace(mask, data=50 * mask.data)})
    found = Accumulate(30).compute([given])[ACCUMULATED].data[0].numpy() > 25
    before = day.images[PLANNED + "Brainstem"].data[0].numpy() > 0.5
    assert dice(found, before) > max(0.95, dice(mask.data[0].numpy() > 0.5, before))
    spacing = mask.spacing_mm
    field = exponential(-velocity_on(day.images, grid_of(mask)), spacing)
    by_hand = carried(given.images["dose"].data[None], field, spacing, energy=True)[0, 0]
    kept = Accumulate(30, carry="energy", grid_mm=1.0).compute([given])[ACCUMULATED].data[0]
    assert torch.allclose(kept, by_hand, atol=1e-3)


def test_what_a_day_lacks_is_said(day: Case) -> None:
    with pytest.raises(UnreadableError, match="no PTV56 or no CT"):
        Deliver("PTV56", 56.0).compute([day])
    empty = replace(day.images[PLANNED + "PTV70"], data=torch.zeros_like(day.images[PLANNED + "PTV70"].data))
    with pytest.raises(UnreadableError, match="is empty"):
        Deliver("PTV70", 70.0).compute([replace(day, images={**day.images, PLANNED + "PTV70": empty})])
    arbitrary = replace(day.images["CT"], meaning=replace(day.images["CT"].meaning, unit="a.u."))
    with pytest.raises(UnreadableError, match="no HU"):
        Deliver("PTV70", 70.0).compute([replace(day, images={**day.images, "CT": arbitrary})])


def test_images_of_arbitrary_units_are_registered_too(day: Case, registered: dict[str, Image]) -> None:
    images = dict(day.images)
    for name in ("CT", PLANNED + "CT"):
        one = day.images[name]
        images[name] = replace(one, data=one.data + 1024, meaning=replace(one.meaning, unit="a.u."))
    found = Register(grid_mm=8).compute([replace(day, images=images)])
    assert np.isfinite(found[MOTION[0]].data.numpy()).all()
    assert found[MOTION[0]].data.shape == registered[MOTION[0]].data.shape


@pytest.mark.parametrize(
    ("name", "told", "match"),
    [
        ("register", {"grid_mm": 0.0}, "0.5 to 20"), ("warp", {"names": []}, "no names"),
        ("dose", {"target": "PTV70", "prescription_gy": 7000.0}, "up to 200 Gy"),
        ("dose", {"target": "PTV70", "prescription_gy": 70.0, "hu_to_density": [[0.0, 1.0, 2.0]]}, "pairs"),
        ("dose", {"target": "PTV70", "prescription_gy": 70.0, "grid_mm": 50.0}, "1 to 10"),
        ("accumulate", {"fractions": 0}, "1 to 100"), ("accumulate", {"fractions": 30, "alpha_beta_gy": 0.0}, "0.1 to 50"),
        ("accumulate", {"fractions": 30, "grid_mm": 0.0}, "0.5 to 20"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused(name: str, told: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        COMPUTATIONS.find(name)(**told)

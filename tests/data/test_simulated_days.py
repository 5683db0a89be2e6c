"""Days after planning: moved by a field that is known, with everything that lies in the patient; the plan's dose stays."""

from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fabrica.data import cohort
from fabrica.data.cohort import Cohort
from fabrica.data.daily import PLANNED, days_of
from fabrica.data.grid import grid_of
from fabrica.data.moving import MOTION, velocity_on
from fabrica.data.simulated_days import SimulatedDays
from fabrica.data.simulated_plans import SimulatedPlans
from fabrica.data.virtual import VirtualCohort
from fabrica.io import UnreadableError
from fabrica.physics.warp import exponential, moved


@pytest.fixture(scope="module")
def seen() -> Cohort:
    heads = VirtualCohort(patients=1, spacing_mm=4, skull=True, disease="none").cohort()
    return SimulatedDays(count=2, largest_mm=10).added_to(SimulatedPlans().added_to(heads))


def test_a_day_is_the_plan_moved(seen: Cohort) -> None:
    (planning, one, two), names = seen.members, ["CT", "PTV70", *MOTION]
    assert [m.visit for m in seen.members] == ["", "day1", "day2"]
    assert [m.days for m in seen.members] == [0, 7, 14]
    assert "dose" in planning.contrasts()
    assert "dose" not in one.contrasts()
    before, today = planning.load(["CT", "PTV70"]).images, one.load(names).images
    field = exponential(velocity_on(today, grid_of(today["CT"])), today["CT"].spacing_mm)
    assert torch.allclose(moved(before["CT"].data[None], field, today["CT"].spacing_mm)[0], today["CT"].data, atol=0.5)
    assert 1 < float(field.norm(dim=1).max()) <= 10.5
    assert set(today["PTV70"].data.unique().tolist()) == {0.0, 1.0}
    assert float(today["PTV70"].data.sum()) == pytest.approx(float(before["PTV70"].data.sum()), rel=0.3)
    again = one.load(["CT"]).images["CT"].data
    assert torch.equal(again, today["CT"].data)
    assert not torch.equal(two.load(["CT"]).images["CT"].data, again)
    assert list(one.load(["PTV70"]).images) == ["PTV70"]


def test_whoever_was_seen_twice_keeps_those_days(seen: Cohort) -> None:
    assert SimulatedDays().added_to(seen).members == seen.members
    with pytest.raises(ValueError, match="1 to 50 days"):
        SimulatedDays(count=0)


def test_a_day_has_its_plan_beside_it(seen: Cohort) -> None:
    one, two = days_of(seen.members)
    assert {"CT", PLANNED + "CT", PLANNED + "dose", *MOTION} <= {*one.contrasts()}
    case = two.load(["CT", PLANNED + "CT", PLANNED + "PTV70"])
    assert case.visit == "day2"
    assert torch.equal(case.images[PLANNED + "CT"].data, seen.members[0].load(["CT"]).images["CT"].data)
    assert case.images[PLANNED + "PTV70"].meaning.name == PLANNED + "PTV70"


def _write(path: Path, volume: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([3.0, 3.0, 3.0, 1.0])), path)


def test_folders_say_what_was_planned_and_when_the_days_were(tmp_path: Path) -> None:
    rng, mask = np.random.default_rng(0), np.zeros((16, 16, 12), np.uint8)
    mask[5:9, 5:9, 4:8] = 1
    for name in ("PTV_7000", "cord", "brain_soft"):
        _write(tmp_path / "p01/planning" / f"{name}.nii.gz", mask)
    _write(tmp_path / "p01/planning/CT.nii.gz", rng.normal(0, 300, mask.shape).astype(np.float32))
    for day in ("2026-11-09", "2026-11-02"):
        _write(tmp_path / "p01/today" / day / "CBCT.nii.gz", rng.normal(0, 300, mask.shape).astype(np.float32))
    days = days_of(cohort.find(tmp_path).members)
    assert [(d.patient, d.visit, d.days) for d in days] == [
        ("p01", "today-2026-11-02", 0.0), ("p01", "today-2026-11-09", 7.0),
    ]  # fmt: skip
    assert {PLANNED + "PTV70", PLANNED + "SpinalCord", PLANNED + "CT", "CBCT"} <= {*days[0].contrasts()}


def test_two_frames_of_reference_are_refused(seen: Cohort) -> None:
    day = days_of(seen.members)[0]
    case = day.load(["CT"])
    other = replace(case.images["CT"], frame_of_reference="1.2.3")
    first = replace(case.images["CT"], frame_of_reference="1.2.4")
    planned = cohort.overlaid(seen.members[0], {"CT": first})
    today = cohort.overlaid(seen.members[1], {"CT": other})
    with pytest.raises(UnreadableError, match="lie in different frames of reference"):
        days_of([planned, today])[0].load(["CT", PLANNED + "CT"])

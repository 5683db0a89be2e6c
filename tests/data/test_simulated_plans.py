"""Plans for heads that have none: nested targets, a dose that is prescribed, organs spared, the same for a patient."""

import numpy as np
import pytest
import torch

from fabrica.data.simulated_plans import LEVELS, ORGANS, SimulatedPlans
from fabrica.data.virtual import VirtualCohort
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError


def test_a_head_gets_a_plan() -> None:
    heads = VirtualCohort(patients=2, spacing_mm=4, skull=True, disease="none").cohort()
    one, two = SimulatedPlans().added_to(heads).members
    case = one.load(["CT", "dose", "possible_dose", *LEVELS, *ORGANS])
    images = {name: image.data[0].numpy() for name, image in case.images.items()}
    narrow, wide = images["PTV70"] > 0, images["PTV56"] > 0
    assert (wide & narrow).sum() == narrow.sum() > 20
    assert wide.sum() > 1.5 * narrow.sum()
    dose = images["dose"]
    assert case.images["dose"].meaning.unit == "Gy"
    assert float(dose[narrow].mean()) == pytest.approx(70, abs=0.01)
    assert float(np.percentile(dose[narrow], 5)) > 60
    assert 48 < float(dose[wide & ~narrow].mean()) < 66
    body = images["possible_dose"] > 0
    assert not dose[~body].any()
    assert float(dose[body & ~wide].mean()) < 25
    for organ in ORGANS:
        assert (images[organ] > 0).any()
    assert torch.equal(one.load(["dose"]).images["dose"].data, case.images["dose"].data)
    assert not np.array_equal(two.load(["PTV70"]).images["PTV70"].data[0].numpy() > 0, narrow)
    assert set(one.contrasts()) > {*LEVELS, *ORGANS, "dose", "possible_dose", "CT"}


def test_whoever_has_a_dose_keeps_it() -> None:
    heads = VirtualCohort(patients=1, spacing_mm=4, skull=True).cohort()
    once = SimulatedPlans().added_to(heads)
    assert SimulatedPlans().added_to(once).members[0] is once.members[0]


def test_impossible_margins_are_refused() -> None:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 2}, "plans": {"margin_mm": 99}}}, "job": {"name": "dose"},
        "family": "regression", "train": {"steps": 1},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="expected 0 to 30"):
        from_plain(plain)

"""A plan given to a drawn CT: the same CT gives the same dose; a shift of HU, bone as water and air lost show."""

import numpy as np
import pytest
import torch

from fabrica.contracts import Field, Image
from fabrica.evaluate.judging.dose_check import WATER, DoseCheck, dose_check_rows
from fabrica.evaluate.result import Row
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError

AFFINE = torch.tensor([[0, 0, 3.0, -90], [0, 3.0, 0, -90], [3.0, 0, 0, -60], [0, 0, 0, 1]], dtype=torch.float64)
CHECK = DoseCheck(gantry_degrees=(0.0, 90.0), diameter_mm=40)


def head() -> tuple[Image, np.ndarray]:
    """Water, a shell of bone around it, a tube of air in front of the middle."""
    z, y, x = np.indices((40, 60, 60)) * 3.0
    far = np.hypot(y - 90, x - 90)
    hu = np.where(far < 80, 0.0, -1000.0)
    hu[(far < 80) & (far > 68)] = 1000.0
    hu[np.hypot(y - 45, x - 90) < 10] = -1000.0
    assert z.shape == hu.shape
    image = Image(torch.from_numpy(hu.astype(np.float32))[None], "zyx", AFFINE, Field("CT", "intensity", 1, "HU"))
    return image, far < 80


def _by(rows: list[Row]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        assert not isinstance(row.value, str)
        found.setdefault(row.by, {})[row.metric] = row.value
    return found


def test_faults_of_a_ct_show_in_the_dose() -> None:
    truth, body = head()
    hu = truth.data[0].numpy()
    answers = {
        "same": hu, "100 HU more": hu + 100, "bone as water": np.where(hu > 500, 0, hu),
        "air filled": np.where(hu < -500, 0, hu), "a little noise": hu + 20 * np.sin(np.indices(hu.shape).sum(0) * 2.1),
    }  # fmt: skip
    found = _by(dose_check_rows(("c", "p", "CT"), answers, truth, body, {}, CHECK))
    same = found["same"]
    assert {name: value for name, value in same.items() if "gamma" in name} == dict.fromkeys(
        ("gamma 3 %/3 mm", "gamma 2 %/2 mm", "gamma 2 %/2 mm local"), 100.0
    )
    for name in ("target D95 off", "target mean dose off", "depth of water off"):
        assert same[name] == pytest.approx(0, abs=1e-3)
    assert found["a little noise"]["gamma 2 %/2 mm local"] > 99
    for fault in ("100 HU more", "bone as water", "air filled", WATER):
        assert found[fault]["gamma 2 %/2 mm local"] < 90, fault
        assert found[fault]["target D95 off"] > 1, fault
        assert found[fault]["depth of water off"] > 3, fault
    # 12 mm of bone at 1.55 lie before the target; 100 HU more are 5.5 % of some 55 to 60 mm of water
    assert found["bone as water"]["depth of water off"] == pytest.approx(0.55 * 12, abs=1.5)
    assert found["air filled"]["depth of water off"] == pytest.approx(5.5, abs=2)  # of half the rays of one beam in two


def test_a_plan_says_what_it_is() -> None:
    words = DoseCheck().words()
    for part in ("0, 72, 144, 216, 288 degrees", "a ball of 40 mm", "60 Gy", "1000: 1.55"):
        assert part in words
    assert "PTV70" in DoseCheck(target="PTV70").words()


def test_a_target_that_is_drawn_is_what_beams_are_made_for() -> None:
    truth, body = head()
    z, y, x = np.indices(body.shape)
    target = (np.abs(z - 20) < 4) & (np.abs(y - 40) < 4) & (np.abs(x - 30) < 4)
    own = dose_check_rows(
        ("c", "p", "CT"), {"air filled": np.where(truth.data[0].numpy() < -500, 0, truth.data[0].numpy())}, truth, body,
        {"PTV": target}, DoseCheck(gantry_degrees=(180.0,), target="PTV"),
    )  # fmt: skip
    assert _by(own)["air filled"]["target D95 off"] < 0.5  # the air lies behind the target, seen from the back


def test_a_body_of_nothing_is_not_evaluated() -> None:
    truth, body = head()
    rows = dose_check_rows(("c", "p", "CT"), {"m": truth.data[0].numpy()}, truth, body & False, {}, CHECK)
    assert [str(r.value) for r in rows] == ["not evaluated: needs a body of more than the target"]


def test_fine_images_are_checked_on_a_coarser_grid() -> None:
    """The doses of 1.5 mm and of 3 mm voxels are the same to what gamma sees."""
    truth, body = head()
    fine = AFFINE.clone()
    fine[:3, :3] /= 2
    data = truth.data.repeat_interleave(2, 1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    image = Image(data, "zyx", fine, truth.meaning)
    wide = body.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    one = _by(dose_check_rows(("c", "p", "CT"), {"m": truth.data[0].numpy() + 100}, truth, body, {}, CHECK))["m"]
    two = _by(dose_check_rows(("c", "p", "CT"), {"m": data[0].numpy() + 100}, image, wide, {}, CHECK))["m"]
    for name in ("target mean dose off", "depth of water off"):
        assert one[name] == pytest.approx(two[name], rel=0.15)


@pytest.mark.parametrize(
    ("dose", "said"),
    [
        ({"prescription_gy": 6000}, "Gy up to 200"),
        ({"gantry_degrees": []}, "a gantry angle at least"),
        ({"hu_to_density": [[0, 1], [-1000, 0]]}, "expected rising HU"),
        ({"beams": 3}, "beams"),
    ],
)
def test_plans_that_cannot_be_are_refused(dose: dict[str, object], said: str) -> None:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4}}}, "split": {"train": 0.5, "test": 0.5},
        "job": {"name": "translation", "from": ["T1w"], "x": ["CT"]}, "family": "regression", "train": {"steps": 3},
        "evaluate": {"dose": dose},
    }  # fmt: skip
    with pytest.raises(RecipeError, match=said):
        from_plain(plain)


def test_a_plan_needs_a_ct() -> None:
    plain = {
        "cohorts": {"all": {"virtual": {"patients": 4, "spacing_mm": 4}}}, "split": {"train": 0.5, "test": 0.5},
        "job": {"name": "translation", "from": ["T1w"], "x": ["T2w"]}, "family": "regression",
        "train": {"steps": 3}, "evaluate": {"dose": {}},
    }  # fmt: skip
    with pytest.raises(RecipeError, match="no job here asks for a CT"):
        from_plain(plain)

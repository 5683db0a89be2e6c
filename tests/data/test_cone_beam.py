"""The CBCT of a CT: levels without faults, what each fault does, the same for a patient, refusals, a recipe."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from fabrica.contracts import Field, Image
from fabrica.data import cohort
from fabrica.data.cone_beam import ConeBeam, cone_beam
from fabrica.io import UnreadableError
from fabrica.recipe.checks import from_plain
from fabrica.recipe.text import RecipeError

AFFINE = torch.diag(torch.tensor([3.0, 3.0, 3.0, 1.0])).double()[[2, 1, 0, 3]]


def ct(shape: tuple[int, int, int] = (20, 56, 56)) -> Image:
    """A cylinder of water with bone and air in it."""
    _, y, x = np.indices(shape)
    hu = np.where(np.hypot(y - 27.5, x - 27.5) < 24, 0.0, -1000.0)
    hu[np.hypot(y - 36, x - 27) < 4] = 700
    hu[np.hypot(y - 18, x - 27) < 4] = -1000
    return Image(torch.from_numpy(hu.astype(np.float32))[None], "zyx", AFFINE, Field("CT", "intensity", 1, "HU"))


def _made(**told: float) -> np.ndarray:
    quiet = {"views": 120, "photons": 1e8, "scatter": 0.0}
    return cone_beam(ct(), ConeBeam(**{**quiet, **told}), np.random.default_rng(0)).data[0].numpy()  # type: ignore[arg-type]


def test_without_faults_the_levels_are_the_cts() -> None:
    true, found = ct().data[0].numpy(), _made()
    middle = slice(7, 13)
    for low, high, off in ((-50, 50, 25), (600, 800, 90), (-1100, -900, 120)):
        inside = (true[middle] > low) & (true[middle] < high)
        inside &= np.hypot(*(np.indices(true.shape)[1:, middle] - 27.5)) < 22
        inside = ndimage.binary_erosion(inside, np.ones((1, 3, 3)))  # the panel's pixels blur edges
        assert float(found[middle][inside].mean()) == pytest.approx(float(true[middle][inside].mean()), abs=off)


def test_each_fault_does_what_it_does() -> None:
    clean, water = _made(), (slice(8, 12), slice(25, 30), slice(8, 16))
    assert float(_made(scatter=1.0)[water].mean()) < float(clean[water].mean()) - 60  # cupping: too low inside
    noisy = _made(photons=300.0)
    assert float(noisy[water].std()) > 3 * float(clean[water].std())
    few = _made(views=20)
    assert float((few - clean)[8:12].std()) > 15  # streaks
    moved = _made(move_mm=20.0)
    assert float(np.abs(moved - clean)[0].mean()) > float(np.abs(moved - clean)[10].mean())  # along the patient
    narrow = _made(cut=0.5)
    assert float(narrow[10, 28, 28]) > -250
    assert float(narrow[10, 28, 4]) < -250  # beyond the panel


def test_a_patient_has_one_and_his_own_is_kept(tmp_path: Path) -> None:
    for patient, names in (("p1", ["CT"]), ("p2", ["CT", "CBCT"]), ("p3", ["T1w"])):
        for name in names:
            path = tmp_path / patient / f"{name}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            data = ct((12, 40, 40)).data[0].numpy().transpose(2, 1, 0)
            nibabel.save(nibabel.Nifti1Image(data, np.diag([3.0, 3, 3, 1])), path)
    found = ConeBeam(views=32).added_to(cohort.find(tmp_path))
    one, two, three = found.members
    assert ["CBCT" in m.contrasts() for m in (one, two, three)] == [True, True, False]
    first, again = (one.load(["CBCT"]).images["CBCT"] for _ in range(2))
    torch.testing.assert_close(first.data, again.data)
    assert (first.meaning.name, first.meaning.unit) == ("CBCT", "HU")
    assert torch.equal(two.load(["CBCT"]).images["CBCT"].data, two.load(["CT"]).images["CT"].data)
    assert [s.files for s in one.scans_of(["CBCT"])] == [s.files for s in one.scans_of(["CT"])]


def test_what_is_no_ct_is_refused() -> None:
    mr = Image(torch.zeros(1, 8, 8, 8), "zyx", AFFINE, Field("CT", "intensity", 1, "a.u."))
    with pytest.raises(UnreadableError, match="is no CT volume in HU"):
        cone_beam(mr, ConeBeam(), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("told", "said"), [({"views": 3}, "16 to 2000 views"), ({"cut": 0.0}, "cut from 0.2 to 1"), ({"dose": 1}, "dose")]
)
def test_machines_that_cannot_be_are_refused(told: dict[str, object], said: str) -> None:
    plain = {
        "cohorts": {"all": {"path": "x", "cone_beam": told}}, "train": {"steps": 1},
        "job": {"name": "translation", "from": ["CBCT"], "x": ["CT"]}, "family": "regression",
    }  # fmt: skip
    with pytest.raises(RecipeError, match=said):
        from_plain(plain)

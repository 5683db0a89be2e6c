"""A dose by trees: nobody is guessed from his own dose; what was kept says the same; what is damaged is refused."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from fabrica.data.beams import Anatomy
from fabrica.data.dose_table import FILE, DoseTable, features_of, fit_table

from .test_beams import anatomy

NAMES = ("PTV70", "PTV56", "Cord", "Larynx")


def _patients(count: int = 5, odd: int | None = None) -> list[tuple[str, Anatomy, np.ndarray]]:
    """Targets at random places, a dose that falls off around them; that of one patient is twice as high."""
    rng, found = np.random.default_rng(1), []
    for k in range(count):
        z, y, x = np.indices((12, 60, 60))
        py, px = rng.uniform(22, 38, 2)
        far = np.sqrt((2.5 * (z - 6)) ** 2 + (3.0 * (y - py)) ** 2 + (3.0 * (x - px)) ** 2)
        a = anatomy(PTV70=far < 12, PTV56=far < 20, Cord=np.hypot(y - 45, x - 30) < 2)
        dose = np.clip(70 - 1.5 * np.clip(far - 12, 0, None), 0, None) * (2 if k == odd else 1)
        found.append((f"p{k}", a, (dose * a.possible).astype(np.float32)))
    return found


def _table(patients: list[tuple[str, Anatomy, np.ndarray]]) -> DoseTable:
    def again() -> Iterator[tuple[str, Anatomy, np.ndarray]]:
        return iter(patients)

    return fit_table([p for p, _, _ in patients], again, NAMES, 60, 0)


def test_a_patient_who_trained_is_guessed_by_trees_that_have_not_seen_him() -> None:
    """His dose is twice as high as everybody's: whoever had seen it would say so."""
    patients = _patients(odd=2)
    table = _table(patients)
    _, a, dose = patients[2]
    own = table.guess("p2", a).table[a.possible]
    assert float(np.abs(own - dose[a.possible] / 2).mean()) < 0.25 * float(np.abs(own - dose[a.possible]).mean())
    seen = replace(table, fold_of={}).guess("p2", a).table[a.possible]  # the fault: all trees together know him
    assert float(seen.mean()) > 1.15 * float(own.mean())


def test_a_new_patient_is_guessed_by_all(tmp_path: Path) -> None:
    patients = _patients(6)
    table = _table(patients[:5])
    _, a, dose = patients[5]
    guess = table.guess("somebody", a)
    assert float(np.abs(guess.table - dose)[a.possible].mean()) < 0.1 * float(dose[a.possible].mean())
    assert not guess.table[~a.possible].any()
    assert not guess.even[~a.possible].any()
    table.save(tmp_path)
    kept = DoseTable.load(tmp_path)
    assert kept is not None
    np.testing.assert_array_equal(kept.guess("somebody", a).table, guess.table)
    with safe_open(tmp_path / FILE, "numpy") as file:
        assert '"p0"' not in file.metadata()["fabrica"]  # hashes, no names
    assert DoseTable.load(tmp_path / "elsewhere") is None


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    _table(_patients(2)).save(tmp_path)
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(ValueError, match="is damaged"):
        DoseTable.load(tmp_path)


def test_features_have_one_width_whoever_is_asked() -> None:
    a = anatomy()
    whole, _ = features_of(a, NAMES)
    without, even = features_of(replace(a, masks={"Cord": a.masks["Cord"]}), NAMES)
    assert whole.shape == without.shape
    assert np.isnan(without[:, 0]).all()
    assert not even.any()
    assert np.isfinite(whole[:, :3]).all()
    assert np.isnan(whole[:, 3]).all()


def test_where_dose_was_computed_is_no_feature_of_a_new_patient() -> None:
    """A planning system's grid ends somewhere; nobody knows where before there is one."""
    told, untold = (features_of(replace(anatomy(), stated=s), NAMES)[0] for s in (True, False))
    differs = ~np.isclose(told, untold, equal_nan=True).all(0)
    assert differs.sum() == 1
    assert np.isnan(untold[:, differs]).all()


@pytest.mark.parametrize("stored", ["columns first", "from the head down"])
def test_features_follow_the_patient_not_the_array(stored: str) -> None:
    """The same patient stored in another order: what is told of each voxel is the same."""
    a = anatomy()
    if stored == "columns first":
        order, affine = lambda v: v.transpose(0, 2, 1), a.affine[:, [0, 2, 1, 3]]
    else:
        flip = np.diag([-1.0, 1, 1, 1])
        flip[0, 3] = a.possible.shape[0] - 1
        order, affine = lambda v: v[::-1], a.affine @ flip
    masks = {n: order(m) for n, m in a.masks.items()}
    b = replace(a, hounsfield=order(a.hounsfield), masks=masks, possible=order(a.possible), affine=affine)
    one, other = (features_of(k, NAMES)[0] for k in (a, b))
    back = order(np.arange(a.possible.size).reshape(a.possible.shape))[order(a.possible)]
    np.testing.assert_allclose(other[np.argsort(back)], one, atol=0.05)


def test_nobody_to_learn_from_is_said() -> None:
    with pytest.raises(ValueError, match="No training patient has a CT, a target and a dose"):
        fit_table(["a"], lambda: iter([]), NAMES, 10, 0)

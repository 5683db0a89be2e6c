"""Patients are on one side only, and so are images."""

from dataclasses import dataclass

import numpy as np
import pytest

from fabrica.contracts import Case
from fabrica.data.cohort import Cohort, Member
from fabrica.data.split import LeakError, check_leakage, fingerprint, split_cohort


@dataclass(frozen=True)
class Named(Member):
    patient: str
    visit: str = ""
    site: str = ""
    days: float = 0.0
    values = {}  # noqa: RUF012

    def contrasts(self) -> tuple[str, ...]:
        return ("T1w",)

    def load(self, contrasts: object) -> Case:
        raise NotImplementedError


def _cohort(count: int = 20, visits: int = 2) -> Cohort:
    return Cohort(
        tuple(Named(f"p{i:02d}", f"v{v}", "C" if i % 5 == 0 else "A") for i in range(count) for v in range(visits))
    )


def test_fractions_keep_patients_whole() -> None:
    split = split_cohort(_cohort(), {"train": 0.6, "validate": 0.1, "calibrate": 0.1, "test": 0.2})
    sides = {part: {m.patient for m in members} for part, members in split.parts.items()}
    assert [len(s) for s in sides.values()] == [12, 2, 2, 4]
    assert len(set.union(*sides.values())) == 20
    assert (
        split_cohort(_cohort(), {"train": 0.6, "test": 0.4}, seed=1).parts
        != split_cohort(_cohort(), {"train": 0.6, "test": 0.4}, seed=2).parts
    )


def test_adding_a_patient_moves_few() -> None:
    """The order comes from a hash of the name, so a cohort that grows keeps most patients on their side."""
    one = {m.patient for m in split_cohort(_cohort(20), {"train": 0.8, "test": 0.2}).parts["test"]}
    two = {m.patient for m in split_cohort(_cohort(21), {"train": 0.8, "test": 0.2}).parts["test"]}
    assert len(one & two) >= 3


def test_names_and_numbers() -> None:
    split = split_cohort(_cohort(), {"train": ["p1", "p02"], "test": ["p19"]})
    assert {m.patient for m in split.parts["train"]} == {"p01", "p02"}
    assert split.empty == ("validate", "calibrate")


def test_sites_are_held_out() -> None:
    split = split_cohort(_cohort(), {"train": 1.0, "by": {"site": ["C"]}})
    assert {m.site for m in split.parts["test"]} == {"C"}
    assert {m.site for m in split.parts["train"]} == {"A"}


def test_leaks_and_empty_parts_are_refused() -> None:
    with pytest.raises(LeakError, match="p01 stands in train and test"):
        split_cohort(_cohort(), {"train": ["p01"], "test": ["p1"]})
    with pytest.raises(ValueError, match="without patients"):
        split_cohort(_cohort(1), {"train": 0.8, "test": 0.2})
    with pytest.raises(ValueError, match="matches 0 patients"):
        split_cohort(_cohort(), {"train": ["q1"], "test": ["p1"]})


def test_few_patients_still_test() -> None:
    split = split_cohort(_cohort(2), {"train": 0.9, "test": 0.1})
    assert split.parts["test"]
    assert split.parts["train"]


def test_copies_are_found_and_relatives_are_not() -> None:
    rng = np.random.default_rng(0)
    brain = np.clip(1 - sum(g**2 for g in np.meshgrid(*[np.linspace(-1, 1, 24)] * 3)), 0, 1).astype(np.float32)
    train = {f"a{i}": (brain * (1 + 0.2 * rng.standard_normal(brain.shape))).astype(np.float32) for i in range(4)}
    copy = (train["a2"] * 1.7 + 0.002 * rng.standard_normal(brain.shape)).astype(np.float32)
    other = (brain * (1 + 0.2 * rng.standard_normal(brain.shape))).astype(np.float32)
    prints = {"train": {k: fingerprint(v) for k, v in train.items()}, "test": {"b": fingerprint(other)}}
    check_leakage(prints)
    prints["test"]["c"] = fingerprint(copy)
    with pytest.raises(LeakError, match=r"a2 \(train\) and c \(test\)"):
        check_leakage(prints)
    assert fingerprint(brain[0]).shape == (256,)
    assert fingerprint(brain[:5]).shape == (16**3,)

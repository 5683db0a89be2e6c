"""Simulated patients as files: the same bytes from worker processes, and nothing written twice."""

import hashlib
from pathlib import Path

import pytest

from fabrica.data.cohort import find
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.machine.executors import Dask
from fabrica.machine.folders import HELD, alone

PLAN = VirtualCohort(3, seed=4, spacing_mm=4, disease="ms", visits=2, planes=(14, 18))


def quiet(text: str) -> None:
    pass


def _bytes(folder: Path) -> dict[str, str]:
    files = [f for f in folder.rglob("*") if f.is_file()]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("virtual") / "local"
    assert write_cohort(PLAN, folder, quiet) == len(list(folder.rglob("*.nii.gz")))
    return folder


def test_the_same_bytes_from_worker_processes(local: Path, tmp_path: Path) -> None:
    said = list[str]()
    write_cohort(PLAN, tmp_path / "dask", said.append, Dask(workers=2))
    assert _bytes(tmp_path / "dask") == _bytes(local)
    assert len(said) == 6


def test_what_is_there_is_kept_and_what_is_missing_is_written(local: Path) -> None:
    before = _bytes(local)
    first = next(local.rglob("T1w.nii.gz"))
    times = {f: f.stat().st_mtime_ns for f in local.rglob("*.nii.gz")}
    first.unlink()
    write_cohort(PLAN, local, quiet)
    assert _bytes(local) == before
    again = {f for f in local.rglob("*.nii.gz") if f.stat().st_mtime_ns != times[f]}
    assert again == set(first.parent.glob("*.nii.gz"))  # that one case


def test_another_plan_is_no_reason_to_keep(local: Path) -> None:
    before = _bytes(local)
    write_cohort(VirtualCohort(3, seed=5, spacing_mm=4, disease="ms", visits=2, planes=(14, 18)), local, quiet)
    assert _bytes(local) != before


def test_a_written_cohort_says_who_its_patients_are(tmp_path: Path) -> None:
    plan = VirtualCohort(2, seed=4, spacing_mm=4, disease="ms", planes=(14, 16))
    write_cohort(plan, tmp_path, quiet)
    found = find(tmp_path).members
    for made, read in zip(plan.cohort().members, found, strict=True):
        assert read.patient == made.patient
        assert read.values["age"] == pytest.approx(made.values["age"])
        assert read.values["sex"] == made.values["sex"]


def test_a_folder_that_another_process_writes_into_is_left_alone(tmp_path: Path) -> None:
    with alone(tmp_path / HELD), pytest.raises(ValueError, match="is being written into by another process"):
        write_cohort(VirtualCohort(1, spacing_mm=4), tmp_path, lambda _: None)
    assert {p.name for p in tmp_path.iterdir()} == {HELD}

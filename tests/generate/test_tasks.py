"""Cases drawn by worker processes: the same bytes, nothing drawn twice, and a state that goes on."""

from pathlib import Path

import pytest

from fabrica import io
from fabrica.data.virtual import VirtualCohort
from fabrica.generate.scans import generate_images
from fabrica.machine.executors import Dask

from ..deliver.conftest import trained  # noqa: F401 (fixture)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for member in (
        VirtualCohort(4, first=30, spacing_mm=4, skull=True, planes=(18, 20), disease="none").cohort().members
    ):
        io.write_nifti(member.load(["T1w"]).images["T1w"], folder / member.patient / "T1w.nii.gz")
    return folder


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))}


def test_workers_give_the_same_bytes_in_the_same_order(trained: Path, scans: Path, tmp_path: Path) -> None:  # noqa: F811
    here = generate_images(trained, scans, tmp_path / "here", draws=2, say=lambda _: None)
    there = generate_images(trained, scans, tmp_path / "there", draws=2, say=lambda _: None, executor=Dask(workers=2))
    assert [p.relative_to(tmp_path / "here") for p in here] == [p.relative_to(tmp_path / "there") for p in there]
    assert _bytes(tmp_path / "here") == _bytes(tmp_path / "there")
    assert len(here) == 8


def test_what_was_drawn_from_the_same_is_kept_and_what_changed_is_drawn(
    trained: Path,  # noqa: F811
    scans: Path,
    tmp_path: Path,
) -> None:
    said: list[str] = []
    generate_images(trained, scans, tmp_path, say=said.append)
    assert sum("written" in line for line in said) == 4
    (one, two, *_) = sorted(tmp_path.rglob("*.nii.gz"))
    before = one.read_bytes()
    one.write_bytes(b"cut short")
    said.clear()
    generate_images(trained, scans, tmp_path, say=said.append)
    assert sum("kept" in line for line in said) == 3
    assert one.read_bytes() == before
    said.clear()
    generate_images(trained, scans, tmp_path, draws=2, say=said.append)  # other draws are another question
    assert not any("kept" in line for line in said)
    assert two.is_file()

"""The index: what is new or changed is read, what is gone is forgotten, in SQLite and in PostgreSQL alike."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from typer.testing import CliRunner

from fabrica.cli import app
from fabrica.data.index import Index, read_files
from fabrica.deliver.record import hash_of
from fabrica.io import UnreadableError
from fabrica.machine.executors import Dask, Local, SetAside


def write_slice(path: Path, patient: str, study: str, series: str, number: int = 1, **more: object) -> Path:
    """A CT slice of eight by eight."""
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    data.PatientID, data.PatientName, data.StudyInstanceUID, data.SeriesInstanceUID = patient, "Doe^Jane", study, series
    data.StudyDate, data.Modality, data.InstanceNumber = "20261101", "CT", number
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.Rows, data.Columns = [1, 1], 8, 8
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
    data.RescaleSlope, data.RescaleIntercept = 1, -1024
    for name, value in more.items():
        setattr(data, name, value)
    data.PixelData = np.full(64, number, "<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two patients who were given the same UIDs, one with two series; a text and a damaged file beside them."""
    folder = tmp_path / "archive"
    for k in range(3):
        write_slice(folder / "a" / f"{k}.dcm", "ANNA", "1.2.3", "1.2.3.1", k)
    write_slice(folder / "a" / "late.dcm", "ANNA", "1.2.3", "1.2.3.2", 1)
    write_slice(folder / "b" / "0.dcm", "BERT", "1.2.3", "1.2.3.1", 7)
    (folder / "README.md").write_text("about")
    (folder / "cut.dcm").write_bytes((folder / "b" / "0.dcm").read_bytes()[:400])
    return folder


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_studies_series_and_hashes(where: str, archive: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place = str(tmp_path / "index.sqlite") if where == "sqlite" else request.getfixturevalue("postgresql")
    with Index.open(place) as index:
        assert str(index.look(archive)).startswith("7 new, 0 changed, 0 as they were, 0 gone")
        found = list(index.lines())
        assert found[0].startswith("2 patients, 2 studies, 3 series, 5 images")
        assert found[1] == "  CT (dicom): 3 series"
        assert [line for line in found if "cut.dcm" in line]
        assert not [line for line in found if "README" in line]
        assert index.write_series(tmp_path / "series.csv") == 3
    rows = list(csv.DictReader((tmp_path / "series.csv").read_text().splitlines()))
    assert sorted((r["study"], r["series"], r["files"], r["images"]) for r in rows) == [
        ("1.2.3", "1.2.3.1", "1", "1"), ("1.2.3", "1.2.3.1", "3", "3"), ("1.2.3", "1.2.3.2", "1", "1"),
    ]  # fmt: skip
    assert len({r["patient"] for r in rows}) == 2
    assert not {r["patient"] for r in rows} & {"ANNA", "BERT"}
    assert b"Jane" not in (tmp_path / "series.csv").read_bytes()


@pytest.mark.parametrize("where", ["sqlite", "postgresql"])
def test_only_what_changed_is_read_again(
    where: str, archive: Path, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = str(tmp_path / "index.sqlite") if where == "sqlite" else request.getfixturevalue("postgresql")
    with Index.open(place) as index:
        index.look(archive)
        read: list[str] = []
        real = Path.open
        monkeypatch.setattr(Path, "open", lambda self, *a, **k: (read.append(self.name), real(self, *a, **k))[1])
        assert str(index.look(archive)).startswith("0 new, 0 changed, 7 as they were, 0 gone")
        assert not [name for name in read if name.endswith(".dcm")]
        write_slice(archive / "a" / "late.dcm", "CARL", "1.2.9", "1.2.9.1")
        (archive / "b" / "0.dcm").unlink()
        write_slice(archive / "c" / "0.dcm", "DORA", "1.2.8", "1.2.8.1")
        assert str(index.look(archive)).startswith("1 new, 1 changed, 5 as they were, 1 gone")
        assert next(iter(index.lines())).startswith("3 patients, 3 studies, 3 series, 5 images")
    with Index.open(place) as again:  # kept across processes; another folder is beside it, not instead of it
        assert str(again.look(archive / "a")).startswith("4 new")
        assert next(iter(again.lines())).startswith("3 patients")
        assert [line for line in again.lines() if "4 files more than once" in line]


def test_links_are_followed_once_as_a_cohort_follows_them(archive: Path, tmp_path: Path) -> None:
    write_slice(tmp_path / "elsewhere" / "0.dcm", "EVE", "1.2.7", "1.2.7.1")
    (archive / "linked").symlink_to(tmp_path / "elsewhere")
    (archive / "a" / "round").symlink_to(archive)
    with Index.open(str(tmp_path / "index.sqlite")) as index:
        assert str(index.look(archive)).startswith("8 new")
        assert next(iter(index.lines())).startswith("3 patients")


def test_workers_read_the_same(archive: Path, tmp_path: Path) -> None:
    for name, by in (("here", None), ("there", Dask(workers=2))):
        with Index.open(str(tmp_path / f"{name}.sqlite")) as index:
            index.look(archive, by)
            index.write_series(tmp_path / f"{name}.csv")
    assert (tmp_path / "here.csv").read_bytes() == (tmp_path / "there.csv").read_bytes()


def test_an_index_is_private_and_a_closed_folder_forgets_nothing(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.open(str(tmp_path / "index.sqlite")) as index:
        index.look(archive)
        assert oct((tmp_path / "index.sqlite").stat().st_mode)[-3:] == "600"
        real = os.scandir

        def closed(path: str) -> object:
            if str(path).endswith("/b"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        monkeypatch.setattr(os, "scandir", closed)
        with pytest.raises(UnreadableError, match="cannot be opened"):
            index.look(archive)
        monkeypatch.undo()
        assert next(iter(index.lines())).startswith("2 patients")
        shutil.rmtree(archive)
        with pytest.raises(UnreadableError, match="is no folder"):
            index.look(archive)
        assert next(iter(index.lines())).startswith("2 patients")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("mysql://a@b/c", "no database that is known"),
        ("postgresql://me:secret@127.0.0.1/db", "PGPASSWORD"),
        ("postgresql://me@127.0.0.1:1/db", "cannot be used as an index"),
        ("no.sqlite", "cannot be used as an index"),
    ],
)
def test_places_that_are_no_index(place: str, words: str, tmp_path: Path) -> None:
    if place == "no.sqlite":
        (tmp_path / place).write_text(
            "this is a text, and long enough to be taken for the head of a database file, twice" * 9
        )
        place = str(tmp_path / place)
    with pytest.raises(ValueError, match=words) as refused, Index.open(place):
        pass
    assert "secret" not in str(refused.value)


def test_the_verb(archive: Path, tmp_path: Path) -> None:
    def told(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["inspect", *map(str, words)])
        return done.exit_code, done.output

    index, table = tmp_path / "index.sqlite", tmp_path / "series.csv"
    code, text = told(archive, "--index", index, "--write-table", table)
    assert (code, text.splitlines()[0].split("(")[0]) == (0, f"{archive}: 7 new, 0 changed, 0 as they were, 0 gone ")
    assert "3 series written" in text
    assert told(archive, "--executor", "dask")[1].startswith("Workers read for an index")
    assert told(archive, "--index", index, "--unit", "CT=HU")[1].startswith("An index knows files")
    first = next(r for r in csv.DictReader(table.read_text().splitlines()) if r["files"] == "1")
    assert len(first["sha256"]) == 64
    assert hash_of(Path(first["first_file"]))


def test_files_that_may_not_be_opened_or_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_slice(tmp_path / "a.dcm", "ANNA", "1.2.3", "1.2.3.1")
    real = Path.open

    def closed(self: Path, *rest: object, **more: object) -> object:
        if self.name == "closed.dcm":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *rest, **more)  # type: ignore[call-overload]

    shutil.copy(tmp_path / "a.dcm", tmp_path / "closed.dcm")
    monkeypatch.setattr(Path, "open", closed)
    names = ("a.dcm", "closed.dcm", "gone.dcm")
    rows = read_files({"files": [[str(tmp_path / name), name] for name in names]})
    assert [(row["path"], row["fault"][:16], bool(row["sha256"])) for row in rows] == [
        ("a.dcm", "", True), ("closed.dcm", "cannot be opened", False),
    ]  # fmt: skip


def test_what_cannot_be_read_is_counted_beyond_the_first(archive: Path, tmp_path: Path) -> None:
    for k in range(3):
        shutil.copy(archive / "cut.dcm", archive / f"cut{k}.dcm")
    with Index.open(str(tmp_path / "index.sqlite")) as index:
        index.look(archive)
        assert list(index.lines(most=1))[-1] == "  ... and 3 more that cannot be read"


def test_a_task_that_ends_its_worker_names_its_files(archive: Path, tmp_path: Path) -> None:
    class Dying(Local):
        def results(self, work, tasks, say=None):  # type: ignore[no-untyped-def]
            yield 0, SetAside("memory")

    with Index.open(str(tmp_path / "index.sqlite")) as index, pytest.raises(UnreadableError, match="ended its worker"):
        index.look(archive, Dying())

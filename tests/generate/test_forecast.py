"""What drawing will cost: a line through two twins, what a process then takes, and what cannot be foretold."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fabrica import io
from fabrica.cli import app
from fabrica.data.cohort import Source, find
from fabrica.data.virtual import VirtualCohort
from fabrica.generate.forecast import Line, foretell_scans, taken_by, write_twin

from ..deliver.conftest import trained  # noqa: F401 (fixture)


def test_a_line_through_two_twins() -> None:
    line = Line.through([10, 20], [5.0, 7.0])
    assert (line.a, line.b) == (3.0, 0.2)
    assert line.at(100) == 23.0
    assert Line.through([10, 20], [5.0, 4.0]).at(100) == 4.0  # never less for more
    assert Line.through([10, 10], [5.0, 5.0]).at(10) == 5.0


def test_a_twin_is_like_its_scan(tmp_path: Path) -> None:
    (member,) = VirtualCohort(1, spacing_mm=4, planes=(18, 20)).cohort().members
    image = member.load(["CT"]).images["CT"]
    io.write_nifti(replace(image, meaning=replace(image.meaning, unit="HU")), tmp_path / "scans" / "a" / "CT.nii.gz")
    (found,) = find(tmp_path / "scans").members
    scan = found.scans_of(["CT"])[0]
    voxels = write_twin({"CT": scan}, tmp_path, 0.5)
    (twin,) = find(tmp_path / "twin").members
    read = twin.load(["CT"]).images["CT"]
    assert read.data[0].numel() == voxels
    assert [round(n * 0.5) for n in scan.shape[1:]] == list(read.data.shape[1:])
    assert torch.allclose(read.affine, torch.from_numpy(scan.affine), atol=1e-4)  # the same voxels, fewer of them
    assert (read.meaning.unit, float(read.data.min())) == ("HU", -1000.0)


@pytest.mark.slow
def test_it_tells_what_drawing_then_takes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for member in (
        VirtualCohort(2, first=30, spacing_mm=4, skull=True, planes=(18, 20), disease="none").cohort().members
    ):
        io.write_nifti(member.load(["T1w"]).images["T1w"], tmp_path / "scans" / member.patient / "T1w.nii.gz")
    done = CliRunner().invoke(
        app, ["plan", str(trained), "--data", str(tmp_path / "scans"), "--out", str(tmp_path / "plan.json")]
    )
    assert done.exit_code == 0, done.output
    assert "Drawing 2 cases, the largest of" in done.output
    told = json.loads((tmp_path / "plan.json").read_text())
    taken = taken_by("generate", str(trained), "--data", str(tmp_path / "scans"), "--out", str(tmp_path / "out"))
    assert 0.8 < told["memory_bytes"] / taken.memory_bytes < 1.25
    assert 0.2 < told["cpu_s"] / taken.cpu_s < 5  # benchmarks tell it closer
    assert told["disk_bytes"] > 0
    assert not list(tmp_path.glob("fabrica-plan-*"))


def test_memory_of_the_process_that_asks_does_not_count() -> None:
    held = bytearray(b"\1") * 1_500_000_000
    assert taken_by("list").memory_bytes < len(held) // 2


def test_what_cannot_be_foretold(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    (member,) = VirtualCohort(1, spacing_mm=4, planes=(18, 20), disease="none").cohort().members
    io.write_nifti(member.load(["FLAIR"]).images["FLAIR"], tmp_path / "other" / "a" / "FLAIR.nii.gz")
    with pytest.raises(ValueError, match="has T1w as image files"):
        foretell_scans(trained, Source(tmp_path / "other"), say=lambda _: None)
    io.write_nifti(member.load(["T1w"]).images["T1w"], tmp_path / "scans" / "a" / "T1w.nii.gz")
    monkeypatch.setattr(
        "fabrica.generate.forecast.write_twin", lambda scans, folder, scale: folder.mkdir(parents=True) or 1
    )
    with pytest.raises(ValueError, match="A twin of the largest case cannot be drawn: .*is empty"):
        foretell_scans(trained, Source(tmp_path / "scans"), say=lambda _: None)
    done = CliRunner().invoke(app, ["plan", str(trained)])
    assert "Type: fabrica plan" in done.output

"""Pairs measured by worker processes: the same rows as here, and what a worker cannot do is said."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.evaluate.judging.elsewhere import KEPT, measured_elsewhere, plain_scans, scans_of
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.io import UnreadableError
from fabrica.machine.executors import Dask, Local, Task, call
from fabrica.machine.folders import HELD, alone


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    affine = torch.diag(torch.tensor([3.0, 1, 1, 1])).double()[[2, 1, 0, 3]]
    rng = np.random.default_rng(0)
    for k in range(5):
        truth = rng.random((1, 3, 40, 40)).astype(np.float32)
        for side, data in (
            ("real", truth),
            ("drawn", truth + 0.1 * rng.random(truth.shape).astype(np.float32)),
            ("masks", truth > 0.3),
        ):
            image = Image(torch.from_numpy(np.asarray(data, np.float32)), "zyx", affine, Field("T1w"))
            io.write_nifti(image, tmp_path / side / f"p{k}.nii.gz")
    return Folders(tmp_path / "drawn", tmp_path / "real", tmp_path / "masks")


def test_the_rows_are_those_that_are_made_here(folders: Folders, tmp_path: Path) -> None:
    how = Asked(data_range=1.0, quick=True)
    for name, by in (("here", None), ("there", Dask(workers=2))):
        evaluate_folders(folders, tmp_path / name, replace(how, executor=by), lambda _: None, made="2026-01-01")
    assert (tmp_path / "here/cases.csv").read_bytes() == (tmp_path / "there/cases.csv").read_bytes()


def test_a_file_that_is_gone_is_said(folders: Folders) -> None:
    (scan,) = [s for s in io.scan_folder(folders.generated).scans if s.files[0].name == "p0.nii.gz"]
    plain = plain_scans({"generated": {"p0": scan}})
    assert scans_of(plain, "p0")["generated"].files == scan.files
    with pytest.raises(UnreadableError, match="is gone"):
        scans_of({"generated": {"p0": {**plain["generated"]["p0"], "member": "other"}}}, "p0")


class Counted(Local):
    """This process, which counts what it is asked."""

    def __init__(self, most: int = 99) -> None:
        super().__init__("cpu")
        self.asked, self.most = list[str](), most

    def results(self, name: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        for number, task in enumerate(tasks):
            if len(self.asked) == self.most:
                raise KeyboardInterrupt
            self.asked.append(task["name"])
            yield number, call(name, task)


def test_a_stopped_evaluation_measures_what_is_missing(folders: Folders, tmp_path: Path) -> None:
    how, said = Asked(data_range=1.0, quick=True), list[str]()
    evaluate_folders(folders, tmp_path / "whole", replace(how, executor=Counted()), lambda _: None, made="2026-01-01")
    with pytest.raises(KeyboardInterrupt):
        evaluate_folders(folders, tmp_path / "out", replace(how, executor=Counted(2)), lambda _: None)
    again = Counted()
    evaluate_folders(folders, tmp_path / "out", replace(how, executor=again), said.append, made="2026-01-01")
    assert len(again.asked) == 3
    assert "2 of 5 pairs were measured before." in said
    assert (tmp_path / "out/cases.csv").read_bytes() == (tmp_path / "whole/cases.csv").read_bytes()


@pytest.mark.parametrize("changed", ["image", "mask", "question"])
def test_what_was_changed_is_measured_anew(changed: str, folders: Folders, tmp_path: Path) -> None:
    how = Asked(data_range=1.0, quick=True)
    evaluate_folders(folders, tmp_path / "out", replace(how, executor=Counted()), lambda _: None)
    if changed == "question":
        how = replace(how, data_range=2.0)
    else:
        path = (folders.generated if changed == "image" else folders.masks or tmp_path) / "p1.nii.gz"
        image = io.read_image(path)
        io.write_nifti(replace(image, data=image.data.flip(-1)), path)
    again = Counted()
    evaluate_folders(folders, tmp_path / "out", replace(how, executor=again), lambda _: None)
    assert again.asked == (["p1.nii.gz"] if changed != "question" else [f"p{k}.nii.gz" for k in range(5)])


def test_a_record_that_was_cut_off_is_measured_anew(folders: Folders, tmp_path: Path) -> None:
    how = Asked(data_range=1.0, quick=True, executor=Counted())
    evaluate_folders(folders, tmp_path / "out", how, lambda _: None)
    path = next((tmp_path / "out" / KEPT).iterdir())
    path.write_text(path.read_text()[:-5])
    again = Counted()
    evaluate_folders(folders, tmp_path / "out", replace(how, executor=again), lambda _: None)
    assert len(again.asked) == 1


def test_how_far_it_is_is_said(folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fabrica.evaluate.judging.elsewhere.EVERY_S", 0.0)
    said = list[str]()
    evaluate_folders(folders, tmp_path / "out", Asked(data_range=1.0, quick=True, executor=Counted()), said.append)
    assert "3 of 5 pairs measured." in said


def test_a_report_that_another_process_makes_is_left_alone(folders: Folders, tmp_path: Path) -> None:
    with alone(tmp_path / "out" / HELD), pytest.raises(ValueError, match="is being written into by another process"):
        evaluate_folders(folders, tmp_path / "out", Asked(data_range=1.0, quick=True), lambda _: None)


def test_rows_come_in_the_order_of_their_pairs(tmp_path: Path) -> None:
    class Backwards(Local):
        def results(self, name: str, tasks: object) -> object:  # type: ignore[override]
            return reversed([(k, [[t["name"], "p", "", "model", "mae", 1.0, ""]]) for k, t in enumerate(tasks)])  # type: ignore[arg-type, var-annotated]

    found = measured_elsewhere(Backwards(), {n: {"found": {}} for n in "abc"}, tmp_path, lambda _: None)
    assert [rows[0].case for rows in found] == ["a", "b", "c"]

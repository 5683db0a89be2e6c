"""Pairs measured by worker processes: the same rows as here, and what a worker cannot do is said."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.evaluate.judging.elsewhere import measured_elsewhere, plain_scans, scans_of
from fabrica.evaluate.judging.folders import evaluate_folders
from fabrica.evaluate.judging.shelf import Asked, Folders
from fabrica.io import UnreadableError
from fabrica.machine.executors import Dask, Local


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


def test_rows_come_in_the_order_of_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Backwards(Local):
        def results(self, name: str, tasks: object) -> object:  # type: ignore[override]
            return reversed([(k, [[t["name"], "p", "", "model", "mae", 1.0, ""]]) for k, t in enumerate(tasks)])  # type: ignore[arg-type, var-annotated]

    found = measured_elsewhere(Backwards(), {n: {"found": {}} for n in "abc"}, lambda _: None)
    assert [rows[0].case for rows in found] == ["a", "b", "c"]

"""What a terminal shows of errors, and what happens when nobody listens."""

import errno
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer

from fabrica import io
from fabrica.cli.terminal import FAILED, bars, errors
from fabrica.machine.device import writing

FABRICA = f"{sys.executable} -m fabrica"


@pytest.fixture
def many(tmp_path: Path, make_image):  # type: ignore[no-untyped-def]
    for k in range(20):
        io.write_nifti(make_image((4, 8, 8)), tmp_path / f"d/p{k:02d}/T1w.nii.gz")
    return tmp_path / "d"


def test_a_closed_pipe_is_no_error(many: Path) -> None:
    line = f"{FABRICA} inspect {many} | head -1; echo codes ${{PIPESTATUS[@]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["20 patients, 20 visits", "codes 0 0"]
    assert not done.stderr


def test_a_full_disk_names_the_file_and_what_to_free(many: Path, tmp_path: Path) -> None:
    """A device that is always full stands where the contact sheet's table should be."""
    (tmp_path / "table.csv").symlink_to("/dev/full")
    line = f"{FABRICA} inspect {many} --write-table {tmp_path / 'table.csv'}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == FAILED
    assert f"{tmp_path / 'table.csv'} could not be written: No space left on device." in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr


def _fill_up(path: Path) -> None:
    with writing(path), Path("/dev/full").open("wb") as file:
        np.save(file, np.zeros(100_000), allow_pickle=False)
        file.flush()


def test_writers_that_leave_the_name_out_are_given_it(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        _fill_up(tmp_path / "a.npy")
    assert caught.value.filename == str(tmp_path / "a.npy")
    with pytest.raises(OSError, match="No such") as caught, writing(tmp_path / "a.npy"):
        (tmp_path / "none" / "b").write_text("x")
    assert caught.value.filename == str(tmp_path / "none" / "b")  # who names it is believed


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_every_kind_of_full(code: int, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(typer.Exit), errors():
        raise OSError(code, "full", str(tmp_path / "deep" / "file"))
    assert "MB are free there" in capsys.readouterr().err


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn, follows each stage, and is taken away."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    held = bars()
    with held as watch:
        for step in (1, 2):
            watch("model", SimpleNamespace(step=step, total=2, loss=0.5, images_per_second=3.0, seconds_left=1.0))
        assert held.bar is not None
        (task,) = held.bar.tasks
        assert (task.completed, task.total, task.description) == (2, 2, "model")
    assert held.bar.finished

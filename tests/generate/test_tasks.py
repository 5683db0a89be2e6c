"""Cases drawn by worker processes: the same bytes, nothing drawn twice, and a state that goes on."""

import json
import shutil
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from fabrica import io
from fabrica.contracts import Image
from fabrica.data.cohort import overlaid
from fabrica.data.virtual import VirtualCohort
from fabrica.deliver.record import hash_of
from fabrica.generate.scans import generate_images
from fabrica.generate.tasks import done_before, key_of, state_of
from fabrica.machine.executors import Dask
from fabrica.machine.folders import alone
from fabrica.run import draw
from fabrica.run.folder import RunFolder
from fabrica.run.sequence import continue_run

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


def test_what_a_table_says_is_part_of_what_was_asked(trained: Path, tmp_path: Path) -> None:  # noqa: F811
    """Another value of a case, or another state of any stage, is another question."""
    (member,) = VirtualCohort(1, spacing_mm=4).cohort().members
    task = {"stage": None, "draws": 1, "values": {}, "units": [], "device": "cpu", "threads": 1, "case": member.name,
            "shift": "warn", "watermark": None}  # fmt: skip
    keys = {key_of("s", task, overlaid(member, {}, {"age": age}), ["T1w"]) for age in (50.0, 51.0)}
    keys |= {key_of(state, {**task, "draws": n}, member, ["T1w"]) for state, n in (("s", 1), ("t", 1), ("s", 2))}
    assert len(keys) == 5
    copied = tmp_path / "run"
    shutil.copytree(trained, copied)
    before = state_of(RunFolder.open(copied))
    assert before == state_of(RunFolder.open(copied))
    (copied / "stages/model/evaluations.json").write_text("{}")
    assert state_of(RunFolder.open(copied)) != before


def test_two_processes_do_not_draw_into_one_folder(trained: Path, scans: Path, tmp_path: Path) -> None:  # noqa: F811
    with alone(tmp_path / ".running"), pytest.raises(ValueError, match="is being written into by another process"):
        generate_images(trained, scans, tmp_path, say=lambda _: None)
    with alone(trained / ".running"), pytest.raises(ValueError, match="is being run by another process"):
        continue_run(trained, say=lambda _: None)


def test_notes_that_lead_out_of_the_folder_are_not_believed(tmp_path: Path) -> None:
    outside, out = tmp_path / "secret.nii.gz", tmp_path / "out"
    outside.write_bytes(b"x")
    (out / ".done").mkdir(parents=True)
    plain = {"key": "k", "hashes": {"../secret.nii.gz": hash_of(outside)}, "files": {"T1w": ["../secret.nii.gz"]}}
    (out / ".done/p1.json").write_text(json.dumps(plain))
    assert done_before(out, "p1", "k") is None


def test_a_draw_is_written_and_let_go_before_the_next(
    trained: Path,  # noqa: F811
    scans: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    together = generate_images(trained, scans, tmp_path / "together", draws=3, say=lambda _: None)
    seen: list[weakref.ref[torch.Tensor]] = []
    write, drawn = io.write_nifti, draw.rows_drawn

    def watched(*asked: Any) -> torch.Tensor:
        assert all(one() is None for one in seen), "an earlier draw is still held"
        x: torch.Tensor = drawn(*asked)
        seen.append(weakref.ref(x.untyped_storage()))
        return x

    def noted(image: Image, path: Path) -> None:
        seen.append(weakref.ref(image.data))
        write(image, path)

    monkeypatch.setattr("fabrica.run.draw.VOXELS", 1)  # as if the scans were large
    monkeypatch.setattr("fabrica.run.draw.rows_drawn", watched)
    monkeypatch.setattr("fabrica.generate.tasks.io.write_nifti", noted)
    apart = generate_images(trained, scans, tmp_path / "apart", draws=3, say=lambda _: None)
    assert len(apart) == len(together) == 12
    assert len(seen) == 24
    for one, other in zip(together, apart, strict=True):
        assert torch.allclose(io.read_image(one).data, io.read_image(other).data, atol=1e-3)


def test_ctrl_c_at_workers_leaves_a_state_that_goes_on(trained: Path, scans: Path, tmp_path: Path) -> None:  # noqa: F811
    """What was drawn whole is kept, no worker stays, and the same command draws the rest."""
    words = [sys.executable, "-c", "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
             "from fabrica.cli import main; main()", "generate", str(trained), "--data", str(scans), "--out",
             str(tmp_path / "out"), "--draws", "30", "--executor", "dask", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(words, stderr=subprocess.STDOUT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if "30 draws written" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.wait(timeout=60) == 130, rest
    assert "Traceback" not in rest
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    done = {p.stem for p in (tmp_path / "out" / ".done").glob("*.json")}
    assert done
    said = list[str]()
    written = generate_images(trained, scans, tmp_path / "out", draws=30, say=said.append)
    assert len(written) == 120
    assert sum("kept" in line for line in said) == len(done)

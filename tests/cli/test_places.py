"""Verbs on folders of an object store: the same results as on folders of this machine, sent when they are done."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabrica import io
from fabrica.cli import main
from fabrica.data.virtual import VirtualCohort

from ..deliver.conftest import trained  # noqa: F401 (fixture)
from ..machine.object_store import keys, object_store, put


@pytest.fixture
def s3(tmp_path: Path) -> Iterator[str]:
    with object_store(tmp_path / "mirrors") as root:
        yield root


@dataclass(frozen=True)
class Done:
    """What the program said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def fabrica(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The console script, in this process."""

    def told(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["fabrica", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Done(int(ended.value.code or 0), said.out, said.err)

    return told


def _send(folder: Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            put(f"{name}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@pytest.mark.slow
def test_scans_runs_and_results_in_a_store(
    trained: Path,  # noqa: F811
    s3: str,
    tmp_path: Path,
    fabrica: Callable[..., Done],
) -> None:
    for member in VirtualCohort(2, first=30, spacing_mm=4, planes=(18, 20), disease="none").cohort().members:
        io.write_nifti(member.load(["T1w"]).images["T1w"], tmp_path / "scans" / member.patient / "T1w.nii.gz")
    _send(tmp_path / "scans", "cohort")
    _send(trained, "runs/ct")
    here = fabrica("generate", trained, "--data", tmp_path / "scans", "--out", tmp_path / "out")
    assert here.returncode == 0, here.stderr
    words = ("generate", f"{s3}/runs/ct", f"--data={s3}/cohort", "--out", f"{s3}/out", "--executor", "dask")
    there = fabrica(*words)
    assert there.returncode == 0, there.stderr
    assert f"Fetched from {s3}/cohort: 2 files" in there.stdout
    assert f"2 files in {s3}/out" in there.stdout
    assert "mirrors" not in there.stdout
    images = {p.relative_to(tmp_path / "out").as_posix(): p.read_bytes() for p in (tmp_path / "out").rglob("*.nii.gz")}
    found = keys()
    assert {name: found[f"out/{name}"] for name in images} == images
    assert {k for k in found if k.startswith("out/.done/")}
    assert b"mirrors" not in b"".join(v for k, v in found.items() if k.startswith("out/") and k.endswith(".json"))
    again = fabrica(*words)
    assert again.stdout.count("kept") == 2
    nobody = fabrica("generate", f"{s3}/runs/ct", "--data", f"{s3}/nobody", "--out", tmp_path / "none")
    assert (nobody.returncode, nobody.stderr) == (
        2, f"{s3}/nobody is empty. Give the folder that holds the scans: --data DIR.\n",
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_in_a_store_is_gone_on_with_elsewhere(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fabrica: Callable[..., Done]
) -> None:
    _virtual = VirtualCohort(4, spacing_mm=4, planes=(18, 20), disease="none").cohort().members
    for member in _virtual:
        image = member.load(["T1w", "T2w"]).images
        for name in image:
            io.write_nifti(image[name], tmp_path / "scans" / member.patient / f"{name}.nii.gz")
    _send(tmp_path / "scans", "cohort")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "cohorts: {all: {path: nowhere}}\n"
        "split: {train: 0.5, test: 0.5}\n"
        "job: {name: translation, from: [T1w], x: [T2w]}\n"
        "family: {name: regression, network: {channels: [8, 8], blocks: 1}}\n"
        "train: {steps: 3, batch: 2}\nevaluate: {draws: 1, realism: 0}\n"
    )
    done = fabrica("run", recipe, "--data", f"{s3}/cohort", "--runs", f"{s3}/runs", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert f"Run {s3}/runs/0001" in done.stdout
    found = keys()
    assert f"path: {s3}/cohort".encode() in found["runs/0001/recipe.yaml"]
    assert not [k for k in found if "/store/" in k]
    assert b"<html" in found["runs/0001/report/index.html"]
    monkeypatch.setenv("FABRICA_STORES", str(tmp_path / "elsewhere"))
    more = fabrica("run", f"{s3}/runs/0001", "--device", "cpu")
    assert more.returncode == 0, more.stderr
    assert keys()["runs/0001/stages/model/checkpoint.json"] == found["runs/0001/stages/model/checkpoint.json"]

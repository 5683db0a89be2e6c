"""The verbs as a user types them: help, exit codes, one-line errors, Ctrl-C that can be resumed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fabrica
from fabrica import io
from fabrica.cli import app
from fabrica.contracts import Image

ROOT = Path(fabrica.__file__).parents[1]
DEMO = ROOT / "recipes" / "demo.yaml"
TINY = (
    "cohorts.simulated.virtual.patients=3", "cohorts.simulated.virtual.spacing_mm=4", "cohorts.simulated.virtual.planes=[14,20]",
    "train.minutes=null", "train.steps=3", "train.batch=2", "family.network.channels=[8,16]", "evaluate.draws=1",
)  # fmt: skip
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


def call(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.output + (result.stderr if result.stderr_bytes else "")


def test_help_names_every_verb_and_is_quick() -> None:
    code, text = call("--help")
    assert code == 0
    for verb in ("run", "generate", "inspect", "evaluate", "virtual", "list", "doctor"):
        assert re.search(rf"\b{verb}\b", text)
        assert call(verb, "--help")[0] == 0
    heavy = "import sys, fabrica, fabrica.cli; print(sorted(m for m in ('torch', 'numpy', 'nibabel', 'scipy') if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_the_readme_names_every_verb() -> None:
    text = (ROOT / "README.md").read_text()
    for verb in ("run", "generate", "inspect", "evaluate", "virtual", "list", "doctor"):
        assert f"fabrica {verb}" in text


def test_list_is_plain() -> None:
    code, text = call("list", "family")
    assert code == 0
    assert text.splitlines() == sorted(text.splitlines())
    assert {"diffusion", "flow", "gan", "regression", "vae"} <= set(text.splitlines())
    assert "sampler heun" in call("list")[1]
    code, text = call("list", "famly")
    assert code == 2
    assert "Did you mean 'family'?" in text


def test_dry_run_reads_and_writes_nothing(tmp_path: Path) -> None:
    code, text = call("run", str(DEMO), "--dry-run", "--data", "/nowhere", "--runs", str(tmp_path / "runs"))
    assert code == 0
    assert "path: /nowhere" in text
    assert "model-baseline (regression)" in text
    assert not (tmp_path / "runs").exists()


def test_run_then_generate_then_evaluate(tmp_path: Path) -> None:
    code, text = call("run", str(DEMO), *SETTINGS, "--runs", str(tmp_path / "runs"))
    assert code == 0, text
    page = re.search(r"Report: (\S+)", text)
    assert page
    assert Path(page[1]).exists()
    code, text = call("virtual", "--out", str(tmp_path / "new"), "--patients", "1", "--spacing", "4", "--seed", "9")
    assert code == 0, text
    assert (tmp_path / "new" / "participants.tsv").exists()
    code, text = call(
        "generate",
        str(tmp_path / "runs" / "0001"),
        "--data",
        str(tmp_path / "new"),
        "--out",
        str(tmp_path / "out"),
        "--draws",
        "2",
    )
    assert code == 0, text
    assert len(list((tmp_path / "out").rglob("*.nii.gz"))) == 2
    for folder in ("a", "b"):
        io.write_nifti(
            io.read_image(tmp_path / "out" / "virtual0000" / "FLAIR-0.nii.gz"), tmp_path / folder / "p1" / "x.nii.gz"
        )
    code, text = call(
        "evaluate", "--generated", str(tmp_path / "a"), "--reference", str(tmp_path / "b"), "--out", str(tmp_path / "e")
    )
    assert code == 0, text
    assert "not evaluated: needs data_range" in (tmp_path / "e" / "cases.csv").read_text()


def test_wrong_input_is_one_line_and_code_two(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for words, message in (
        (("run", str(tmp_path / "none.yaml")), "There is no recipe"),
        (("run", str(tmp_path)), "is not a run"),
        (("run", str(DEMO), "--set", "train.stps=3"), "Did you mean 'steps'"),
        (("run", str(DEMO), "--data", str(tmp_path / "empty"), "--runs", str(tmp_path / "r")), "is empty"),
        (("inspect", str(tmp_path / "missing")), "does not exist"),
        (("generate", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path)), "is not a run"),
        (
            (
                "evaluate",
                "--generated",
                str(ROOT / "docs"),
                "--reference",
                str(ROOT / "recipes"),
                "--out",
                str(tmp_path / "e"),
            ),
            "holds no readable image",
        ),
    ):
        code, text = call(*words)
        assert (code, message in text) == (2, True), text
        assert "Traceback" not in text


def test_a_damaged_checkpoint_is_code_one(tmp_path: Path) -> None:
    assert call("run", str(DEMO), *SETTINGS, "--runs", str(tmp_path))[0] == 0
    (file,) = (tmp_path / "0001" / "stages" / "model").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-9])
    code, text = call("run", str(tmp_path / "0001"))
    assert code == 1
    assert "does not match its hash" in text


def test_inspect_writes_a_table_and_a_sheet(tmp_path: Path, make_image: Callable[..., Image]) -> None:
    for name in ("T1w", "FLAIR"):
        io.write_nifti(make_image(name=name), tmp_path / "d" / "p1" / f"{name}.nii.gz")
    (tmp_path / "d" / "notes.txt").write_text("x")
    (tmp_path / "d" / "broken.nii").write_text("x")
    code, text = call(
        "inspect", str(tmp_path / "d"), "--write-table", str(tmp_path / "t.csv"), "--sheet", str(tmp_path / "s.png")
    )
    assert code == 0, text
    for words in (
        "1 patient, 1 visit",
        "T1w: 1 (a.u.), 12 x 20 x 16 at 2 x 1 x 1.5 mm",
        "1 file of text",
        "broken.nii",
        "2 rows",
        "2 images",
    ):
        assert words in text
    assert (tmp_path / "s.png").stat().st_size > 500


def test_doctor() -> None:
    code, text = call("doctor")
    assert code == 0
    for words in ("in float32 / bfloat16; bfloat16 is ", ": runs use ", "GPU: ", " free; ", ".nii.gz is read by "):
        assert words in text


def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """Also where the tests run in the background: a shell starts such jobs with Ctrl-C ignored, and children inherit it."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    words = [
        sys.executable,
        "-c",
        f"{listen}; from fabrica.cli import main; main()",
        "run",
        str(DEMO),
        *SETTINGS,
        "--set",
        "train.steps=100000",
        "--runs",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stderr is not None
    with process.stderr:
        for line in process.stderr:
            if "/100000 loss" in line:
                break
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.wait(timeout=120) == 130
    assert re.search(r"Stopped at step \d+ of 100000; the state is saved.\s+Go on with: fabrica run \S+0001", rest)
    assert (tmp_path / "0001" / "stages" / "model" / "checkpoint.json").exists()


@pytest.mark.parametrize("name", ["demo", "translation", "synthesis", "segmentation"])
def test_shipped_recipes_run(name: str, tmp_path: Path) -> None:
    """Each recipe, cut down to seconds by --set alone."""
    small = [
        "train.minutes=null", "train.steps=2", "train.batch=2", "family.network.channels=[8,16]", "evaluate.draws=1",
    ]  # fmt: skip
    import yaml

    plain = yaml.safe_load((ROOT / "recipes" / f"{name}.yaml").read_text())
    cohort = next(iter(plain["cohorts"]))
    small += [f"cohorts.{cohort}.virtual.{k}" for k in ("patients=3", "spacing_mm=4", "planes=[14,20]")]
    code, text = call(
        "run",
        str(ROOT / "recipes" / f"{name}.yaml"),
        *[w for s in small for w in ("--set", s)],
        "--runs",
        str(tmp_path),
    )
    assert code == 0, text


def test_verbs_refuse_what_they_are_not_told(tmp_path: Path) -> None:
    place = str(tmp_path)
    for words, message in (
        (("adapt", place, "--out", str(tmp_path / "o")), "Whose scans are to be learned is not said"),
        (("generate", place, "--data", place, "--out", place, "--shift", "maybe"), "--shift warn or --shift refuse"),
        (("deidentify", str(tmp_path / "none"), "--out", place, "--key", str(tmp_path / "key")), "There is no folder"),
        (("review", "--readers", "0", "--store", str(tmp_path / "store")), "expected at least 1"),
        (("draft", place, "--data", place, "--out", str(tmp_path / "o")), "is not a run"),
        (("prefer", place, "--readers", place, "--draws", place, "--out", str(tmp_path / "o")), "is not a run"),
        (("export", place, "--out", str(tmp_path / "o.onnx")), "is not a run"),
        (("audit", place), "is not a run"),
    ):
        code, text = call(*words)
        assert (code, message in " ".join(text.split())) == (2, True), text
        assert "Traceback" not in text
    assert not (tmp_path / "o").exists()


def test_orders_that_a_run_of_days_or_parts_cannot_follow_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ["generate", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr("fabrica.generate.daily.gives_days", lambda *_: False)
    result = CliRunner().invoke(app, [*base, "--given", "T1w", "--shift", "refuse"])
    assert result.exit_code == 2
    assert "are not built for this kind of run yet" in " ".join(result.output.split())
    monkeypatch.setattr("fabrica.generate.daily.gives_days", lambda *_: True)
    result = CliRunner().invoke(app, [*base, "--value", "age=60"])
    assert result.exit_code == 2
    assert "Days are computed of what was planned and seen" in result.output
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    result = CliRunner().invoke(app, ["run", str(study), "--set", "a=b"])
    assert result.exit_code == 2
    assert "A frozen study takes patients and nothing else" in " ".join(result.output.split())

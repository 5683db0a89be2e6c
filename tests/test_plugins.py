"""A job from another package, with physics, a sampler and a metric of its own: everything works without a change here."""

import json
import sys
from pathlib import Path

import pytest
import torch

from fabrica import io
from fabrica.contracts import Batch
from fabrica.data.cases import prepare_case
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate import METRICS
from fabrica.families import Drawn
from fabrica.generate.scans import generate_images
from fabrica.jobs import JOBS
from fabrica.learning.loop import Interrupted, Progress
from fabrica.physics import OPERATORS
from fabrica.recipe.checks import RecipeError, from_plain
from fabrica.registry import Table
from fabrica.rng import Rng
from fabrica.run.answering import Answering
from fabrica.run.folder import RunFolder
from fabrica.run.question import Shown, question_of
from fabrica.run.sequence import continue_run, run_recipe
from fabrica.sampling import SAMPLERS
from fabrica.testing import check_job, check_metric, check_operator

PLUGINS = Path(__file__).parent / "plugins"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if pip had installed it: a folder on the path with the entry points beside the module."""
    monkeypatch.syspath_prepend(str(PLUGINS))


def _recipe(**changes: object) -> dict:
    virtual = {"patients": 4, "seed": 0, "spacing_mm": 4, "disease": "ms", "planes": [16, 20]}
    return {
        "cohorts": {"simulated": {"virtual": virtual}}, "split": {"train": 0.5, "test": 0.5},
        "job": {"name": "fourier_lines", "x": "T1w"}, "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}},
        "sampler": {"name": "pulled", "steps": 4}, "train": {"steps": 6, "batch": 2, "precision": "fp32"},
        "evaluate": {"draws": 2, "metrics": ["bright_volume_error"], "evaluations": [2], "realism": 0}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sys.path.insert(0, str(PLUGINS))
    try:
        folder = tmp_path_factory.mktemp("runs") / "0001"
        run_recipe(from_plain(_recipe()), folder, say=lambda _: None)
    finally:
        sys.path.remove(str(PLUGINS))
    return folder


@pytest.mark.parametrize(("table", "name"), [(JOBS, "fourier_lines"), (OPERATORS, "fourier_lines"), (SAMPLERS, "pulled"), (METRICS, "bright_volume_error")])  # fmt: skip
def test_it_is_found_by_its_entry_points(table: Table, name: str) -> None:
    assert name in table.names()
    assert table.find(name)


def test_it_keeps_the_laws() -> None:
    job = JOBS.find("fourier_lines")()
    batch = Batch(("a/0", "b/0"), {"T1w": torch.rand(2, 1, 16, 16)}, torch.eye(4).expand(2, 4, 4))
    check_job(job, batch)
    check_operator(OPERATORS.find("fourier_lines")(), torch.randn(2, 1, 16, 16))
    check_metric(METRICS.find("bright_volume_error"))
    asked = job.question(batch, Rng([1, 2])).measurements["lines"]
    assert asked.value.is_complex()
    alone = Batch(("b/0",), {"T1w": batch.images["T1w"][1:]}, batch.affine[1:])
    torch.testing.assert_close(job.question(alone, Rng([2])).measurements["lines"].value, asked.value[1:])


def test_it_is_trained_drawn_judged_and_costed(finished: Path) -> None:
    (stage,) = json.loads((finished / "report/report.json").read_text())[
        "stages"
    ]  # no image is given: no regression beside it
    found = {(r["by"], r["metric"]): r for r in stage["cases"]}
    for by in ("model: one draw", "model: mean of draws", "lines alone", "training mean image"):
        for metric in ("mae", "psnr", "bright_volume_error"):
            if by != "training mean image" or (by, metric) in found:
                assert isinstance(found[by, metric]["value"], float), (by, metric)
    assert found["model: one draw", "bright_volume_error"]["unit"] == "ml"
    assert [c["evaluations"] for c in stage["costs"]] == [2, 4]
    assert (finished / "report/index.html").stat().st_size > 10_000


def test_what_was_measured_is_used(finished: Path) -> None:
    """The pull brings a draw to its own y: far less is left of the misfit than without it."""
    plain = from_plain(_recipe())
    answering = Answering(RunFolder(finished, plain), plain.stages[0])
    (member, *_) = VirtualCohort(1, 9, 4, planes=(16, 20)).cohort().members
    prepared = prepare_case(member, ["T1w"], "T1w", answering.preparation)
    problem = question_of(answering.job, [Shown(prepared)], answering.layout, 0, torch.device("cpu"))
    (measured,) = problem.measurements.values()
    left = []
    for pull in (0.0, 1.0):
        told = Drawn(answering.family.prior, SAMPLERS.find("pulled"), {"steps": 12, "pull": pull})
        left.append(float(measured.nll(told.sample(problem, Rng(range(len(problem.cases))))).mean()))
    assert left[1] < 0.5 * left[0]


def test_it_is_generated_on_new_data(finished: Path, tmp_path: Path) -> None:
    (member,) = VirtualCohort(1, 9, 4, planes=(16, 20)).cohort().members
    io.write_nifti(member.load(["T1w"]).images["T1w"], tmp_path / "new/p1/T1w.nii.gz")
    io.write_nifti(member.load(["T2w"]).images["T2w"], tmp_path / "new/p2/T2w.nii.gz")
    said: list[str] = []
    written = generate_images(finished, tmp_path / "new", tmp_path / "out", draws=2, say=said.append)
    assert [p.name for p in written] == ["T1w-0.nii.gz", "T1w-1.nii.gz"]
    assert any(line.startswith("p2: has none of T1w") for line in said)


def _rows(run: Path) -> list[bytes]:
    return [line for line in (run / "report/cases.csv").read_bytes().splitlines() if b"seconds" not in line]


def test_it_goes_on_where_it_stopped(finished: Path, tmp_path: Path) -> None:
    """A training that was stopped ends with the rows of one that was not; judged again it gives the same."""

    def stop(stage: str, progress: Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        run_recipe(from_plain(_recipe()), tmp_path / "run", say=lambda _: None, watch=stop)
    continue_run(tmp_path / "run", say=lambda _: None)
    assert _rows(tmp_path / "run") == _rows(finished)
    continue_run(tmp_path / "run", say=lambda _: None)
    assert _rows(tmp_path / "run") == _rows(finished)


def test_what_does_not_fit_is_refused_before_a_run() -> None:
    plain = _recipe()
    del plain["sampler"]
    with pytest.raises(RecipeError, match="would ignore the measurements"):
        from_plain(plain)
    with pytest.raises(RecipeError, match="cannot use Lines with Gaussian"):
        from_plain(_recipe(sampler={"name": "repaint"}))
    with pytest.raises(RecipeError, match="Unknown metric 'bright_volume_eror'"):
        from_plain(_recipe(evaluate={"metrics": ["bright_volume_eror"]}))

"""One value changed: what is asked, the truth of simulated patients, what the report says, what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from fabrica.contracts import Field
from fabrica.data.cases import prepare_case
from fabrica.data.changed import CHANGED, changed_value, with_truths
from fabrica.data.prepare import GridPreparation
from fabrica.data.virtual import VirtualCohort
from fabrica.evaluate.sets.embedding import Picture
from fabrica.evaluate.sets.reader import Reader
from fabrica.jobs import Counterfactual
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.judge_changes import _Changed
from fabrica.run.sequence import run_recipe

from .test_jobs import _batch

PLAIN = {
    "cohorts": {
        "well": {"virtual": {"patients": 14, "disease": "none", "spacing_mm": 4, "planes": [20, 23]}},
        "ill": {"virtual": {"patients": 12, "first": 500, "disease": "ms", "spacing_mm": 4, "planes": [20, 23]}},
    },
    "split": {"train": 0.7, "test": 0.3}, "baseline": "none",
    "job": {"name": "counterfactual", "x": ["FLAIR"], "values": {"by": {"disease": ["none", "ms", "tumour", "stroke"]}}, "change": {"disease": "none"}},
    "family": {"name": "flow", "network": {"channels": [8, 16], "blocks": 1}}, "sampler": {"name": "posterior", "steps": 2},
    "train": {"steps": 4, "batch": 4, "precision": "fp32"}, "evaluate": {"draws": 1, "realism": 0},
}  # fmt: skip


def test_the_report_says_what_changed_what_spilt_and_who_it_is(tmp_path: Path) -> None:
    result = run_recipe(from_plain(PLAIN), tmp_path / "run", say=lambda _: None)
    rows = {(r.by, r.metric) for r in result.report.stages[0].cases}
    assert {("model", "changed by"), ("model", "change outside of lesions over inside")} <= rows
    for by in ("model", "unchanged"):
        assert (by, "mae to the true counterfactual") in rows
        assert (by, "mae to the true counterfactual in lesions") in rows
    for by in ("model", "unchanged", "the true counterfactual"):
        assert (by, "read as disease none") in rows
    assert "still himself" in {f.name for f in result.report.stages[0].figures}
    ill = {f"virtual{number:04d}" for number in range(500, 512)}
    assert {r.case for r in result.report.stages[0].cases} <= ill  # nobody is asked to be what he is
    page = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    assert page["stages"][0]["job"] == "counterfactual"


def test_a_question_shows_the_image_and_another_value() -> None:
    batch = _batch()
    job = Counterfactual(["T1w", "T2w"], {"class": "b"}, {"by": {"class": ["a", "b", "c"]}, "covariates": ["age"]})
    problem = job.question(batch, Rng(range(4)))
    assert problem.condition.values["class"].tolist() == [1, 1, 1, 1]
    torch.testing.assert_close(problem.condition.values["age"], (batch.values["age"] - 50) / 20)
    (seen,) = problem.measurements.values()
    torch.testing.assert_close(seen.value, torch.cat([batch.images["T1w"], batch.images["T2w"]], 1))
    assert bool(seen.operator.known.all())
    older = Counterfactual(["T1w"], {"age": "+10"}, {"covariates": ["age"]}).question(batch, Rng(range(4)))
    torch.testing.assert_close(older.condition.values["age"], (batch.values["age"] + 10 - 50) / 20)


def test_the_truth_of_a_simulated_patient() -> None:
    members = VirtualCohort(patients=3, disease="ms", spacing_mm=4, planes=[20, 24]).cohort().members
    (member, *_) = with_truths(members, ["FLAIR"], {"disease": "none"})
    images = member.load(["FLAIR", CHANGED + "FLAIR", "lesion"]).images
    own, true, lesion = (images[n].data for n in ("FLAIR", CHANGED + "FLAIR", "lesion"))
    off = (own - true).abs()
    inside, brain = lesion > 0.5, own > 100
    assert float(off[inside].mean()) > 4 * float(off[brain & ~inside].mean())
    (older, *_) = with_truths(members, ["T1w"], {"age": "+30"})
    images = older.load(["T1w", CHANGED + "T1w"]).images
    now, then = (float((images[n].data[images[n].data > 20] < 150).float().mean()) for n in ("T1w", CHANGED + "T1w"))
    assert then > now  # more of the brain is fluid
    assert with_truths(members, ["T1w"], {"class": "b"}) == members


def test_the_truth_is_held_against_the_image_on_one_scale() -> None:
    """A bright tumour moves the percentile that an image is scaled by: without it, the rest of the brain is the same."""
    members = VirtualCohort(patients=1, disease="tumour", spacing_mm=4, planes=[20, 24]).cohort().members
    (member, *_) = with_truths(members, ["FLAIR"], {"disease": "none"})
    preparation = GridPreparation("zyx", None, (4, 16, 16), {})
    case = prepare_case(member, ["FLAIR", CHANGED + "FLAIR", "lesion"], "FLAIR", preparation)
    assert case.traces[CHANGED + "FLAIR"].scale < 0.9 * case.traces["FLAIR"].scale
    found = _Changed.of(case, "FLAIR", case.tensors["FLAIR"][0].double().numpy())
    assert found.lesion is not None
    assert found.true is not None
    off = np.abs(found.true - found.before)
    outside = found.inside & ~ndimage.binary_dilation(found.lesion, iterations=2)
    assert float(np.median(off[outside])) < 0.01
    assert float(off[found.lesion].mean()) > 0.1


def test_values_change_by_word_and_by_step() -> None:
    assert changed_value("ms", "none") == "none"
    assert changed_value(50.0, "+10") == 60
    assert changed_value(50, "-7.5") == 42.5
    with pytest.raises(ValueError, match="a step from a number"):
        changed_value("ms", "+1")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"sex": "F"}, "expected one of its values, class"), ({"class": "d"}, "none of a, b"), ({}, "expected one of")],
)
def test_what_cannot_be_changed(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Counterfactual(["T1w"], change, {"by": {"class": ["a", "b"]}})


def test_a_reader_reads_what_textures_say() -> None:
    rng = np.random.default_rng(0)

    def picture(noise: float, name: str) -> Picture:
        y, x = np.mgrid[:32, :32]
        inside = np.hypot(y - 16, x - 16) < 13
        return Picture(
            name, name, (inside * (1 + 0.3 * np.sin(x / 5)) + noise * rng.normal(size=inside.shape)), inside, (1.0, 1.0)
        )

    levels = rng.uniform(0.02, 0.3, 30)
    pictures = [picture(n, f"p{k}") for k, n in enumerate(levels)]
    number = Reader.of(pictures, list(levels), Field("noise", "number", 1, "x"), "")
    assert abs(number.told(picture(0.25, "new")) - 0.25) < 0.08
    words = ["loud" if n > 0.15 else "calm" for n in levels]
    kind = Reader.of(pictures, words, Field("kind", "class", 2, "", ("calm", "loud")), "loud")
    assert kind.told(picture(0.3, "new")) > 0.8 > 0.2 > kind.told(picture(0.03, "new"))
    assert Reader.of(pictures[:4], words[:4], Field("kind", "class", 2, "", ("calm", "loud")), "loud") is None
    assert Reader.of(pictures, ["calm"] * 30, Field("kind", "class", 2, "", ("calm", "loud")), "loud") is None

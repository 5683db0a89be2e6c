"""The next visit from two earlier ones: which visits make a case, rivals in closed form, runs and new patients."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.data import cohort
from fabrica.data.followed import AHEAD, APART, BEFORE, LAST, TREATED_AHEAD, TREATED_BEFORE, followed, impossible
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.courses import Course, Courses
from fabrica.evaluate.metrics.task import csf_volume_error
from fabrica.generate.scans import generate_images
from fabrica.jobs import Progression
from fabrica.recipe.checks import from_plain
from fabrica.rng import Rng
from fabrica.run.sequence import run_recipe
from fabrica.testing import check_job

from .test_jobs import _followed


def test_the_job_keeps_the_laws() -> None:
    check_job(Progression("T1w"), _followed())
    with pytest.raises(ValueError, match="expected years above 0"):
        Progression(years_ahead=0)


def test_each_visit_that_two_came_before_is_a_case() -> None:
    members = VirtualCohort(2, visits=4, years_between=1.5, spacing_mm=4).cohort().members
    cases = followed(members[::-1], "T1w")  # whatever the order of files
    assert [(m.patient, m.visit) for m in cases] == [(f"virtual{p:04d}", f"visit{v}") for p in (1, 0) for v in (2, 3)]
    assert {cases[0].values[AHEAD], cases[0].values[APART]} == {1.5}
    (coming, _) = followed(members, "T1w", years_ahead=3.0)
    assert (coming.visit, coming.values[AHEAD], coming.days) == ("next", 3.0, pytest.approx(365.25 * 7.5))
    assert set(coming.contrasts()) >= {LAST + "T1w", BEFORE + "T1w"}
    assert "T1w" not in coming.contrasts()
    assert followed(members, "bold") == ()
    assert followed(members[:2], "T1w") == ()


def test_visits_are_those_before_it_and_not_itself() -> None:
    members = VirtualCohort(1, visits=3, years_between=4, spacing_mm=4, planes=(18, 20)).cohort().members
    (case,) = followed(members, "T1w")
    images = case.load(["T1w", LAST + "T1w", BEFORE + "T1w", "brain_mask"]).images
    for name, member in (("T1w", members[2]), (LAST + "T1w", members[1]), (BEFORE + "T1w", members[0])):
        assert torch.equal(images[name].data, member.load(["T1w"]).images["T1w"].data)
        assert images[name].meaning.name == name
    assert "brain_mask" in images
    assert case.load(["T1w"]).values == case.values  # nothing that only the visit to come knows
    assert case.values["age"] == members[1].values["age"]  # as it is when somebody asks
    (coming,) = followed(members[:2], "T1w", 4.0)
    assert {n: coming.values[n] for n in ("age", AHEAD, APART)} == {n: case.values[n] for n in ("age", AHEAD, APART)}


def test_two_visits_on_one_day_are_refused() -> None:
    members = VirtualCohort(1, visits=3, spacing_mm=4).cohort().members
    with pytest.raises(ValueError, match="on one day"):
        followed([replace(m, days=0.0) for m in members], "T1w")


def test_rivals_are_what_they_say() -> None:
    job, batch = Progression("T1w"), _followed()
    years = torch.linspace(1, 3, len(batch.cases))
    batch = replace(batch, values={**batch.values, AHEAD: years, APART: torch.full_like(years, 2.0)})
    last, before = (batch.images[mark + "T1w"] for mark in (LAST, BEFORE))
    found = job.rivals(job.question(batch, Rng(range(len(batch.cases)))))
    assert torch.equal(found["nothing changes"], last)
    wanted = (last + (years / 2).reshape(-1, 1, 1, 1) * (last - before)).clamp(min=0)
    torch.testing.assert_close(found["the change goes on"], wanted)


def test_the_volume_of_fluid_is_counted_in_millilitres() -> None:
    brain = np.ones((4, 10, 10), bool)
    truth = np.ones(brain.shape)
    truth[:, :2] = 0.1  # 80 voxels of fluid
    drawn = np.ones(brain.shape)
    drawn[:, :3] = 0.1
    assert csf_volume_error(drawn, truth, brain_mask=brain, spacing_mm=(2, 2, 2)) == pytest.approx(40 * 8 / 1000)
    assert csf_volume_error(truth, truth, brain_mask=brain, spacing_mm=(2, 2, 2)) == 0
    with pytest.raises(ValueError, match="some brain"):
        csf_volume_error(drawn, truth, brain_mask=~brain, spacing_mm=(2, 2, 2))


PLAIN = {
    "cohorts": {
        "all": {"virtual": {"patients": 5, "visits": 3, "years_between": 3, "spacing_mm": 4, "planes": [18, 21]}}
    },
    "job": {"name": "progression", "x": "T1w", "years_ahead": 3},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "baseline": "none",
    "train": {"steps": 10, "batch": 4, "precision": "fp32"},
    "evaluate": {"realism": 0, "evaluations": []},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("progression")
    run_recipe(from_plain(PLAIN), folder / "run", say=lambda _: None)
    return folder


def test_a_run_is_scored_beside_its_rivals(finished: Path) -> None:
    rows = (finished / "run/report/cases.csv").read_text()
    for by in ("model", "nothing changes", "the change goes on"):
        for metric in ("psnr", "csf_volume_error"):
            assert f"T1w,{by},{metric}" in rows
    page = (finished / "run/report/index.html").read_text()
    assert "the change goes on" in page


def test_new_patients_are_asked_about_the_visit_to_come(finished: Path) -> None:
    members = VirtualCohort(1, first=50, visits=2, years_between=2, spacing_mm=4, planes=(18, 21)).cohort().members
    for number, member in enumerate(members):
        image = member.load(["T1w"]).images["T1w"]
        io.write_nifti(
            replace(image, meaning=Field("T1w")),
            finished / "new/sub-01" / f"ses-{number}" / f"sub-01_ses-{number}_T1w.nii.gz",
        )
    (finished / "new/sub-01/sub-01_sessions.tsv").write_text("session_id\tdays\tage\nses-0\t0\t60\nses-1\t730.5\t62\n")
    said: list[str] = []
    (path,) = generate_images(
        finished / "run", finished / "new", finished / "out", values={"years ahead": "4"}, say=said.append
    )
    assert path.parent.name == "sub-01_next"
    drawn: Image = io.read_image(path)
    assert drawn.data.shape == image.data.shape
    assert len(cohort.find(finished / "new").members) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"years ahead": "-2"}, "expected more than 0: the visit that is drawn comes after"),
        ({"years ahead": "0"}, "expected more than 0"),
        ({"years ahead": "nan"}, "is a number"),
    ],
)
def test_a_visit_to_come_is_not_asked_for_in_the_past(finished: Path, value: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        generate_images(finished / "run", finished / "new", finished / "past", values=value, say=lambda _: None)


def test_shares_of_treatment_are_shares() -> None:
    assert "expected a share from 0 to 1" in impossible(TREATED_AHEAD, 1.5)
    assert impossible(TREATED_BEFORE, 0.5) == impossible("age", -3.0) == ""


def test_a_visit_before_its_baseline_is_said(tmp_path: Path) -> None:
    for k, member in enumerate(VirtualCohort(1, visits=2, spacing_mm=4, planes=(18, 20)).cohort().members):
        image = replace(member.load(["T1w"]).images["T1w"], meaning=Field("T1w"))
        io.write_nifti(image, tmp_path / "sub-01" / f"ses-{k}" / f"sub-01_ses-{k}_T1w.nii.gz")
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tdays\nses-0\t0\nses-1\t-30\n")
    (odd,) = [o for o in cohort.find(tmp_path).oddities if "baseline" in o.fault]
    assert "lies 30 days before its baseline" in odd.fault
    assert odd.severity == "warning"


COURSES = {"gap_years": [0.5, 5], "treated": 0.5, "effect": 0.6, "speeds_up": 0.5}


def test_courses_bend_and_pass_at_their_own_pace() -> None:
    course = Course((0.0, 2.0, 4.0), start=1.0, end=math.inf, effect=0.5, bend=3.0, faster=2.0)
    assert [course.worn(t) for t in (1.0, 3.0, 4.0)] == [1.0, 2.0, 3.0]
    assert [course.treated(t) for t in (0.5, 3.0)] == [0.0, 2.0]
    assert course.otherwise(2.0, False).worn(4.0) == 1.5 + 1.0 + 2.0
    assert course.otherwise(2.0, False).worn(2.0) == course.worn(2.0)
    late = Course((0.0, 2.0, 4.0), start=3.5, end=math.inf, effect=0.5, bend=math.inf, faster=1.0)
    assert late.otherwise(2.0, True).worn(4.0) == 3.0
    assert late.otherwise(2.0, False).worn(4.0) == 4.0
    drawn = [Courses.of(COURSES).drawn(3, Rng([k])) for k in range(200)]
    gaps = np.diff([c.visits for c in drawn])
    assert 0.5 <= gaps.min() < 1 < 4.5 < gaps.max() <= 5
    assert 0.4 < np.mean([c.start < math.inf for c in drawn]) < 0.6
    for wrong in ({"gaps": 1}, {"effect": 1.5}, {"gap_years": [3, 1]}, {"treated": 2.0}):
        with pytest.raises(ValueError, match=r"courses|gaps"):
            Courses.of(wrong)


def test_treatment_and_uneven_times_are_known_and_nothing_of_the_answer() -> None:
    members = VirtualCohort(12, visits=4, spacing_mm=4, disease="none", courses=COURSES).cohort().members
    cases = followed(members, "T1w", fewest=1, most=3)
    assert len(cases) == 36
    first, second, third = cases[:3]
    assert set(first.contrasts()) & {BEFORE + "T1w"} == set()
    assert BEFORE + "T1w" in second.contrasts()
    assert "third last visit's T1w" in third.contrasts()
    assert APART not in first.values
    assert "years since the third last" in third.values
    assert all(0 <= m.values["treated ahead"] <= 1 for m in cases)
    assert "treated_years" not in first.values
    own = [m for m in members if m.patient == third.patient]
    gap = (own[3].days - own[2].days) / 365.25
    ahead = (own[3].values["treated_years"] - own[2].values["treated_years"]) / gap
    assert third.values["treated ahead"] == pytest.approx(ahead)
    odd = [replace(m, course=replace(m.course, start=-9.0)) if m is own[3] else m for m in own]
    with pytest.raises(ValueError, match="Correct the column treated_years"):
        followed(odd, "T1w")
    (coming, *_) = followed(members, "T1w", 2.0, fewest=1, most=3)
    assert "treated ahead" not in coming.values  # is to be said


def test_a_patient_who_was_seen_once_stays_as_he_is() -> None:
    job, batch = Progression("T1w", least=1), _followed()
    seen = torch.zeros(len(batch.cases), dtype=torch.bool)
    found = job.rivals(job.question(replace(batch, present={BEFORE + "T1w": seen}), Rng(range(4))))
    torch.testing.assert_close(found["the change goes on"], found["nothing changes"])


def test_a_change_is_learned_and_given_back() -> None:
    job, batch = Progression("T1w", form="change"), _followed()
    rng = Rng(range(len(batch.cases)))
    target = job.problem(batch, rng).target
    torch.testing.assert_close(job.finished(target, job.question(batch, rng)), batch.images["T1w"])
    for wrong in ({"form": "field"}, {"earlier": 5}, {"least": 0}):
        with pytest.raises(ValueError, match="progression"):
            Progression(**wrong)


def test_a_report_says_what_treatment_changes_and_what_is_true(tmp_path: Path) -> None:
    cohort_of = {"patients": 6, "visits": 3, "disease": "none", "spacing_mm": 4, "planes": [18, 21], "courses": COURSES}
    job = {"name": "progression", "x": "T1w", "treatment": True, "earlier": 3, "least": 1, "form": "change"}
    plain = {**PLAIN, "cohorts": {"all": {"virtual": cohort_of}}, "job": job, "split": {"train": 0.5, "test": 0.5}}
    result = run_recipe(from_plain(plain), tmp_path / "run", say=lambda _: None)
    figures = {f.by: f for f in result.report.stages[0].figures if "treatment effect" in f.name}
    assert set(figures) == {"model", "the truth"}
    assert figures["the truth"].value < 0  # it spares the brain: less fluid a year

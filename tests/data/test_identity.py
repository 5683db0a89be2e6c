"""Who is who: names, folders, tables; what has two readings is said and refuses to be split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fabrica import io
from fabrica.contracts import Image
from fabrica.data import cohort, inspection
from fabrica.data.split import split_cohort
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]


def _volumes(folder: Path, names: list[str], make_image: MAKE, kind: str = "intensity") -> None:
    for i, name in enumerate(names):
        io.write_nifti(make_image((12, 24, 24), seed=i, kind=kind), folder / name)


def _pictures(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Picture.fromarray(np.random.default_rng(i).integers(0, 255, (12, 12)).astype(np.uint8)).save(path)


def _who(folder: Path, table: Path | None = None) -> list[tuple[str, str, tuple[str, ...]]]:
    return [(m.patient, m.visit, m.contrasts()) for m in cohort.find(folder, table).members]


def test_nnunet_channels_and_labels_are_of_one_case(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, [f"imagesTr/la_00{k}_000{c}.nii.gz" for k in (3, 4) for c in (0, 1)], make_image)
    _volumes(tmp_path, ["labelsTr/la_003.nii.gz", "labelsTr/la_004.nii.gz"], make_image, "label")
    assert _who(tmp_path) == [(f"la_00{k}", "", ("image", "image1", "label")) for k in (3, 4)]
    (tmp_path / "dataset.json").write_text('{"channel_names": {"0": "T1", "1": "T2-FLAIR"}}')
    assert _who(tmp_path)[0] == ("la_003", "", ("FLAIR", "T1w", "label"))


def test_brats_time_points_are_visits(tmp_path: Path, make_image: MAKE) -> None:
    names = [
        f"BraTS-GLI-0000{p}-00{v}/BraTS-GLI-0000{p}-00{v}-{c}.nii.gz"
        for p in (0, 1)
        for v in (0, 1)
        for c in ("t1n", "t2f")
    ]
    _volumes(tmp_path, names, make_image)
    assert _who(tmp_path) == [(f"BraTS-GLI-0000{p}", f"00{v}", ("FLAIR", "T1w")) for p in (0, 1) for v in (0, 1)]


def test_slices_of_a_patient_stay_together(tmp_path: Path) -> None:
    _pictures(tmp_path, [f"p0{p}_slice00{z}.png" for p in (1, 2) for z in (0, 1)])
    assert [who[:2] for who in _who(tmp_path)] == [(f"p0{p}", f"slice00{z}") for p in (1, 2) for z in (0, 1)]
    _pictures(tmp_path / "in", [f"images/p0{p}-z{z}.png" for p in (1, 2) for z in (0, 1)])
    assert {who[0] for who in _who(tmp_path / "in")} == {"p01", "p02"}


def test_pictures_listed_in_a_table_are_of_whom_it_says(tmp_path: Path) -> None:
    _pictures(tmp_path, [f"png/{name}.png" for name in ("a1", "b2", "c3", "d4")])
    (tmp_path / "data.csv").write_text("patient_id,image_id,sex,age\nX,a1,f,60\nX,b2,f,61\nY,c3,m,40\n")
    found = cohort.find(tmp_path)
    assert {m.name: dict(m.values) for m in found.members if m.patient in ("X", "Y")} == {
        "X_a1": {"sex": "f", "age": 60}, "X_b2": {"sex": "f", "age": 61}, "Y_c3": {"sex": "m", "age": 40},
    }  # fmt: skip
    assert len(found.patients) == 3


def test_folders_of_patients_may_lie_in_a_folder_of_a_collection(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(
        tmp_path, [f"ms_data/patient0{p}/{v}/t1.nii.gz" for p in (1, 2) for v in ("baseline", "later")], make_image
    )
    assert [who[:2] for who in _who(tmp_path)] == [(f"patient0{p}", v) for p in (1, 2) for v in ("baseline", "later")]


def test_a_mask_is_a_label_whatever_its_folder_is_called(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, ["aorta_cta/ct_cropped.nii.gz"], make_image)
    _volumes(tmp_path, ["aorta_cta/aorta.nii.gz", "contours/p1/T1.nii.gz"], make_image, "label")
    found = {m.patient: {c: m.scans[c].kind for c in m.contrasts()} for m in cohort.find(tmp_path).members}
    assert found["aorta_cta"] == {"CT": "intensity", "aorta": "label"}
    assert found["p1"] == {"label": "label"}


def test_single_bytes_may_be_intensities(tmp_path: Path) -> None:
    import nibabel

    noise = np.random.default_rng(0).integers(0, 139, (10, 10, 10)).astype(np.uint8)
    (tmp_path / "p1").mkdir()
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), tmp_path / "p1" / "hippo.nii.gz")
    (member,) = cohort.find(tmp_path).members
    assert member.scans["image"].kind == "intensity"


def test_two_readings_of_a_name_refuse_a_split(tmp_path: Path) -> None:
    _pictures(tmp_path, [f"case{p}_{k}.png" for p in (1, 2, 3) for k in (1, 2)])
    found = cohort.find(tmp_path)
    assert len(found.doubts) == 6
    assert len(found.patients) == 3  # the reading that cannot leak, until a table settles it
    text = "\n".join(inspection.lines(found))
    assert "6 names with two readings" in text
    assert "case1_1 may be image 1 of patient case1, or a patient of its own" in text
    with pytest.raises(ValueError, match=r"Who is whose patient is not clear: case1_1 .* and 5 more.*--write-table"):
        split_cohort(found, {"train": 0.7, "test": 0.3})
    table = tmp_path / "files.csv"
    cohort.write_table(found, table, tmp_path)
    settled = cohort.find(tmp_path, table)
    assert not settled.doubts
    assert split_cohort(settled, {"train": 0.7, "test": 0.3}).parts["test"]


@pytest.mark.parametrize("names", [
    ["hippocampus_001", "hippocampus_002"], ["BraTS20_Training_001", "BraTS20_Training_002"], ["img1", "img2"], ["a_1", "b_2"],
])  # fmt: skip
def test_names_with_one_reading_are_no_doubt(tmp_path: Path, make_image: MAKE, names: list[str]) -> None:
    _volumes(tmp_path, [f"{name}.nii.gz" for name in names], make_image)
    found = cohort.find(tmp_path)
    assert not found.doubts
    assert len(found.patients) == 2


def test_pictures_without_any_hint_are_said_and_not_refused(tmp_path: Path) -> None:
    _pictures(tmp_path, [f"Hand/{k:06d}.png" for k in range(4)])
    found = cohort.find(tmp_path)
    assert not found.doubts
    assert any("claims are per image" in line for line in inspection.lines(found))


def test_demographics_are_joined_by_exact_identifiers(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, [f"sub-{name}/anat/sub-{name}_T1w.nii.gz" for name in ("NC01", "PD01")], make_image)
    table = "participant_id\tage\tsex\nsub-NC01\t30\tF\nsub-PD01\t70\tM\n"
    for text, encoding in (
        (table, "utf-8"),
        (table, "utf-8-sig"),
        (table.replace("\t", ";"), "utf-16"),
        (table.replace("sub-", ""), "utf-8"),
    ):
        (tmp_path / "participants.tsv").write_bytes(text.encode(encoding))
        assert {m.patient: dict(m.values) for m in cohort.find(tmp_path).members} == {
            "sub-NC01": {"age": 30, "sex": "F"}, "sub-PD01": {"age": 70, "sex": "M"},
        }  # fmt: skip


def test_a_bare_number_is_joined_only_where_it_can_mean_one(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, ["patient07/t1.nii.gz", "patient19/t1.nii.gz"], make_image)
    (tmp_path / "info.csv").write_text("patient_id,age\n7,53\n19,47\n")
    found = cohort.find(tmp_path)
    assert {m.patient: m.values["age"] for m in found.members} == {"patient07": 53, "patient19": 47}
    assert any("7 is read as patient07" in o.fault for o in found.oddities)
    _volumes(tmp_path, ["control07/t1.nii.gz"], make_image)  # now 7 may be two people
    found = cohort.find(tmp_path)
    assert all("age" not in m.values for m in found.members)
    assert any("names none of the patients here" in o.fault for o in found.oddities)


def test_rows_that_contradict_each_other_are_refused_by_row(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, ["p1/t1.nii.gz"], make_image)
    (tmp_path / "info.csv").write_text("patient,weight_kg\np1,70\np1,80\n")
    with pytest.raises(
        UnreadableError, match=r"info.csv:3: says weight_kg 80.0 of p1, and an earlier row says 70.0.*visit"
    ):
        cohort.find(tmp_path)


def test_each_visit_has_its_values_and_days(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, [f"sub-A01/ses-0{v}/anat/sub-A01_ses-0{v}_T1w.nii.gz" for v in (1, 2)], make_image)
    (tmp_path / "participants.tsv").write_text("participant_id\tsex\nsub-A01\tF\n")
    sessions = tmp_path / "sub-A01" / "sub-A01_sessions.tsv"
    sessions.write_text("session_id\tage\tacq_time\nses-01\t60\t2020-01-01T10:00:00\nses-02\t61\t2020-12-31T09:00:00\n")
    first, second = cohort.find(tmp_path).members
    assert (first.days, dict(first.values)) == (0, {"sex": "F", "age": 60})
    assert (second.days, dict(second.values)) == (365, {"sex": "F", "age": 61})
    sessions.write_text("session_id\tage\tdays\nses-02\t61\t400\nses-01\t60\t0\n")
    assert [m.days for m in cohort.find(tmp_path).members] == [0, 400]


def test_a_table_with_a_row_a_visit_tells_them_apart(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, [f"p1/study{v}_t1.nii.gz" for v in (1, 2)], make_image)
    (tmp_path / "values.csv").write_text("patient,visit,weight_kg,days\np1,study1,70,0\np1,study2,66,203\n")
    assert [(m.visit, m.days, m.values["weight_kg"]) for m in cohort.find(tmp_path).members] == [
        ("study1", 0, 70),
        ("study2", 203, 66),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (",T1w,", r"t.csv:3: has no patient"), ("b,,", r"t.csv:3: has no contrast"), ("b,T1w,soon", r"t.csv:3: has the days 'soon', expected a number"),
        ("b,T1w,inf", r"t.csv:3: has the days 'inf'"),
    ],
)  # fmt: skip
def test_rows_that_say_too_little_are_named(tmp_path: Path, make_image: MAKE, row: str, words: str) -> None:
    _volumes(tmp_path / "d", ["x.nii.gz", "y.nii.gz"], make_image)
    (tmp_path / "t.csv").write_text(f"file,patient,contrast,days\nx.nii.gz,a,T1w,0\ny.nii.gz,{row}\n")
    with pytest.raises(UnreadableError, match=words):
        cohort.find(tmp_path / "d", tmp_path / "t.csv")


def test_a_file_shows_one_patient(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path / "d", ["x.nii.gz"], make_image)
    (tmp_path / "t.csv").write_text("file,patient,contrast\nx.nii.gz,a,T1w\nx.nii.gz,b,T2w\n")
    with pytest.raises(UnreadableError, match=r"t.csv:3: names x.nii.gz again, as row 2 does"):
        cohort.find(tmp_path / "d", tmp_path / "t.csv")


def test_days_between_dicom_studies_are_counted(tmp_path: Path) -> None:
    from ..io.test_meaning import series

    for k, when in enumerate(("20200101", "20201231")):
        series(tmp_path / when, "MR", StudyDate=when, StudyInstanceUID=f"1.{k}", SeriesInstanceUID=f"1.{k}.1")
    assert [(m.visit, m.days) for m in cohort.find(tmp_path).members] == [("20200101", 0), ("20201231", 365)]


def test_real_folders_say_who_is_who(real_data: Path) -> None:
    covid = cohort.find(real_data / "longitudinal" / "cxr_covid")
    assert (len(covid.members), len(covid.patients)) == (90, 36)
    sarcoma = "\n".join(inspection.lines(cohort.find(real_data / "ct_pet_mr" / "sarcoma")))
    assert "PET: 8 (SUV?, values 0 to " in sarcoma
    assert "CT: 8 (HU by its name, values -1000 to " in sarcoma
    aorta = cohort.find(real_data / "ct").members[0]
    assert {c for c in aorta.contrasts() if aorta.scans[c].kind == "label"} == {
        "aorta",
        "label",
        "vertebrae_T12".lower(),
    }
    assert not cohort.find(real_data / "mri_hippocampus").doubts


@pytest.mark.parametrize(("names", "who"), [
    (["controls/A01/t1", "controls/A02/t1", "MS/A03/t1"], [("A01", ""), ("A02", ""), ("A03", "")]),
    (["siteA/101/t1", "siteA/102/t1"], [("101", ""), ("102", "")]),
    (["p1_baseline_t1", "p1_followup_t1"], [("p1", "baseline"), ("p1", "followup")]),
    (["p1_2020-01-05_t1", "p1_20210311_t1"], [("p1", "2020-01-05"), ("p1", "20210311")]),
    (["101/2020/t1", "101/2021/t1"], [("101", "2020"), ("101", "2021")]),
    (["anna/ses-1/t1", "bert/ses-2/t1"], [("anna", "1"), ("bert", "2")]),
    (["anna/tp1/t1", "anna/tp2/t1", "bert/tp1/t1"], [("anna", "tp1"), ("anna", "tp2"), ("bert", "tp1")]),
])  # fmt: skip
def test_groups_sites_and_dates_are_no_patients(tmp_path: Path, make_image: MAKE, names: list[str], who: list) -> None:
    _volumes(tmp_path, [f"{name}.nii.gz" for name in names], make_image)
    assert sorted(w[:2] for w in _who(tmp_path)) == sorted(who)


@pytest.mark.parametrize("names", [
    ["p1a", "p1b", "p2a", "p2b"], ["p1_left", "p1_right", "p2_left"], ["covid/patient01_1", "covid/patient01_2", "covid/patient02_1"], ["ill/person1_bacteria_1", "ill/person1_bacteria_2", "ill/person2_bacteria_3"],
])  # fmt: skip
def test_letters_and_numbers_inside_classes_are_doubted_too(tmp_path: Path, names: list[str]) -> None:
    _pictures(tmp_path, [f"{name}.png" for name in names])
    found = cohort.find(tmp_path)
    assert found.doubts
    with pytest.raises(ValueError, match="Who is whose patient"):
        split_cohort(found, {"train": 0.5, "test": 0.5})


def test_names_that_would_share_a_folder_are_told_apart_or_refused(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, ["m\u00fcller/t1.nii.gz", "m\u00f6ller/t1.nii.gz"], make_image)
    assert len({m.name for m in cohort.find(tmp_path).members}) == 2
    _volumes(tmp_path, ["a b/t1.nii.gz", "a+b/t1.nii.gz"], make_image)
    with pytest.raises(
        UnreadableError, match=r"'a\+b' and 'a b' would share the name a-b|'a b' and 'a\+b' would share the name a-b"
    ):
        cohort.find(tmp_path)


def test_zeros_in_front_and_other_ages(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(
        tmp_path,
        ["sub-01/ses-01/anat/sub-01_ses-01_T1w.nii.gz", "sub-02/ses-01/anat/sub-02_ses-01_T1w.nii.gz"],
        make_image,
    )
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage_at_scan\tage_of_onset\nsub-1\t60\t31\nsub-2\t50\t20\n"
    )
    (tmp_path / "sub-01/sub-01_sessions.tsv").write_text("session_id\tweight_kg\nses-1\t70\n")
    first, second = cohort.find(tmp_path).members
    assert dict(first.values) == {"age": 60, "age_of_onset": 31, "weight_kg": 70}
    assert dict(second.values) == {"age": 50, "age_of_onset": 20}


def test_pictures_of_one_name_are_not_joined_by_it(tmp_path: Path) -> None:
    _pictures(tmp_path, ["train/001.png", "test/001.png", "train/1.2.3.png"])
    (tmp_path / "data.csv").write_text("patient_id,image_id\nA,001\nB,1.2.3\n")
    assert "A" not in {who[0] for who in _who(tmp_path)}
    assert ("B", "1.2.3", ("image",)) in _who(tmp_path)


def test_a_written_table_keeps_labels_and_says_no_more_than_was_known(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path / "d", ["p1/t1.nii.gz"], make_image)
    _volumes(tmp_path / "d", ["p1/lung.nii.gz"], make_image, "label")
    cohort.write_table(cohort.find(tmp_path / "d"), tmp_path / "t.csv", tmp_path / "d")
    (member,) = cohort.find(tmp_path / "d", tmp_path / "t.csv").members
    assert {c: (s.kind, s.unit_from) for c, s in member.scans.items()} == {
        "T1w": ("intensity", ""),
        "lung": ("label", ""),
    }


def test_masks_of_any_number_format_are_labels_and_smooth_bytes_are_not(tmp_path: Path) -> None:
    import nibabel

    ball = (np.linalg.norm(np.indices((16, 16, 16)) - 7.5, axis=0) < 5).astype(np.int16)
    smooth = np.repeat(np.repeat(np.arange(16, dtype=np.uint8)[:, None, None], 16, 1), 16, 2)
    for name, data in (("heart", ball), ("liver", ball.astype(np.float32)), ("T1w", smooth)):
        (tmp_path / "p1").mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "p1" / f"{name}.nii.gz")
    (member,) = cohort.find(tmp_path).members
    assert {c: s.kind for c, s in member.scans.items()} == {"T1w": "intensity", "heart": "label", "liver": "label"}


def test_a_unit_for_nothing_is_said(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(tmp_path, ["p1/t1.nii.gz"], make_image)
    assert any("no image is called PETT" in o.fault for o in cohort.find(tmp_path, units={"PETT": "SUV"}).oddities)


def test_pictures_of_different_sizes_are_no_pair(tmp_path: Path) -> None:
    from fabrica.data.cases import load_aligned

    for name, side in (("T1w", 32), ("T2w", 64)):
        (tmp_path / "p1").mkdir(exist_ok=True)
        Picture.fromarray(np.zeros((side, side), np.uint8)).save(tmp_path / "p1" / f"{name}.png")
    members = cohort.find(tmp_path).members
    (member,) = members
    assert member.contrasts() == ("T1w", "T2w")
    with pytest.raises(UnreadableError, match="picture of another size"):
        load_aligned(member, ["T1w", "T2w"], "T1w")


def test_folders_with_two_readings_are_doubted(tmp_path: Path, make_image: MAKE) -> None:
    """Nobody is lost, and nobody is split over training and testing."""
    _volumes(tmp_path, [f"{who}/{k}/t1.nii.gz" for who in ("anna", "bert") for k in (1, 2)], make_image)
    found = cohort.find(tmp_path)
    assert len(found.members) == 4
    assert "anna/1 may be visit 1 of anna, or patient 1 of a group" in found.doubts


def test_visits_at_the_end_of_a_folders_name(tmp_path: Path, make_image: MAKE) -> None:
    _volumes(
        tmp_path,
        ["OAS1_0001_MR1/t1.nii.gz", "OAS1_0001_MR2/t1.nii.gz", "p01_tp1/t1.nii.gz", "p01_tp2/t1.nii.gz"],
        make_image,
    )
    assert [w[:2] for w in _who(tmp_path)] == [
        ("OAS1_0001", "mr1"),
        ("OAS1_0001", "mr2"),
        ("p01", "tp1"),
        ("p01", "tp2"),
    ]


@pytest.mark.parametrize("named", ["", "ANONYMOUS", " anon "])
def test_headers_that_name_nobody_are_doubted(tmp_path: Path, named: str) -> None:
    from ..io.test_meaning import series

    series(tmp_path / "a", PatientID=named, StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1")
    assert not cohort.find(tmp_path).doubts  # one image is of one patient
    series(tmp_path / "b", PatientID=named, StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1")
    (doubt,) = cohort.find(tmp_path).doubts
    assert "their headers name nobody" in doubt


def test_a_letter_and_three_digits_may_be_a_visit_or_somebody(tmp_path: Path, make_image: MAKE) -> None:
    """M101 of a site is a person, m120 of a patient is ten years later."""
    _volumes(tmp_path / "sites", [f"siteA/M{k}/t1.nii.gz" for k in (101, 102)], make_image)
    assert "siteA/M101 may be visit M101 of siteA, or patient M101 of a group" in cohort.find(tmp_path / "sites").doubts
    _volumes(tmp_path / "years", [f"002_S_0413/m{k}/t1.nii.gz" for k in ("06", "120")], make_image)
    found = cohort.find(tmp_path / "years")
    assert not found.doubts
    assert found.patients == ("002_S_0413",)

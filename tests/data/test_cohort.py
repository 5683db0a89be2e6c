"""Names, folders, tables and headers say who is who."""

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fabrica import io
from fabrica.contracts import Image
from fabrica.data import cohort, inspection, vocabulary
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]


def _tree(folder: Path, names: list[str], make_image: MAKE) -> cohort.Cohort:
    for i, name in enumerate(names):
        io.write_nifti(make_image(seed=i), folder / name)
    return cohort.find(folder)


def _who(found: cohort.Cohort) -> dict[str, tuple[str, ...]]:
    return {m.name: m.contrasts() for m in found.members}


def test_bids(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(
        tmp_path,
        [f"sub-{s}/ses-{v}/anat/sub-{s}_ses-{v}_{c}.nii.gz" for s in "ab" for v in "12" for c in ("T1w", "FLAIR")],
        make_image,
    )
    assert _who(found) == {f"sub-{s}_{v}": ("FLAIR", "T1w") for s in "ab" for v in "12"}


def test_plain_folders_and_visits(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(
        tmp_path,
        ["patient01/study1_T1W.nii.gz", "patient01/study2_T1W.nii.gz", "patient02/flair_brain.nii.gz"],
        make_image,
    )
    assert _who(found) == {"patient01_study1": ("T1w",), "patient01_study2": ("T1w",), "patient02": ("FLAIR",)}


def test_images_beside_labels(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(tmp_path, [f"{kind}/case_{i}.nii.gz" for kind in ("images", "labels") for i in (1, 2)], make_image)
    assert _who(found) == {"case_1": ("image", "label"), "case_2": ("image", "label")}
    assert found.members[0].load(["label"]).images["label"].meaning.kind == "label"


def test_flat_names(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(
        tmp_path,
        ["BraTS_001_t1.nii.gz", "BraTS_001_t1ce.nii.gz", "BraTS_001_seg.nii.gz", "BraTS_002_t2.nii.gz"],
        make_image,
    )
    assert _who(found) == {"brats_001": ("T1ce", "T1w", "label"), "brats_002": ("T2w",)}


def test_a_table_overrules_names(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(tmp_path / "d", ["a.nii.gz", "b.nii.gz"], make_image)
    table = tmp_path / "files.csv"
    assert cohort.write_table(found, table, tmp_path / "d") == 2
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for row, contrast in zip(rows, ("T1w", "lesion"), strict=True):
        row |= {"patient": "p9", "contrast": contrast, "site": "C", "age": "61"}
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (member,) = cohort.find(tmp_path / "d", table).members
    assert member.contrasts() == ("T1w", "lesion")
    assert member.site == "C"
    assert member.values["age"] == 61
    assert member.load(["lesion"]).images["lesion"].meaning.kind == "label"


def test_wrong_tables_are_refused(tmp_path: Path, make_image: MAKE) -> None:
    _tree(tmp_path / "d", ["a.nii.gz"], make_image)
    (tmp_path / "t.csv").write_text("file,patient\na.nii.gz,p\n")
    with pytest.raises(UnreadableError, match="lacks the column contrast"):
        cohort.find(tmp_path / "d", tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("file,patient,contrast\nz.nii.gz,p,T1w\n")
    with pytest.raises(UnreadableError, match=r"t.csv:2: names 'z.nii.gz'"):
        cohort.find(tmp_path / "d", tmp_path / "t.csv")


def test_a_second_image_of_one_contrast_is_told(tmp_path: Path, make_image: MAKE) -> None:
    found = _tree(tmp_path, ["p1/t1_a.nii.gz", "p1/t1_b.nii.gz"], make_image)
    assert any("second T1w" in o.fault for o in found.oddities)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("T1POST_N4_regtoFLAIR", "T1ce"), ("T1_N4_regtoFLAIR_brain", "T1w"), ("GOLD_STANDARD_N4", "lesion"), ("x_fla_bet", "FLAIR"),
     ("sub_T2star", "T2star"), ("brain_mask", "brain_mask"), ("nothing", "")],
)  # fmt: skip
def test_words(name: str, expected: str) -> None:
    assert vocabulary.contrast_of(vocabulary.tokens(name))[0] == expected


def test_real_folders(real_data: Path) -> None:
    ms = cohort.find(real_data / "mri_multicontrast" / "ms_mni")
    assert _who(ms) == dict.fromkeys(("patient07", "patient19"), ("FLAIR", "T1ce", "T1w", "T2w", "lesion"))
    assert ms.members[0].values["age"] == 53
    longitudinal = cohort.find(real_data / "longitudinal" / "ms_mri")
    assert _who(longitudinal)["patient01_study2"] == ("FLAIR", "T1w", "T2w")
    hippocampus = cohort.find(real_data / "mri_hippocampus")
    assert len(hippocampus.patients) == 150
    assert set(_who(hippocampus).values()) == {("image", "label")}
    assert len({m.values["class"] for m in cohort.find(real_data / "images_2d" / "busi").members}) == 3


def test_inspection(tmp_path: Path, real_data: Path) -> None:
    found = cohort.find(real_data / "dicom_samples")
    text = "\n".join(inspection.lines(found))
    assert "patients" in text
    assert "odd:" in text
    assert inspection.contact_sheet(found, tmp_path / "sheet.png") > 10
    assert (tmp_path / "sheet.png").stat().st_size > 1000


def test_a_sheet_says_what_cannot_be_read_and_ends_where_it_is_full(tmp_path: Path, make_image: MAKE) -> None:
    for k in range(3):
        io.write_nifti(make_image(seed=k), tmp_path / f"p{k}" / "T1w.nii.gz")
        io.write_nifti(make_image(seed=k, name="lesion", kind="label", unit=""), tmp_path / f"p{k}" / "lesion.nii.gz")
    found = cohort.find(tmp_path)
    assert inspection.contact_sheet(found, tmp_path / "sheet.png", most=5) == 5
    for path in (tmp_path / "p0").glob("*.nii.gz"):
        path.write_bytes(path.read_bytes()[:400])
    assert inspection.contact_sheet(found, tmp_path / "sheet.png") == 6
    assert any("label" in line for line in inspection.lines(found))
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="nothing to show"):
        inspection.contact_sheet(replace(found, members=[]), tmp_path / "none.png")

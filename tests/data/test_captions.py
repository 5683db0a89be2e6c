"""Pictures with the words that a table says of them: read beside their images, and learned as subwords."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image as Picture

from fabrica.data import cohort
from fabrica.data.subwords import Subwords, learned_from


def _pictures(folder: Path, names: list[str]) -> None:
    for k, name in enumerate(names):
        Picture.fromarray(np.full((16, 16), 40 * k, np.uint8)).save(folder / name)


def test_words_of_a_table_without_patients_stand_beside_their_pictures(tmp_path: Path) -> None:
    """Whose picture it is stays as its name says; a picture that the table leaves out has no words."""
    _pictures(tmp_path, ["a.png", "b.png", "c.png"])
    (tmp_path / "captions.csv").write_text('file,caption,view\na.png,"Clear, both lungs",PA\nc.png,Opacity left,AP\n')
    found = {m.name: m.values for m in cohort.find(tmp_path).members}
    assert [found[name].get("caption") for name in ("a", "b", "c")] == ["Clear, both lungs", None, "Opacity left"]
    assert found["c"]["view"] == "AP"


def test_a_table_that_says_patients_too_joins_pictures_to_them(tmp_path: Path) -> None:
    _pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "list.csv").write_text("patient,file,caption\np1,a.png,first\np1,b.png,second\n")
    members = cohort.find(tmp_path).members
    assert {m.patient for m in members} == {"p1"}
    assert [m.values["caption"] for m in members] == ["first", "second"]


def test_captions_take_no_patient_away(tmp_path: Path) -> None:
    """Two tables of the same pictures: one says whose they are, the other what is seen; neither undoes the other."""
    _pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "a.csv").write_text("file,patient\na.png,p1\nb.png,p1\n")
    (tmp_path / "captions.csv").write_text("file,caption\na.png,first\nb.png,second\n")
    found = cohort.find(tmp_path)
    assert found.patients == ("p1",)
    assert [m.values["caption"] for m in found.members] == ["first", "second"]


def test_two_values_of_one_case_are_said(tmp_path: Path) -> None:
    for name in ("sub-01_T1w.nii", "sub-01_T2w.nii"):
        nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4)), tmp_path / name)
    (tmp_path / "q.csv").write_text("file,quality\nsub-01_T1w.nii,good\nsub-01_T2w.nii,poor\n")
    assert any("says quality" in o.fault for o in cohort.find(tmp_path).oddities)


@pytest.mark.parametrize("row", ["a.png,", ",nobody's words"])
def test_a_row_that_says_nothing_adds_nothing(tmp_path: Path, row: str) -> None:
    _pictures(tmp_path, ["a.png", "b.png"])
    (tmp_path / "captions.csv").write_text(f"file,caption\nb.png,words\n{row}\n")
    found = {m.name: dict(m.values) for m in cohort.find(tmp_path).members}
    assert found == {"a": {}, "b": {"caption": "words"}}


def test_real_captions_are_read_and_come_back_from_their_subwords(real_data: Path) -> None:
    """Words of articles about chest radiographs: long, with marks and figures; what is new to them is said."""
    members = cohort.find(real_data / "text_image" / "cxr_captions").members
    texts = [str(m.values["caption"]) for m in members]
    assert len(texts) == 6
    assert {m.values["finding"] for m in members} == {"COVID-19"}
    assert all(m.load(["image"]).images["image"].axes == "yx" for m in members)
    words = Subwords(learned_from(texts, 512), 400)
    for row, text in zip(words.words(texts), texts, strict=True):
        assert words.text(row).replace(" ", "") == text.lower().replace(" ", "")
    assert all(words.fault(text) == "" for text in texts)
    assert "single letters or unknown" in words.fault("xyzzy qwfp zxcv")
    assert "and the model reads 20" in Subwords(words.learned, 20).fault(texts[1])

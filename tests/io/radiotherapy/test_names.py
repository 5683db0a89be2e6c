"""What structures are called: names that mean the same, and names that only look alike."""

import pytest

from fabrica.io.radiotherapy.names import known_as, plain


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("SpinalCord", "SpinalCord"), ("Spinal Cord", "SpinalCord"), ("cord", "SpinalCord"), ("Brain_Stem", "Brainstem"),
        ("Parotid_L", "LeftParotid"), ("Lt Parotid", "LeftParotid"), ("RIGHT PAROTID", "RightParotid"),
        ("ParotidRt", "RightParotid"), ("RightParotid", "RightParotid"), ("Bone_Mandible", "Mandible"),
        ("Oesophagus", "Esophagus"), ("Lt Lung", "Lung_L"), ("Lungs", "Lungs"), ("BODY", "External"),
        ("OpticNrv_R", "OpticNrv_R"), ("Optic Nerve L", "OpticNrv_L"), ("Glnd_Submand_R", "Glnd_Submand_R"),
        ("PTV70", "PTV70"), ("PTV_7000", "PTV70"), ("PTV 70 Gy", "PTV70"), ("ptv_56", "PTV56"), ("CTV5412", "CTV54.12"),
        ("PTV_D70", "PTV70"), ("PTV54.12", "PTV54.12"),
    ],
)  # fmt: skip
def test_names_of_the_table(stated: str, name: str) -> None:
    assert known_as(stated) == name


@pytest.mark.parametrize(
    "stated",
    ["SpinalCord_PRV05", "cord+5mm", "PRV Cord", "Parotid", "Parotid_L-PTV ring", "PTV1", "PTV_High", "Lung L R",
     "avoid brainstem", "Cord 5mm", "Heart_L", "Tumor Bed", "", "PTV70_opt"],
)  # fmt: skip
def test_names_that_only_look_like_it(stated: str) -> None:
    assert known_as(stated) == ""


def test_other_names_stay_as_they_are() -> None:
    assert plain("Tumor Bed / 2") == "Tumor_Bed_2"
    assert plain(" ../etc ") == ".._etc"
    assert plain("!!") == "structure"

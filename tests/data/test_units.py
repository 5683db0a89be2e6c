"""In which unit an image is, and who says so; values may only raise doubt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fabrica import io
from fabrica.contracts import SCALES, Image
from fabrica.data import cohort, inspection
from fabrica.data.virtual import VirtualCohort
from fabrica.data.virtual.export import write_cohort
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]


def _plain(path: Path, low: float, high: float) -> None:
    """A NIfTI file that states no unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.linspace(low, high, 6 * 8 * 8).reshape(6, 8, 8).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)


def _unit(folder: Path, contrast: str, **said: object) -> tuple[str, str]:
    (member,) = cohort.find(folder, **said).members
    scan = member.scans[contrast]
    assert member.load([contrast]).images[contrast].meaning.unit == scan.unit
    return scan.unit, scan.unit_from


@pytest.mark.parametrize(
    ("name", "sidecar", "said", "unit"),
    [
        ("pet", {}, {}, ("SUV?", "nothing")), ("pet_suv", {}, {}, ("SUV", "name")), ("pet", {"Units": "Bq/mL"}, {}, ("Bq/ml", "sidecar")),
        ("pet", {"Units": "SUV"}, {}, ("SUV", "sidecar")), ("pet", {}, {"PET": "suv"}, ("SUV", "said")), ("pet_suv", {}, {"PET": "Bq/ml"}, ("Bq/ml", "said")),
        ("ct", {}, {}, ("HU", "name")), ("t1", {}, {}, ("a.u.", "")),
    ],
)  # fmt: skip
def test_who_says_so(tmp_path: Path, name: str, sidecar: dict, said: dict, unit: tuple[str, str]) -> None:
    _plain(tmp_path / "p1" / f"{name}.nii.gz", -900, 20)
    if sidecar:
        (tmp_path / "p1" / f"{name}.json").write_text(json.dumps(sidecar))
    contrast = {"ct": "CT", "t1": "T1w"}.get(name, "PET")
    assert _unit(tmp_path, contrast, units=said) == unit


def test_a_table_says_units(tmp_path: Path) -> None:
    _plain(tmp_path / "d/p1/pet.nii.gz", 0, 20)
    (tmp_path / "t.csv").write_text("file,patient,contrast,unit\np1/pet.nii.gz,a,PET,SUV\n")
    assert _unit(tmp_path / "d", "PET", table=tmp_path / "t.csv") == ("SUV", "table")
    (tmp_path / "t.csv").write_text("file,patient,contrast,unit\np1/pet.nii.gz,a,PET,parsec\n")
    with pytest.raises(UnreadableError, match=r"t.csv:2: 'parsec' is no unit that is known here"):
        cohort.find(tmp_path / "d", tmp_path / "t.csv")
    with pytest.raises(ValueError, match="'parsec' is no unit"):
        cohort.find(tmp_path / "d", units={"PET": "parsec"})


@pytest.mark.parametrize(("name", "contrast", "high"), [("ct", "CT", 3000), ("dose", "dose", 7000)])
def test_a_name_that_the_values_contradict_is_refused(tmp_path: Path, name: str, contrast: str, high: float) -> None:
    """HU + 1024, and cGy: the commonest two."""
    _plain(tmp_path / f"p1/{name}.nii.gz", 0, high)
    (member,) = cohort.find(tmp_path).members
    with pytest.raises(UnreadableError, match=rf"{name}.nii.gz: is called .* --unit {contrast}="):
        member.load([contrast])
    (told,) = cohort.find(tmp_path, units={contrast: "a.u."}).members
    assert told.load([contrast]).images[contrast].meaning.unit == "a.u."


@pytest.mark.parametrize("unit", [*SCALES, "a.u."])
def test_what_is_written_says_its_unit(tmp_path: Path, make_image: MAKE, unit: str) -> None:
    image = make_image(name="X", unit=unit)
    io.write_nifti(image, tmp_path / "p1/x.nii.gz")
    assert io.read_image(tmp_path / "p1/x.nii.gz").meaning.unit == unit


def test_the_simulators_own_export_is_read_whole(tmp_path: Path) -> None:
    plan = VirtualCohort(1, 0, 4, "ms", 2)
    write_cohort(plan, tmp_path, lambda _: None)
    members = cohort.find(tmp_path).members
    for own, member in zip(plan.cohort().members, members, strict=True):
        assert set(member.contrasts()) == set(own.contrasts())
        assert member.days == pytest.approx(own.days)
        case, read = own.load(own.contrasts()), member.load(member.contrasts())
        for name, image in case.images.items():
            assert read.images[name].meaning.kind == image.meaning.kind, name
            assert read.images[name].meaning.unit == image.meaning.unit, name


def test_inspection_shows_units_where_they_come_from_and_labels(tmp_path: Path, make_image: MAKE) -> None:
    _plain(tmp_path / "p1/ct.nii.gz", -1000, 1500)
    _plain(tmp_path / "p1/pet.nii.gz", 0, 9)
    label = make_image((6, 8, 8), kind="label")
    io.write_nifti(
        replace(label, data=label.data * 2, meaning=replace(label.meaning, unit="")), tmp_path / "p1/seg.nii.gz"
    )
    text = "\n".join(inspection.lines(cohort.find(tmp_path)))
    assert "CT: 1 (HU by its name, values -1000 to 14" in text
    assert "PET: 1 (SUV?, values 0 to 8.9" in text
    assert "label: 1 (labels 0, 2, 4)" in text
    assert "PET: 1 (SUV as you say)" in "\n".join(inspection.lines(cohort.find(tmp_path, units={"PET": "SUV"})))

"""Pictures numbered by slice and frame: volumes and films by a table, written back, faults that name the row."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from fabrica import io
from fabrica.data import cohort
from fabrica.io import UnreadableError

HEAD = ["file", "patient", "contrast", "slice", "frame", "unit"]


def _pictures(folder: Path, rows: list[list], size: int = 8) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for k, (name, *_) in enumerate(rows):
        Picture.fromarray(np.full((size, size), 10 * k, np.uint8)).save(folder / name)
    with (folder / "files.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEAD, *([*row, *[""] * (len(HEAD) - len(row))] for row in rows)])
    return folder


FILM = [[f"{z}{t}.png", "p1", "cine", 3 - z, t] for z in range(2) for t in range(3)]  # numbers run the other way


def test_a_film_and_a_volume_by_a_table(tmp_path: Path) -> None:
    folder = _pictures(
        tmp_path / "data",
        [
            *FILM,
            ["m0.png", "p1", "ventricle", 2, "", "label"],
            ["m1.png", "p1", "ventricle", 3, "", "label"],
            ["a.png", "p1", "scout", "", ""],
        ],
    )
    (member,) = cohort.find(folder, folder / "files.csv").members
    assert member.contrasts() == ("cine", "scout", "ventricle")
    images = member.load(["cine", "ventricle", "scout"]).images
    assert (images["cine"].axes, images["ventricle"].axes, images["scout"].axes) == ("tzyx", "zyx", "yx")
    assert images["cine"].data.shape == (1, 3, 2, 8, 8)
    assert images["cine"].data[0, :, :, 0, 0].tolist() == [[30, 0], [40, 10], [50, 20]]  # frames, then slices by number
    assert images["ventricle"].meaning.kind == "label"
    assert not images["cine"].calibrated
    assert cohort.write_table(cohort.find(folder, folder / "files.csv"), tmp_path / "again.csv", folder) == 9
    (again,) = cohort.find(folder, tmp_path / "again.csv").members
    assert (again.load(["cine"]).images["cine"].data == images["cine"].data).all()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (FILM[:-1], "lacks frame 2 of slice 2; 1 of 6 pictures are missing"),
        ([*FILM, ["x.png", "p1", "cine", 3, 0]], "slice 3, frame 0 of p1 again"),
        ([*FILM[:5], ["12.png", "p1", "cine", 2, "late"]], "frame 'late', expected a whole number"),
        ([*FILM[:5], ["12.png", "p1", "cine", 2.5, 2]], "slice '2.5', expected a whole number"),
    ],
)
def test_places_that_cannot_be_are_refused(tmp_path: Path, rows: list, said: str) -> None:
    folder = _pictures(tmp_path / "data", rows)
    with pytest.raises(UnreadableError, match=said):
        cohort.find(folder, folder / "files.csv")


def test_pictures_of_different_sizes_are_no_series(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "data", FILM)
    Picture.fromarray(np.zeros((9, 8), np.uint8)).save(folder / "00.png")
    with pytest.raises(UnreadableError, match=r"is a picture of .* have one size|Pictures of one series"):
        cohort.find(folder, folder / "files.csv")


TABLE = Path(__file__).parents[2] / "recipes" / "tables" / "sunnybrook_ed_es.csv"
SCANS = os.environ.get("FABRICA_TEST_DATA")


@pytest.mark.skipif(not SCANS, reason="needs FABRICA_TEST_DATA")
def test_hearts_whose_names_mix_slice_and_phase_by_the_table_that_ships() -> None:
    folder = Path(str(SCANS)) / "cine" / "sunnybrook_ed_es"
    found = cohort.find(folder, TABLE)
    assert len(found.patients) >= 18
    for member in found.members[:3]:
        images = member.load(["cine", "ventricle"]).images
        film, cavity = images["cine"].data[0], images["ventricle"].data[0]
        assert len(film) == 2
        assert cavity.shape == film.shape[1:]
        assert 5 < float(member.values["ejection_fraction"]) < 85
        blood = film[:, cavity > 0.5].mean(1)
        assert float(blood[0]) > float(
            blood[1]
        )  # the cavity of diastole is blood in diastole, and partly muscle in systole
    assert isinstance(io.read(next(iter(found.members)).scans_of(["cine"])[0]).data.sum().item(), float)

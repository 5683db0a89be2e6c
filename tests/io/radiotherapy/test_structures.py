"""Structure sets on their series: volumes, other frames, other series, what is empty, outside or oblique; real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.data import cohort
from fabrica.data.inspection import lines
from fabrica.io.radiotherapy.plans import plan_of

from .made import (
    ORIGIN,
    SET,
    SPACING,
    body,
    circle,
    slice_z,
    write_ct,
    write_dose,
    write_plan,
    write_structures,
)


def _contours(radius: float, first: int = 4, last: int = 14) -> list[np.ndarray]:
    return [circle(radius, slice_z(k)) for k in range(first, last)]


def _listing(folder: Path) -> tuple[dict[str, io.Scan], list[str]]:
    found = io.scan_folder(folder)
    return {s.modality: s for s in found.scans}, [str(o) for o in found.oddities]


def test_a_cylinder_has_its_volume_and_place(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    write_structures(
        tmp_path / "rs.dcm", {"Cord": _contours(9.0), "Parotid Lt": _contours(14.0), "Odd one": _contours(5)}
    )
    scans, odd = _listing(tmp_path)
    assert odd == []
    assert set(scans) == {"CT", "SpinalCord", "LeftParotid", "Odd_one"}
    image = io.read(scans["SpinalCord"])
    assert image.meaning.kind == "label"
    np.testing.assert_allclose(image.affine, io.read(scans["CT"]).affine)
    mask = image.data[0].numpy() > 0
    assert np.flatnonzero(mask.any((1, 2))).tolist() == list(range(4, 14))
    assert mask.sum() * np.prod(SPACING) == pytest.approx(np.pi * 81 * 10 * SPACING[0], rel=0.02)
    centre = np.argwhere(mask).mean(0) * SPACING + np.array(ORIGIN)[::-1]
    np.testing.assert_allclose(centre[1:], (8.0, 12.0), atol=0.3)


def test_structures_dose_and_prescription_are_one_case(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"PTV_7000": _contours(9), "Cord": _contours(4)}, kinds={"PTV_7000": "PTV"})
    write_plan(tmp_path / "rp.dcm", {1: 70.0})
    write_dose(tmp_path / "rd.dcm", np.full((10, 20, 20), 66.0), corner=(-20, -30, -45), spacing=(4.0, 3.0, 3.0))
    found = cohort.find(tmp_path)
    (member,) = found.members
    assert found.oddities == ()
    assert set(member.contrasts()) == {"CT", "PTV70", "SpinalCord", "dose"}
    assert member.values["Gy to PTV70"] == 70.0
    assert member.values["fractions"] == 35.0
    case = member.load(["CT", "PTV70", "dose"])
    assert case.images["dose"].meaning.unit == "Gy"
    assert float(case.images["dose"].data.max()) == pytest.approx(66, rel=1e-4)
    said = "\n".join(lines(found))
    assert "PTV70 ('PTV_7000'), SpinalCord ('Cord')" in said
    assert "prescribed: 70 Gy to PTV70" in said


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"series": "1.2.3"}, "was drawn on series ...1.2.3, which is not among these files"),
        ({"series": None, "images": False}, "names no series that it was drawn on, and no image"),
        ({"frame": "1.9.9", "images": False}, "lies in another frame of reference than the series that it names"),
    ],
)
def test_what_was_drawn_on_something_else_is_refused(tmp_path: Path, told: dict[str, object], said: str) -> None:
    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"Cord": _contours(9)}, **told)  # type: ignore[arg-type]
    scans, odd = _listing(tmp_path)
    assert set(scans) == {"CT"}
    assert len(odd) == 1
    assert said in odd[0]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"series": None}, "does not name its series; it is read on the one whose images its contours name"),
        ({"frame": "1.9.9"}, "states another frame of reference than the series whose images its contours name"),
    ],
)
def test_what_its_images_settle_is_read_and_said(tmp_path: Path, told: dict[str, object], said: str) -> None:
    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"Cord": _contours(9)}, **told)  # type: ignore[arg-type]
    scans, odd = _listing(tmp_path)
    assert float(io.read(scans["SpinalCord"]).data.sum()) > 0
    assert said in odd[0]


def test_what_is_not_whole_is_left_out_and_named(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    tilted = circle(8, slice_z(6))
    tilted[:, 2] += 0.3 * tilted[:, 0]
    write_structures(
        tmp_path / "rs.dcm",
        {
            "Cord": _contours(9, 12, 23), "Larynx": [tilted], "Eso": [circle(8, slice_z(5), (-60.0, 0.0))],
            "PTV70": [], "Thyroid": [], "Iso": [np.array([[1.0, 2.0, slice_z(5)]])], "Heart": _contours(9),
        },
        kinds={"PTV70": "PTV"},
    )  # fmt: skip
    scans, odd = _listing(tmp_path)
    said = "\n".join(odd)
    assert set(scans) == {"CT", "Heart"}
    assert "drawn beyond the slices that are here: 'Cord'" in said
    assert "drawn across the slices of its series: 'Larynx'" in said
    assert "drawn beyond the edges of its images: 'Eso'" in said
    assert "targets without contours: 'PTV70'" in said
    assert "without contours: 'Thyroid'. They are missing, not empty" in said
    assert "points and lines, which have no volume: 'Iso'" in said


def test_a_structure_between_the_voxels_has_no_volume(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"Cord": [circle(0.2, slice_z(5), (ORIGIN[0] + 0.7, ORIGIN[1] + 1.0))]})
    scans, _ = _listing(tmp_path)
    with pytest.raises(io.UnreadableError, match="'Cord' holds not one voxel"):
        io.read(scans["SpinalCord"])


def test_files_that_break_are_one_line(tmp_path: Path) -> None:
    import pydicom

    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"Cord": _contours(9)})
    ds = pydicom.dcmread(tmp_path / "rs.dcm")
    ds.ROIContourSequence[0].ContourSequence[0].ContourData = [1, 2, 3, 4]
    ds.save_as(tmp_path / "rs.dcm")
    _, odd = _listing(tmp_path)
    assert "has a contour of 'Cord' that is no list of triples (4 numbers)" in odd[0]
    del ds.StructureSetROISequence
    ds.save_as(tmp_path / "rs.dcm")
    assert "structure set without structures" in _listing(tmp_path)[1][0]


def test_a_plan_alone_and_one_in_cgy(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    write_structures(tmp_path / "rs.dcm", {"PTV70": _contours(9)}, instance=SET)
    write_plan(tmp_path / "rp.dcm", {1: 7000.0})
    write_plan(tmp_path / "other.dcm", {1: 70.0}, of="1.2.3.4")
    scans, odd = _listing(tmp_path)
    assert not scans["PTV70"].values
    assert "prescribes 7000 to '1' and calls it Gy: it must be cGy" in "\n".join(odd)
    assert "is a plan (70 Gy to region 1) whose structure set is not here" in "\n".join(odd)


def test_a_plan_says_its_beams_and_how_often(tmp_path: Path) -> None:
    import pydicom

    write_plan(tmp_path / "rp.dcm", {1: 70.0, 2: 56.0})
    plan = plan_of(pydicom.dcmread(tmp_path / "rp.dcm"))
    assert (plan.structure_set, plan.fractions, dict(plan.levels_gy)) == (SET, 35, {1: 70.0, 2: 56.0})
    (beam,) = plan.beams
    assert (beam.radiation, beam.energy_mv, beam.gantry_degrees, beam.isocentre_mm) == ("PHOTON", 6, 40, (1, 2, 3))


def test_dose_and_plan_of_real_exports_are_answered(real_data: Path) -> None:
    folder = real_data / "radiotherapy" / "dicom_rt"
    for name, said in {
        "pydicom": ["relative units", "relative units", "not among these files", "30.8262 Gy to PTV"],
        "dicompyler": ["'Areola'. They are missing", "'BODY', 'Borders', 'Breast', 'Heart' and 5 more"],
        "rt_utils": ["beyond the slices", "does not name its series", "beyond the slices", "another frame"],
    }.items():
        _, odd = _listing(folder / name)
        odd = [o for o in odd if "is text" not in o]
        assert len(odd) == len(said), odd
        assert all(any(s in o for o in odd) for s in said), odd


def test_a_real_tumour_on_its_own_series(real_data: Path) -> None:
    scans, odd = _listing(real_data / "ct_pet_mr" / "pet_dicom")
    assert [o for o in odd if "is text" not in o] == []
    mass, edema, pet = (io.read(scans[n]) for n in ("GTV_Mass", "GTV_Edema", "PT"))
    inside = mass.data[0] > 0
    assert float(pet.data[0][inside].mean()) > 10 * float(pet.data[0].mean())  # where the tracer is
    assert int((inside & (edema.data[0] > 0)).sum()) > 0.95 * int(inside.sum())  # the wider contour holds the narrow
    assert torch.equal(mass.affine, pet.affine)


def test_a_real_set_on_a_grid_of_its_whole_extent(real_data: Path) -> None:
    """Its series lies here with one slice; on an empty one of all slices every structure has the area of its contours."""
    from fabrica.io.radiotherapy.contours import voxels
    from fabrica.io.radiotherapy.structures import structure_set

    found = structure_set(real_data / "radiotherapy" / "dicom_rt" / "dicompyler" / "rtss.dcm")
    for region in found.regions:
        if len(region.contours) < 3:
            continue
        places = [(c[:, [2, 1, 0]] - (-122.44, -524, -275)) / (3, 1.074219, 1.074219) for c in region.contours]
        mask = voxels(places, (98, 512, 512), (3, 1.074219, 1.074219))
        area = sum(_area(c) * (1 if _is_outer(c, region.contours) else -1) for c in region.contours)
        assert mask.sum() * 1.074219**2 == pytest.approx(area, rel=0.02, abs=6 * 1.074219**2), region.name


def _area(contour: np.ndarray) -> float:
    x, y = contour[:, 0], contour[:, 1]
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _is_outer(contour: np.ndarray, others: tuple[np.ndarray, ...]) -> bool:
    from matplotlib.path import Path as Outline

    inside = [
        Outline(o[:, :2]).contains_point(contour[0, :2])
        for o in others if o is not contour and abs(o[0, 2] - contour[0, 2]) < 0.01
    ]  # fmt: skip
    return sum(inside) % 2 == 0

"""RT Dose on its grid: scaling, offsets in both conventions, oblique planes, units, histograms that come with it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset

from fabrica import io
from fabrica.data.grid import grid_of, resample
from fabrica.evaluate.metrics.dose import dose_volume_histogram
from fabrica.io.radiotherapy.doses import stated_histograms

from .made import ORIGIN, SHAPE, SPACING, body, write_ct, write_dose


def ramp(shape: tuple[int, int, int] = (6, 8, 10)) -> np.ndarray:
    z, y, x = np.indices(shape)
    return 2.0 + 4 * z + 0.5 * y + 0.25 * x


def _one(folder: Path) -> io.Scan:
    found = io.scan_folder(folder)
    (scan,) = [s for s in found.scans if s.format == "dose"]
    return scan


def test_values_and_place(tmp_path: Path) -> None:
    write_dose(tmp_path / "rd.dcm", ramp())
    image = io.read(_one(tmp_path))
    np.testing.assert_allclose(image.data[0], ramp(), atol=2e-3)
    np.testing.assert_allclose(image.affine[:3, 3], ORIGIN)
    np.testing.assert_allclose(image.affine[:3, :3].norm(dim=0), SPACING)


@pytest.mark.parametrize(
    ("offsets", "step"),
    [([0, 3, 6, 9, 12, 15], 3.0), ([0, -3, -6, -9, -12, -15], -3.0), (list(ORIGIN[2] + 3.0 * np.arange(6)), 3.0)],
)
def test_offsets_from_the_first_plane_backwards_and_as_places(
    tmp_path: Path, offsets: list[float], step: float
) -> None:
    write_dose(tmp_path / "rd.dcm", ramp(), offsets=offsets)
    np.testing.assert_allclose(io.read(_one(tmp_path)).affine[:3, 0], (0, 0, step))


def test_an_oblique_grid_lies_where_it_says(tmp_path: Path) -> None:
    turned = (0.8, 0.6, 0, -0.6, 0.8, 0)
    write_dose(tmp_path / "rd.dcm", ramp(), orientation=turned)
    affine = io.read(_one(tmp_path)).affine.numpy()
    np.testing.assert_allclose(affine[:3, 2], np.array([0.8, 0.6, 0]) * SPACING[2])
    np.testing.assert_allclose(affine[:3, 1], np.array([-0.6, 0.8, 0]) * SPACING[1])


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"units": "RELATIVE"}, "is a dose in relative units"),
        ({"kind": "EFFECTIVE"}, "is of dose type EFFECTIVE"),
        ({"offsets": [0, 3, 6, 9, 12, 16]}, "planes at uneven steps"),
        ({"offsets": [0, 3, 6]}, "6 planes and 3 offsets"),
        ({"offsets": [7, 10, 13, 16, 19, 22]}, "offsets that begin at 7 mm"),
    ],
)
def test_doses_that_cannot_be_used_are_one_line(tmp_path: Path, told: dict[str, Any], said: str) -> None:
    write_dose(tmp_path / "rd.dcm", ramp(), **told)
    found = io.scan_folder(tmp_path)
    assert found.scans == ()
    assert said in str(found.oddities[0])


def test_cgy_that_is_called_gy_is_refused(tmp_path: Path) -> None:
    write_dose(tmp_path / "rd.dcm", 100 * ramp())
    with pytest.raises(io.UnreadableError, match="more than external beams give: it is taken for cGy"):
        io.read(_one(tmp_path))


def test_a_dose_of_a_beam_is_not_the_dose(tmp_path: Path) -> None:
    write_dose(tmp_path / "rd.dcm", ramp(), summation="BEAM")
    assert _one(tmp_path).modality == "dose_beam"


def test_a_dose_in_another_frame_than_its_images_is_refused(tmp_path: Path) -> None:
    write_ct(tmp_path, body())
    write_dose(tmp_path / "rd.dcm", ramp(), frame="1.9.9")
    found = io.scan_folder(tmp_path)
    assert [s.format for s in found.scans] == ["dicom"]
    assert "another frame of reference than the images of its patient" in str(found.oddities[0])


def test_a_dose_on_the_grid_of_its_images_is_where_it_was(tmp_path: Path) -> None:
    """A ramp along z in mm, resampled, is the same ramp."""
    write_ct(tmp_path, body())
    z = np.arange(12) * 4.0 + ORIGIN[2]
    write_dose(
        tmp_path / "rd.dcm", np.broadcast_to(60 + z[:, None, None], (12, 30, 30)), spacing=(4.0, 3.0, 3.0)
    )  # fmt: skip
    found = {s.modality: io.read(s) for s in io.scan_folder(tmp_path).scans}
    on = resample(found["dose"], grid_of(found["CT"])).data[0].numpy()
    places = ORIGIN[2] + SPACING[0] * np.arange(SHAPE[0])
    inside = places <= z[-1]
    np.testing.assert_allclose(on[inside, 20, 20], 60 + places[inside], atol=0.02)


def test_a_real_dose_without_a_preamble(real_data: Path) -> None:
    scan = _one(real_data / "radiotherapy" / "dicom_rt" / "pymedphys")
    assert scan.shape == (1, 77, 65, 77)
    np.testing.assert_allclose(np.linalg.norm(scan.affine[:3, :3], axis=0), (1.0197368, 1.03125, 1.0078947), rtol=1e-5)
    assert scan.affine[2, 0] < 0  # from the head down
    with pytest.raises(io.UnreadableError, match="reaches 749 Gy"):  # a real file that calls cGy Gy
        io.read(scan)


def test_histograms_of_the_planning_system_are_ours(tmp_path: Path) -> None:
    dose = ramp()
    inside = np.zeros(dose.shape, bool)
    inside[2:5, 2:6, 3:8] = True
    own = np.sort(dose[inside])
    edges = np.arange(0, 30, 0.5)
    cumulative = np.array([(own >= e).mean() * 100 for e in edges])
    one, region = Dataset(), Dataset()
    region.ReferencedROINumber = 3
    one.DVHReferencedROISequence = [region]
    one.DVHType, one.DoseUnits, one.DVHVolumeUnits, one.DVHDoseScaling = "CUMULATIVE", "GY", "PERCENT", 1
    one.DVHData = [f"{v:.6g}" for pair in zip(np.full(60, 0.5), cumulative, strict=True) for v in pair]
    other = Dataset()
    other.update(one)
    other.DVHType = "DIFFERENTIAL"
    share = np.append(cumulative[:-1] - cumulative[1:], cumulative[-1])
    other.DVHData = [f"{v:.6g}" for pair in zip(np.full(60, 0.5), share, strict=True) for v in pair]
    write_dose(tmp_path / "rd.dcm", dose, more={"DVHSequence": [one, other]})
    found = stated_histograms(tmp_path / "rd.dcm")
    assert [h.structures for h in found] == [(3,), (3,)]
    ours = dose_volume_histogram(dose, inside).details
    for h in found:
        at = np.interp(h.dose_gy, ours["dose_gy"], ours["volume_percent"])
        np.testing.assert_allclose(h.volume[:-1], at[:-1], atol=4)


def test_files_that_break_are_one_line(tmp_path: Path) -> None:
    """Without a place, without a scaling, with a histogram of odd length; one plane alone is read."""
    import pydicom

    def said(name: str, change: Any) -> str:
        place = tmp_path / name
        write_dose(place / "rd.dcm", ramp())
        ds = pydicom.dcmread(place / "rd.dcm")
        change(ds)
        ds.save_as(place / "rd.dcm")
        found = io.scan_folder(place)
        if found.oddities:
            return str(found.oddities[0])
        with pytest.raises(io.UnreadableError) as error:
            io.read(found.scans[0])
        return str(error.value)

    assert "does not say where its planes lie" in said("place", lambda ds: delattr(ds, "PixelSpacing"))
    assert "has a dose that cannot be decoded" in said("scaling", lambda ds: delattr(ds, "DoseGridScaling"))
    assert "holds doses below 0" in said("negative", lambda ds: setattr(ds, "DoseGridScaling", "-1"))
    one = Dataset()
    one.DVHType, one.DoseUnits, one.DVHData = "CUMULATIVE", "GY", [1, 2, 3]
    write_dose(tmp_path / "odd.dcm", ramp(), more={"DVHSequence": [one]})
    with pytest.raises(io.UnreadableError, match="a histogram of 3 numbers"):
        stated_histograms(tmp_path / "odd.dcm")
    write_dose(tmp_path / "single" / "rd.dcm", ramp((1, 8, 10)), more={"SliceThickness": 5})
    image = io.read(_one(tmp_path / "single"))
    assert image.data.shape == (1, 1, 8, 10)
    assert float(image.affine[2, 0]) == 5

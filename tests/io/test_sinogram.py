"""Sinograms as arrays: what is listed, what is refused, and what becomes of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.data import cohort
from fabrica.data.acquisition.ct import SCALE
from fabrica.data.measured import measurement_of
from fabrica.io import UnreadableError
from fabrica.physics import Emission, LineIntegrals
from fabrica.physics.ct import WATER_PER_MM

VIEWS, DETECTORS = 60, 49


def _disc(radius: float = 15.0, mm: float = 2.0) -> np.ndarray:
    """Line integrals of a disc of water, in the middle of the detector."""
    t = np.arange(DETECTORS) - (DETECTORS - 1) / 2
    line = 2 * mm * WATER_PER_MM * np.sqrt(np.clip(radius**2 - t**2, 0, None))
    return np.repeat(line[None], VIEWS, 0)


def _plain(**more: Any) -> dict[str, Any]:
    angles = np.arange(VIEWS) * 180 / VIEWS
    return {"data": _disc(), "angles_deg": angles, "detector_mm": 2.0, "kind": "line_integrals", **more}


def _raw(folder: Path, plain: dict[str, Any]) -> Any:
    np.savez(folder / "p1.npz", **plain)
    (scan,) = io.scan_folder(folder).scans
    return scan


def test_line_integrals_come_back_as_hounsfield_units(tmp_path: Path) -> None:
    scan = _raw(tmp_path, _plain())
    assert (scan.format, scan.shape, scan.calibrated) == ("sinogram", (1, 50, 50), True)
    measured = measurement_of(scan)
    assert isinstance(measured.operator, LineIntegrals)
    found = measured.operator.solved(measured.value)["FBP"][0, 0] * SCALE.width + SCALE.offset
    y, x = torch.meshgrid(torch.arange(50) - 24.5, torch.arange(50) - 24.5, indexing="ij")
    assert float(found[y**2 + x**2 < 12**2].mean()) == pytest.approx(0, abs=20)
    assert float(found[(y**2 + x**2 > 18**2) & (y**2 + x**2 < 23**2)].mean()) == pytest.approx(-1000, abs=20)
    (member,) = cohort.find(tmp_path).members
    assert member.contrasts() == (io.SINOGRAM,)
    with pytest.raises(UnreadableError, match="ct_sparse_view"):
        io.read(scan)


def test_a_fan_is_told_by_its_distances(tmp_path: Path) -> None:
    """A disc in closed form: chords at the distance of each ray; its pixels are those that the source sees."""
    source, detector, bins = 300.0, 600.0, 121
    places = (np.arange(bins) - (bins - 1) / 2) * 2.0 * source / detector  # mm, at the middle of the turn
    offsets = source * places / np.hypot(source, places)
    lines = np.tile(2 * WATER_PER_MM * np.sqrt(np.clip(30.0**2 - offsets**2, 0, None)), (VIEWS, 1))
    told = {"geometry": "fan", "source_mm": source, "source_detector_mm": detector, "detector_mm": 2.0}
    scan = _raw(tmp_path, _plain(data=lines, angles_deg=np.arange(VIEWS) * 360 / VIEWS, **told))
    assert np.allclose(np.linalg.norm(scan.affine[:3, :3], axis=0)[1:], 1.0)
    measured = measurement_of(scan)
    found = measured.operator.solved(measured.value)["FBP"][0, 0] * SCALE.width + SCALE.offset
    side = found.shape[-1]
    y, x = torch.meshgrid(torch.arange(side) - (side - 1) / 2, torch.arange(side) - (side - 1) / 2, indexing="ij")
    assert float(found[y**2 + x**2 < 26**2].mean()) == pytest.approx(0, abs=20)
    assert float(found[(y**2 + x**2 > 36**2) & (y**2 + x**2 < 50**2)].mean()) == pytest.approx(-1000, abs=25)


def test_counts_with_their_flat_and_dark_fields_say_the_same(tmp_path: Path) -> None:
    counts = 20 + 1e6 * np.exp(-_disc())
    measured = measurement_of(_raw(tmp_path, _plain(data=counts, kind="counts", flat=1e6 + 20, dark=20.0)))
    (tmp_path / "lines").mkdir()
    lines = measurement_of(_raw(tmp_path / "lines", _plain()))
    torch.testing.assert_close(measured.value, lines.value, atol=2e-5, rtol=1e-4)


def test_rows_of_a_detector_are_slices(tmp_path: Path) -> None:
    several = np.stack([_disc(15), _disc(8), _disc(4)], 1)  # (view, row, detector)
    scan = _raw(tmp_path, _plain(data=several, row_mm=3.0))
    measured = measurement_of(scan)
    assert tuple(measured.value.shape) == (3, 1, VIEWS, DETECTORS)
    assert measured.affine is not None
    assert measured.affine[:3, :3].norm(dim=0).tolist() == [3.0, 2.0, 2.0]
    assert float(measured.value[0].sum()) > float(measured.value[2].sum())


def test_emission_counts_know_what_attenuates_them(tmp_path: Path) -> None:
    attenuation = np.exp(-_disc() / 2)
    lines = _disc() / WATER_PER_MM  # mm of activity 1
    plain = {k: v for k, v in _plain().items() if k not in ("data", "kind")}
    plain |= {
        "counts": np.round(5 * attenuation * lines + 1),
        "attenuation": attenuation,
        "sensitivity": 5.0,
        "background": 1.0,
    }
    scan = _raw(tmp_path, plain)
    assert scan.format == io.COUNTS
    measured = measurement_of(scan)
    assert isinstance(measured.operator, Emission)
    found = measured.operator.solved(measured.value)["MLEM"][0, 0]
    assert float(found[20:30, 20:30].mean()) * 10 == pytest.approx(1.0, rel=0.05)  # SUV: 10 is 1 to the network


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"angles_deg": np.arange(VIEWS) * np.pi / VIEWS}, "look like radians"),
        ({"angles_deg": np.arange(7.0)}, "says 7 angles for 60 views"),
        ({"kind": "counts"}, "without a flat field"),
        ({"kind": "counts", "flat": 1.0, "dark": 2.0}, "not above its dark field"),
        ({"kind": "odd"}, "its kind is odd"),
        ({"data": np.full((VIEWS, DETECTORS), np.nan)}, "not finite"),
        ({"geometry": "cone"}, "its geometry is cone, expected parallel or fan"),
        ({"geometry": "fan"}, "does not say its source_mm"),
        ({"geometry": "fan", "source_mm": 500.0}, "does not say its source_detector_mm"),
        (
            {"geometry": "fan", "source_mm": 900.0, "source_detector_mm": 500.0},
            "its detector lies",
        ),
        ({"geometry": "fan", "source_mm": 0.5, "source_detector_mm": 1.0}, "its source lies 0.5 mm from the middle"),
        ({"detector_mm": -1.0}, "expected a width above 0"),
        ({"angles_deg": np.full(VIEWS, np.inf)}, "its angles are not finite"),
    ],
)
def test_what_cannot_be_meant_is_refused(more: dict[str, Any], words: str, tmp_path: Path) -> None:
    scan = _raw(tmp_path, _plain(**more))
    with pytest.raises(UnreadableError, match=words):
        io.read_raw(scan)


def test_attenuation_that_is_none_is_refused(tmp_path: Path) -> None:
    plain = {k: v for k, v in _plain().items() if k not in ("data", "kind")} | {"counts": np.ones((VIEWS, DETECTORS))}
    with pytest.raises(UnreadableError, match="does not say its attenuation"):
        io.read_raw(_raw(tmp_path, plain))
    with pytest.raises(UnreadableError, match="is not from 0 to 1"):
        io.read_raw(_raw(tmp_path, plain | {"attenuation": 3.0, "sensitivity": 1.0}))


def test_a_file_that_is_cut_short_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "p1.npz", **_plain())
    whole = (tmp_path / "p1.npz").read_bytes()
    (tmp_path / "p1.npz").write_bytes(whole[: len(whole) // 2])
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert any("cannot be" in str(o) for o in found.oddities)


def test_a_shape_that_is_no_sinogram_is_said(tmp_path: Path) -> None:
    np.savez(tmp_path / "p1.npz", **_plain(data=np.zeros(VIEWS)))
    assert "expected (view, [row,] detector)" in " ".join(o.fault for o in io.scan_folder(tmp_path).oddities)


def test_counts_below_nothing_are_refused(tmp_path: Path) -> None:
    plain = {k: v for k, v in _plain().items() if k not in ("data", "kind")} | {"counts": -np.ones((VIEWS, DETECTORS))}
    with pytest.raises(UnreadableError, match="holds negative counts"):
        io.read_raw(_raw(tmp_path, plain | {"attenuation": 1.0, "sensitivity": 1.0}))


@pytest.mark.parametrize("name", ["angles_deg", "detector_mm"])
def test_a_sinogram_that_does_not_say_how_it_was_taken_is_refused(name: str, tmp_path: Path) -> None:
    plain = _plain()
    del plain[name]
    np.savez(tmp_path / "p1.npz", **plain)
    found = io.scan_folder(tmp_path)
    told = [o.fault for o in found.oddities]
    for scan in found.scans:
        with pytest.raises(UnreadableError) as error:
            io.read_raw(scan)
        told.append(error.value.fault)
    assert told

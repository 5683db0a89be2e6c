"""Geometry and values survive the round trip, and SimpleITK agrees about where every voxel is."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.io import UnreadableError

MAKE = Callable[..., Image]


def _rotation(angles: tuple[float, float, float]) -> np.ndarray:
    result = np.eye(3)
    for axis, angle in enumerate(angles):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i], turn[j, j], turn[i, j], turn[j, i] = c, c, -s, s
        result = result @ turn
    return result


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3), spacing=st.tuples(*[st.floats(0.3, 7)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3), flip=st.booleans(), shape=st.tuples(*[st.integers(1, 6)] * 3),
)  # fmt: skip
def test_round_trip_and_independent_oracle(tmp_path: Path, angles, spacing, origin, flip, shape) -> None:
    affine = np.eye(4)
    affine[:3, :3] = _rotation(angles) @ np.diag(spacing)
    affine[:3, 0] *= -1 if flip else 1
    affine[:3, 3] = origin
    data = torch.randn(1, *shape)
    image = Image(data, "zyx", torch.tensor(affine), Field("T1w"))
    path = tmp_path / "image.nii"
    io.write_nifti(image, path)
    back = io.read_image(path)
    assert torch.equal(back.data, data)
    np.testing.assert_allclose(back.affine.numpy(), affine, atol=2e-3)
    oracle = SimpleITK.ReadImage(str(path))
    for index in ((0, 0, 0), tuple(n - 1 for n in shape)):
        z, y, x = index
        ours = (back.affine.numpy() @ np.array([*index, 1.0]))[:3]
        np.testing.assert_allclose(oracle.TransformIndexToPhysicalPoint((x, y, z)), ours, atol=5e-3)
        assert oracle.GetPixel(x, y, z) == pytest.approx(float(data[0, z, y, x]))


def test_labels_are_whole_numbers_and_series_keep_their_times(tmp_path: Path, make_image: MAKE) -> None:
    label = make_image(kind="label", name="lesion")
    io.write_nifti(label, tmp_path / "label.nii.gz")
    assert nibabel.load(tmp_path / "label.nii.gz").get_data_dtype() == np.uint8
    moving = Image(torch.randn(1, 4, 2, 3, 5), "tzyx", label.affine, Field("bold"), times=torch.arange(4) * 1.5)
    io.write_nifti(moving, tmp_path / "moving.nii.gz")
    back = io.read_image(tmp_path / "moving.nii.gz")
    assert torch.equal(back.data, moving.data)
    assert back.times is not None
    assert back.times.tolist() == [0, 1.5, 3, 4.5]


def test_shear_survives(tmp_path: Path) -> None:
    """A tilted gantry makes a sheared grid: a qform cannot hold it, the sform must."""
    affine = torch.eye(4).double()
    affine[1, 0] = 0.3
    io.write_nifti(Image(torch.randn(1, 3, 4, 5), "zyx", affine, Field("CT")), tmp_path / "tilt.nii")
    np.testing.assert_allclose(io.read_image(tmp_path / "tilt.nii").affine, affine, atol=1e-6)


def _save(path: Path, data: np.ndarray, affine: np.ndarray | None = None, **header: object) -> Path:
    image = nibabel.Nifti1Image(data, np.eye(4) if affine is None else affine)
    for key, value in header.items():
        image.header[key] = value
    nibabel.save(image, path)
    return path


def test_nan_voxels_are_refused_with_their_number(tmp_path: Path) -> None:
    data = np.ones((4, 4, 4), np.float32)
    data[0, 0, :2] = np.nan
    with pytest.raises(UnreadableError, match="2 of 64 voxels are not finite"):
        io.read_image(_save(tmp_path / "nan.nii", data))


def test_wrong_spacing_is_refused(tmp_path: Path) -> None:
    """A header whose voxel size contradicts its matrix, and one in metres that calls them millimetres."""
    path = _save(tmp_path / "spacing.nii", np.ones((4, 4, 4), np.float32))
    raw = bytearray(path.read_bytes())
    raw[80:84] = np.float32(9.0).tobytes()  # pixdim[1]
    path.write_bytes(raw)
    found = io.scan_folder(path)
    assert not found.scans
    assert "contradicts" in found.oddities[0].fault
    huge = io.scan_folder(_save(tmp_path / "huge.nii", np.ones((4, 4, 4), np.float32), np.diag([500.0, 500, 500, 1])))
    assert "spacing" in huge.oddities[0].fault


def test_units_are_converted(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "metres.nii")
    assert io.read_image(tmp_path / "metres.nii").spacing_mm == pytest.approx((2.0, 1.0, 1.0))


def test_truncated_and_foreign_files_are_one_line_each(tmp_path: Path, make_image: MAKE) -> None:
    io.write_nifti(make_image(), tmp_path / "good.nii.gz")
    (tmp_path / "bad.nii.gz").write_bytes((tmp_path / "good.nii.gz").read_bytes()[:300])
    (tmp_path / "empty.nii").touch()
    (tmp_path / "text.nii").write_text("hello")
    found = io.scan_folder(tmp_path)
    readable = [s for s in found.scans if _reads(s)]
    assert [s.files[0].name for s in readable] == ["good.nii.gz"]
    assert {Path(o.file).name for o in found.oddities} >= {"empty.nii", "text.nii"}


def _reads(scan: io.Scan) -> bool:
    try:
        io.read(scan)
    except UnreadableError:
        return False
    return True


def test_no_orientation_is_told(tmp_path: Path) -> None:
    path = _save(tmp_path / "lost.nii", np.ones((3, 3, 3), np.float32))
    image = nibabel.load(path)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 3, 3), np.float32), None, image.header), path)
    found = io.scan_folder(path)
    assert found.scans
    assert any("left and right" in o.fault for o in found.oddities)


def test_missing_and_empty_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="does not exist"):
        io.scan_folder(tmp_path / "nothing")
    with pytest.raises(UnreadableError, match="is empty"):
        io.scan_folder(tmp_path)


def test_grey_levels_stay_a_picture(make_image: MAKE, tmp_path: Path) -> None:
    """A drawn picture is read as the pictures were that it was learned from; a scan is not taken for one."""
    scan = make_image((8, 9))
    picture = replace(scan, meaning=replace(scan.meaning, unit="grey"), calibrated=False)
    for name, image in (("picture", picture), ("scan", scan)):
        io.write_nifti(image, tmp_path / f"{name}.nii.gz")
    back, other = (io.read_image(tmp_path / f"{name}.nii.gz") for name in ("picture", "scan"))
    assert (back.meaning.unit, back.calibrated) == ("grey", False)
    assert (other.meaning.unit, other.calibrated) == ("a.u.", True)
    assert torch.equal(back.data, other.data)
    stamped = nibabel.load(tmp_path / "scan.nii.gz")
    stamped.header["intent_name"], stamped.header["intent_code"] = b"grey", 1001  # somebody else's statistic
    nibabel.save(stamped, tmp_path / "statistic.nii")
    assert io.read_image(tmp_path / "statistic.nii").calibrated


@pytest.mark.parametrize(("unit", "step", "words"), [("hz", 5.0, "which is no time"), ("sec", 0.0, "states no time between"), ("unknown", 2000.0, "no unit"), ("sec", 2.0, "")])  # fmt: skip
def test_a_fourth_axis_that_is_no_time_is_said(tmp_path: Path, unit: str, step: float, words: str) -> None:
    image = nibabel.Nifti1Image(np.random.default_rng(0).random((4, 4, 4, 3)).astype(np.float32), np.eye(4))
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = step
    nibabel.save(image, tmp_path / "a.nii")
    faults = " ".join(o.fault for o in io.scan_folder(tmp_path).oddities)
    assert (words in faults) if words else not faults

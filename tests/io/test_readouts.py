"""Scanners' own files: real ones of two formats, and ISMRMRD files whose answer is known."""

import shutil
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import pytest
import torch

from fabrica import io
from fabrica.data.measured import measurement_of
from fabrica.io import UnreadableError
from fabrica.physics import CartesianSense
from fabrica.physics.mr import to_image, to_k_space

XML = """<?xml version="1.0"?><ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
<experimentalConditions><H1resonanceFrequency_Hz>128000000</H1resonanceFrequency_Hz></experimentalConditions>
<encoding><encodedSpace><matrixSize><x>64</x><y>24</y><z>1</z></matrixSize>
<fieldOfView_mm><x>128</x><y>48</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>32</x><y>24</y><z>1</z></matrixSize>
<fieldOfView_mm><x>64</x><y>48</y><z>5</z></fieldOfView_mm></reconSpace>
<trajectory>{trajectory}</trajectory>
<encodingLimits><kspace_encoding_step_1><minimum>0</minimum><maximum>23</maximum><center>12</center></kspace_encoding_step_1>
</encodingLimits></encoding></ismrmrdHeader>"""


def _image() -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(24.0) - 12, torch.arange(32.0) - 16, indexing="ij")
    coils = [torch.exp(-((y - 6) ** 2 + x**2) / 300) + 0j, 1j * torch.exp(-((y + 6) ** 2 + (x - 4) ** 2) / 300)]
    return torch.stack([c * (1 + 0.5 * torch.sign(x - 3)) * ((y / 10) ** 2 + (x / 13) ** 2 < 1) for c in coils])


def _file(
    path: Path,
    *,
    averages: int = 1,
    reverse: bool = True,
    noise: bool = True,
    trajectory: str = "cartesian",
    twice: bool = False,
) -> None:
    """Readouts of 64 samples, twice oversampled, every other line turned round."""
    wide = torch.zeros(2, 24, 64, dtype=torch.complex64)
    wide[:, :, 16:48] = _image()
    k_space = to_k_space(wide, 2).numpy()
    with ismrmrd.Dataset(str(path), "dataset", create_if_needed=True, mode="w") as file:
        file.write_xml_header(XML.format(trajectory=trajectory).encode())
        if noise:
            a = ismrmrd.Acquisition.from_array(np.full((2, 64), 0.1 + 0.2j, np.complex64))
            a.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
            file.append_acquisition(a)
        for average in range(averages):
            for line in [*range(24), *([3] if twice else [])]:
                data, turned = k_space[:, line] * (1 + average), reverse and line % 2
                a = ismrmrd.Acquisition.from_array(np.ascontiguousarray(data[:, ::-1] if turned else data))
                if turned:
                    a.set_flag(ismrmrd.ACQ_IS_REVERSE)
                a.idx.kspace_encode_step_1, a.idx.average = line, average
                a.center_sample = 31 if turned else 32
                a.read_dir[0], a.phase_dir[1], a.slice_dir[2] = 1.0, 1.0, 1.0
                a.position[0], a.position[1], a.position[2] = 10.0, -20.0, 30.0
                file.append_acquisition(a)


def _opened(path: Path) -> Any:
    (scan,) = io.scan_folder(path).scans
    return scan, io.read_raw(scan)


@pytest.mark.parametrize("reverse", [False, True])
def test_oversampling_turned_lines_noise_and_geometry(tmp_path: Path, reverse: bool) -> None:
    _file(tmp_path / "scan.h5", reverse=reverse)
    before = (tmp_path / "scan.h5").read_bytes()
    scan, raw = _opened(tmp_path / "scan.h5")
    found = to_image(raw.k_space[:, 0], 2)
    torch.testing.assert_close(found, _image(), atol=2e-5, rtol=1e-4)
    assert raw.noise is not None
    assert tuple(raw.noise.shape) == (2, 64)
    assert raw.voxel_mm == (5.0, 2.0, 2.0)
    middle = scan.affine @ np.array([0, 12, 16, 1.0])
    np.testing.assert_allclose(middle[:3], [10, -20, 30])
    assert (tmp_path / "scan.h5").read_bytes() == before  # only read


def test_averages_are_kept_apart(tmp_path: Path) -> None:
    _file(tmp_path / "scan.h5", averages=2)
    scans = io.scan_folder(tmp_path).scans
    assert [s.member for s in scans] == ["average 0", "average 1"]
    one, two = (io.read_raw(s).k_space for s in scans)
    torch.testing.assert_close(two, 2 * one)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"trajectory": "radial"}, "expected cartesian"), ({"twice": True}, "measured line 3 twice")],
)
def test_what_is_no_plain_grid_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    _file(tmp_path / "scan.h5", **options)
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert any(words in str(o) for o in found.oddities)


def test_other_hdf5_files_are_none(tmp_path: Path) -> None:
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    (tmp_path / "text.dat").write_text("plain words that are long enough")
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert len(found.oddities) == 2


def test_a_file_that_is_cut_short_is_said(tmp_path: Path) -> None:
    _file(tmp_path / "scan.h5")
    whole = (tmp_path / "scan.h5").read_bytes()
    (tmp_path / "scan.h5").write_bytes(whole[: len(whole) // 3])
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert found.oddities


def test_a_real_simulated_acquisition_is_reconstructed(real_data: Path, tmp_path: Path) -> None:
    """Four coils, every other line, a middle measured whole, a noise scan."""
    shutil.copy(real_data / "kspace/ismrmrd/grappa2_1rep.h5", tmp_path)
    scan, raw = _opened(tmp_path)
    assert tuple(raw.k_space.shape) == (4, 1, 256, 256)
    assert raw.mask.float().mean() == pytest.approx(0.55, abs=0.01)
    measured = measurement_of(scan)
    assert isinstance(measured.operator, CartesianSense)
    (image,) = measured.operator.solved(measured.value).values()
    filled = measured.operator.crude(measured.value)
    assert filled is not None
    ghost = [float(i[0, 0].roll(128, 0)[image[0, 0] > 0.3].abs().mean()) for i in (filled, image)]
    assert ghost[1] < ghost[0]  # what is folded by half a field of view is unfolded


def test_a_real_scanners_file_is_reconstructed(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "kspace/siemens_twix/gre.dat", tmp_path)
    scan, raw = _opened(tmp_path)
    assert tuple(raw.k_space.shape) == (2, 1, 160, 160)
    assert raw.mask.all()
    assert raw.voxel_mm == pytest.approx((4.0, 1.25, 1.25), abs=1e-4)
    np.testing.assert_allclose((scan.affine @ np.array([0, 80, 80, 1]))[:3], [-2.5897, 53.9224, -53.9995], atol=0.01)
    np.testing.assert_allclose(scan.affine[:3, 0] / 4, [0, 0.0384, 0.9993], atol=1e-3)  # the slice's normal, as told
    (found,) = measurement_of(scan).operator.solved(measurement_of(scan).value).values()
    bright = found[0, 0] > 0.3
    assert 0.2 < float(bright.float().mean()) < 0.8
    assert float(bright[20:140, 20:140].float().mean()) > 0.6  # a phantom in the middle,
    assert not bright[:10, :10].any()  # and nothing in the corner


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    _file(tmp_path / "scan.h5")
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    (odd,) = io.scan_folder(tmp_path).oddities
    assert ".[mr]" in str(odd)


def test_a_group_that_leaves_the_grid_is_refused(tmp_path: Path) -> None:
    _file(tmp_path / "scan.h5")
    with ismrmrd.Dataset(str(tmp_path / "scan.h5"), "dataset", create_if_needed=False) as file:
        a = ismrmrd.Acquisition.from_array(np.ones((2, 64), np.complex64))
        a.idx.kspace_encode_step_1, a.center_sample = 40, 32
        file.append_acquisition(a)
    (odd,) = io.scan_folder(tmp_path).oddities
    assert "outside the grid" in str(odd)
    with pytest.raises(UnreadableError):
        io.read_image(tmp_path)

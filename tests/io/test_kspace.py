"""Raw MR as arrays: what is listed, what is refused, and what becomes of it in a cohort."""

from pathlib import Path

import numpy as np
import pytest

from fabrica import io
from fabrica.data import cohort
from fabrica.io import UnreadableError

RNG = np.random.default_rng(0)


def _samples(*shape: int) -> np.ndarray:
    """Noise with a bright middle; every other column is not measured."""
    values = RNG.normal(size=(*shape, 2)).astype(np.float32).view(np.complex64)[..., 0]
    values[..., shape[-2] // 2, shape[-1] // 2 + 1 - shape[-1] // 2 % 2] = 100 if len(shape) > 1 else 0
    values[..., ::2] = 0
    return values


def test_complex_arrays_are_raw_data_and_others_are_none(tmp_path: Path) -> None:
    np.save(tmp_path / "p1_T1w_kspace.npy", _samples(4, 10, 12))
    np.save(tmp_path / "plain.npy", np.zeros((4, 10, 12), np.float32))
    found = io.scan_folder(tmp_path)
    (scan,) = found.scans
    assert (scan.format, scan.shape, scan.calibrated) == ("k-space", (4, 1, 10, 12), False)
    assert any("bare array" in str(o) for o in found.oddities)
    raw = io.read_raw(scan)
    assert tuple(raw.k_space.shape) == (4, 1, 10, 12)
    assert raw.mask.float().mean() == 0.5
    with pytest.raises(UnreadableError, match="is raw data, no image"):
        io.read(scan)
    (member,) = cohort.find(tmp_path).members
    assert member.contrasts() == (io.K_SPACE,)


def test_an_archive_says_mask_voxels_and_noise(tmp_path: Path) -> None:
    mask = np.zeros((3, 10, 12), bool)
    mask[..., 1::2] = True
    mask[..., 5] = False
    noise = _samples(4, 50)
    np.savez(tmp_path / "a.npz", kspace=_samples(4, 3, 10, 12), mask=mask, voxel_mm=[5.0, 1.0, 2.0], noise=noise)
    np.savez(tmp_path / "picture.npz", image=np.zeros((8, 8), np.float32))
    scan = next(s for s in io.scan_folder(tmp_path).scans if s.format == "k-space")
    raw = io.read_raw(scan)
    assert raw.voxel_mm == (5.0, 1.0, 2.0)
    assert not raw.mask[..., 5].any()
    assert raw.noise is not None
    assert np.linalg.norm(scan.affine[:3, :3], axis=0).tolist() == [5.0, 1.0, 2.0]
    assert len(io.scan_folder(tmp_path).scans) == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"kspace": np.zeros((3, 8, 8), np.float32)}, "expected complex numbers"),
        ({"kspace": _samples(8, 8)}, r"expected \(coil, y, x\)"),
        ({"kspace": _samples(300, 8, 8)}, "more than coils there are"),
        ({"kspace": _samples(3, 8, 8), "voxel_mm": [1.0, -1.0]}, "voxel_mm is"),
    ],
)
def test_what_is_listed_as_odd(tmp_path: Path, content: dict, words: str) -> None:
    np.savez(tmp_path / "a.npz", **content)
    found = io.scan_folder(tmp_path)
    assert not found.scans
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(str(found.oddities[0]))


def test_samples_whose_energy_is_not_in_the_middle_are_no_k_space(tmp_path: Path) -> None:
    """An image, and k-space with zero frequency in a corner: both would become plausible pictures of nothing."""
    y, x = np.meshgrid(np.linspace(-1, 1, 48), np.linspace(-1, 1, 40), indexing="ij")
    image = ((y**2 + x**2 < 0.7) * (1 + 0.3 * np.cos(9 * x)))[None] * np.ones((3, 1, 1))
    right = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image, axes=(1, 2))), axes=(1, 2))
    arrays = {"image": image, "corner": np.fft.ifftshift(right, axes=(1, 2)), "right": right}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array.astype(np.complex64))
        (scan,) = io.scan_folder(tmp_path / f"{name}.npy").scans
        if name == "right":
            assert io.read_raw(scan).mask.any()
            continue
        with pytest.raises(UnreadableError, match="is no k-space with zero frequency there"):
            io.read_raw(scan)


def test_what_is_refused_when_read(tmp_path: Path) -> None:
    holed, empty = _samples(3, 8, 8), np.zeros((3, 8, 8), np.complex64)
    holed[0, 3, 3] = np.nan
    for name, array, words in (("holed", holed, "not finite"), ("empty", empty, "no measured sample")):
        np.save(tmp_path / f"{name}.npy", array)
        (scan,) = io.scan_folder(tmp_path / f"{name}.npy").scans
        with pytest.raises(UnreadableError, match=words):
            io.read_raw(scan)
    np.savez(tmp_path / "a.npz", kspace=_samples(3, 8, 8), noise=_samples(5, 9))
    (scan,) = io.scan_folder(tmp_path / "a.npz").scans
    with pytest.raises(UnreadableError, match="its noise is"):
        io.read_raw(scan)
    (tmp_path / "cut.npy").write_bytes((tmp_path / "holed.npy").read_bytes()[:200])
    assert "cut.npy" in str(io.scan_folder(tmp_path / "cut.npy").oddities[0])


def test_an_archive_says_what_coils_see(tmp_path: Path) -> None:
    maps = _samples(4, 3, 10, 12)
    np.savez(tmp_path / "a.npz", kspace=_samples(4, 3, 10, 12), maps=maps, remark="x")
    found = io.scan_folder(tmp_path)
    raw = io.read_raw(found.scans[0])
    assert raw.maps is not None
    assert np.array_equal(raw.maps.numpy(), maps)
    assert "says remark, which is not used" in str(found.oddities[0])
    assert found.oddities[0].severity == "warning"


@pytest.mark.parametrize(
    "maps", [_samples(5, 10, 12), _samples(4, 10, 11), np.ones((4, 10, 12)), 0 * _samples(4, 10, 12)]
)
def test_maps_of_others_are_refused(tmp_path: Path, maps: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", kspace=_samples(4, 10, 12), maps=maps)
    (scan,) = io.scan_folder(tmp_path).scans
    with pytest.raises(UnreadableError, match="its maps are"):
        io.read_raw(scan)

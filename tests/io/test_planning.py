"""Plans of OpenKBP: packed and sparse, the same patient in both; metal, missing structures, damage."""

from pathlib import Path

import numpy as np
import pytest

from fabrica import io
from fabrica.data import cohort
from fabrica.io import UnreadableError
from fabrica.io.planning import SIDE, STRUCTURES


def plan(seed: int = 0, metal: bool = False, missing: tuple[str, ...] = ("Larynx", "PTV63")) -> dict[str, np.ndarray]:
    """A phantom: a cylinder of water with targets in the middle, organs around, and a dose that falls off."""
    rng = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*[np.arange(SIDE) - SIDE / 2 + 0.5] * 3, indexing="ij")
    shift = rng.uniform(-4, 4, 3)
    size = rng.uniform(0.7, 1.2, 2)
    body = ((i / size[0]) ** 2 + (j / size[1]) ** 2 < 22**2) & (np.abs(k) < 12)
    far = np.sqrt((i - shift[0]) ** 2 + (j - shift[1]) ** 2 + (2 * (k - shift[2])) ** 2)
    structures = np.zeros((SIDE,) * 3, np.uint16)
    places = {"PTV70": far < 6, "PTV63": far < 8, "PTV56": far < 11, "SpinalCord": (i - 15) ** 2 + j**2 < 9}
    for bit, name in enumerate(STRUCTURES):
        place = places.get(name, (i - 2 * bit + 8) ** 2 + (j - 10) ** 2 + k**2 < 16)
        if name not in missing:
            structures |= (place & body).astype(np.uint16) << np.uint16(bit)
    dose = np.where(body, np.clip(70 - 2.2 * np.clip(far - 6, 0, None), 0, None), 0)
    waves = 60 * np.sin(i / rng.uniform(2, 6)) * np.cos(j / rng.uniform(2, 6))
    ct = np.where(body, 1024 + 40 + waves, 0).astype(np.uint16)
    if metal:
        ct[64, 64, 64] = 20_000
    return {
        "ct": ct, "dose_cGy": np.round(100 * dose).astype(np.uint16), "structures": structures,
        "possible_dose": np.packbits(body), "voxel_mm": np.array([3.9, 3.9, 2.5], np.float32),
    }  # fmt: skip


def test_a_packed_patient_is_read(tmp_path: Path) -> None:
    stored = plan(metal=True)
    np.savez_compressed(tmp_path / "pt_7.npz", **stored)
    found = io.scan_folder(tmp_path)
    assert [s.modality for s in found.scans].count("CT") == 1
    assert {s.modality for s in found.scans} == {"CT", "dose", "possible_dose", *STRUCTURES} - {"Larynx", "PTV63"}
    (odd,) = found.oddities
    assert "1 voxels of metal above 3071 HU (up to 18976)" in str(odd)
    images = {s.modality: io.read(s) for s in found.scans}
    assert (images["CT"].meaning.unit, float(images["CT"].data.max())) == ("HU", 3071.0)
    assert float(images["CT"].data.min()) == -1024
    assert images["dose"].meaning.unit == "Gy"
    np.testing.assert_allclose(images["dose"].data[0].numpy().transpose(2, 1, 0), stored["dose_cGy"] / 100, rtol=1e-6)
    assert images["SpinalCord"].meaning.kind == "label"
    assert images["CT"].affine[:3, :3].norm(dim=0).tolist() == pytest.approx([2.5, 3.9, 3.9], abs=1e-5)
    (member,) = cohort.find(tmp_path).members
    assert member.name == "pt_7"


def test_what_is_written_keeps_the_order_of_the_challenge(tmp_path: Path) -> None:
    """array[i, j, k], as the CSV's index counts."""
    import nibabel

    np.savez(tmp_path / "pt_7.npz", **plan())
    (scan,) = [s for s in io.scan_folder(tmp_path).scans if s.modality == "dose"]
    io.write_nifti(io.read(scan), tmp_path / "dose.nii.gz")
    np.testing.assert_allclose(
        np.asarray(nibabel.load(tmp_path / "dose.nii.gz").dataobj), plan()["dose_cGy"] / 100, atol=1e-4
    )


def test_sparse_and_packed_files_of_real_patients_agree(real_data: Path) -> None:
    folder = real_data / "radiotherapy/openkbp"
    sparse = {m.name: m for m in cohort.find(folder / "csv_as_published").members}
    assert set(sparse) == {"pt_1", "pt_92", "pt_210"}
    for name, part in (("pt_92", "train"), ("pt_210", "valid")):
        packed = cohort.find(folder / part / f"{name}.npz").members[0]
        assert set(packed.contrasts()) == set(sparse[name].contrasts())
        one, other = packed.load(packed.contrasts()).images, sparse[name].load(packed.contrasts()).images
        for contrast, image in one.items():
            assert float((image.data - other[contrast].data).abs().max()) <= (0.0051 if contrast == "dose" else 0), (
                contrast
            )
            np.testing.assert_allclose(image.affine, other[contrast].affine, atol=1e-3)


@pytest.mark.parametrize(("key", "words"), [("voxel_mm", "is no whole plan"), ("ct", "is no whole plan")])
def test_damaged_plans_are_said(key: str, words: str, tmp_path: Path) -> None:
    stored = plan()
    stored[key] = stored[key][:2]
    np.savez(tmp_path / "pt_7.npz", **stored)
    found = io.scan_folder(tmp_path)
    assert not found.scans
    assert any(words in str(o) for o in found.oddities)


def test_a_sparse_file_with_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "voxel_dimensions.csv").write_text("3.9\n3.9\n2.5\n")
    for rows in (
        "5,12.5\nseven,3\n",
        "-5,12.5\n",
        "5,\n",
        "5,nan\n",
        "2097152,1\n",
    ):  # words, places and doses that are none
        (tmp_path / "dose.csv").write_text(f",data\n{rows}")
        (scan,) = io.scan_folder(tmp_path).scans
        with pytest.raises(UnreadableError, match="is no sparse volume"):
            io.read(scan)
    (tmp_path / "voxel_dimensions.csv").write_text("3.9\n")
    assert any("expected three sides" in str(o) for o in io.scan_folder(tmp_path).oddities)

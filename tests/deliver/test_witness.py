"""dcm2niix, which knows nothing of us, puts what was delivered where it was drawn."""

import subprocess
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from fabrica.contracts import Field, Image
from fabrica.deliver.objects.images import derived_series
from fabrica.deliver.objects.marking import Making, Series
from fabrica.deliver.objects.parametric_map import spread_map
from fabrica.deliver.objects.segmentation import segmentation
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.record import Record, check_sources

from .conftest import program
from .test_objects import _affine

GRIDS = ("axial", "sagittal", "oblique", "reversed")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def _converted(series: Series, folder: Path) -> nibabel.Nifti1Image:
    (folder / "dicom").mkdir(parents=True)
    (folder / "nifti").mkdir()
    for number, ds in enumerate(series.datasets):
        ds.save_as(folder / "dicom" / f"{number:03d}.dcm", enforce_file_format=True)
    words = [program("dcm2niix"), "-z", "n", "-m", "y", "-o", str(folder / "nifti"), str(folder / "dicom")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = sorted((folder / "nifti").glob("*.nii"))
    assert len(found) == 1, done.stdout
    image = nibabel.load(found[0])
    assert isinstance(image, nibabel.Nifti1Image)
    return image


def _at(image: nibabel.Nifti1Image, lps: np.ndarray) -> np.ndarray:
    """Its values at places of a patient, mm."""
    index = np.linalg.inv(image.affine) @ LPS_TO_RAS @ np.c_[lps, np.ones(len(lps))].T
    nearest = np.rint(index[:3]).astype(int)
    assert np.abs(index[:3] - nearest).max() < 0.01  # on its voxels, not between them
    values = np.asarray(image.dataobj)
    values = values.reshape(values.shape[:3])
    return np.asarray(values[tuple(nearest)])


def _everywhere(affine: np.ndarray, shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(indices (z, y, x), places in LPS) of all voxels."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    return index, index @ affine[:3, :3].T + affine[:3, 3]


@pytest.mark.parametrize("kind", ["series", "spread", "segments"])
@pytest.mark.parametrize("grid", GRIDS)
def test_it_lies_where_another_program_finds_it(grid: str, kind: str, record: Record, tmp_path: Path) -> None:
    """Every voxel: its place to a hundredth of a voxel, its value to half a stored step."""
    affine, shape = _affine(grid), (5, 20, 24)
    values = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) * 2500 - 1000
    image = Image(values, "zyx", torch.from_numpy(affine), Field("CT", "intensity", 1, "HU"))
    drawn = record.images[0]
    making = Making(record, drawn, read_headers(check_sources(drawn)))
    series = derived_series(making, image)
    index, places = _everywhere(affine, shape)
    true = values[0].numpy()
    if kind == "series":
        found, tolerance = _at(_converted(series, tmp_path), places), 0.51 * series.factor
    elif kind == "spread":
        true, tolerance = np.abs(true) / 10, 0.02
        found = _at(_converted(spread_map(replace(making, which="spread"), true, series), tmp_path), places)
    else:
        true, tolerance = (true > 800).astype(float), 0.0
        labels = Making(record, replace(drawn, contrast="lesion", unit="", kind="label"), making.headers)
        found = _at(_converted(segmentation(labels, true > 0, affine, classes=2), tmp_path), places)
        found = (found > 0).astype(float)
    assert np.abs(found - true[tuple(index.T)]).max() <= tolerance

"""Films as MR series: moments told apart by temporal positions, read back in order, shown one after the other."""

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from fabrica import io
from fabrica.contracts import Field, Image
from fabrica.deliver.destinations.bids import _nifti
from fabrica.deliver.objects.images import derived_series
from fabrica.deliver.objects.marking import Making
from fabrica.deliver.objects.source import read_headers
from fabrica.deliver.outbox import Outbox
from fabrica.deliver.reading import stored_image
from fabrica.deliver.record import Record, check_sources
from fabrica.generate.handover import hand_over
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe
from fabrica.serve.review import Reviewing

from ..jobs.test_films import FRAMES, SMALL, films
from .conftest import program
from .scanner import write_series

SHAPE = (FRAMES, 3, 20, 24)


def _film(unit: str = "a.u.") -> Image:
    values = torch.rand(1, *SHAPE, generator=torch.Generator().manual_seed(0)) * 900
    affine = torch.eye(4).double()
    affine[:3, :3] = torch.tensor([[0, 0, 1.2], [0, 0.9, 0], [8.0, 0, 0]])
    times = torch.arange(FRAMES).double() * 0.05
    return Image(values, "tzyx", affine, Field("cine", "intensity", 1, unit), times=times)


def _as_bids(folder: Path, files: list[Path]) -> Path:
    folder.mkdir()
    (folder / "cine.nii.gz").write_bytes(_nifti(files))
    return folder / "cine.nii.gz"


def _making(record: Record, unit: str = "a.u.") -> Making:
    drawn = replace(record.images[0], unit=unit, contrast="cine")
    return Making(record, drawn, read_headers(check_sources(drawn)))


def test_a_film_is_read_as_it_was_drawn(record: Record, tmp_path: Path) -> None:
    image = _film()
    series = derived_series(_making(record), image)
    paths = []
    for ds in series.datasets:
        paths.append(tmp_path / f"{ds.SOPInstanceUID}.dcm")
        ds.save_as(paths[-1], enforce_file_format=True)
    back = io.read_image(tmp_path)
    assert (back.axes, tuple(back.data.shape)) == ("tzyx", (1, *SHAPE))
    assert torch.allclose(back.data / series.factor, image.data, atol=0.51 / series.factor)
    assert torch.allclose(back.affine, image.affine, atol=1e-3)
    assert torch.allclose(back.times, image.times, atol=1e-6)
    shown = stored_image(sorted(paths))
    assert shown is not None
    assert shown.times is not None
    assert torch.equal(shown.data, back.data.flatten(1, 2))
    for path in (paths[0], paths[-1]):
        told = subprocess.run([program("dciodvfy"), path], capture_output=True, text=True, check=False).stderr
        assert [line for line in told.splitlines() if line.startswith("Error") and "(0x0008,0x001c)" not in line] == []
    moving, still = (
        io.read_image(_as_bids(tmp_path / name, files)) for name, files in (("4d", paths), ("2d", paths[:1]))
    )
    assert torch.allclose(moving.data, back.data)
    assert torch.allclose(moving.times, back.times)
    assert torch.allclose(still.data[0, 0], back.data[0, 0, 0])
    again = derived_series(_making(record), replace(image, times=image.times * 2))
    assert again.uid != series.uid  # the same frames at other moments are another film


def test_films_that_have_no_object(record: Record) -> None:
    with pytest.raises(ValueError, match="a film in HU has no object here"):
        derived_series(_making(record, "HU"), _film("HU"))
    with pytest.raises(ValueError, match="how far apart the frames"):
        derived_series(_making(record), replace(_film(), times=None))


def test_from_a_scanner_to_the_page_of_a_person(tmp_path: Path) -> None:
    """A film of DICOM, drawn as another contrast, as a series in the outbox and on the page."""
    plain = {
        **SMALL, "cohorts": {"all": {"path": str(films(tmp_path / "data", 3))}}, "split": {"train": 0.6, "test": 0.4},
        "job": {"name": "translation", "from": [f"cine@{FRAMES}"], "x": [f"bold@{FRAMES}"]},
    }  # fmt: skip
    run_recipe(from_plain(plain), tmp_path / "run", say=lambda _: None)
    film = io.read_image(tmp_path / "data" / "heart0000" / "cine.nii.gz")
    for t in range(FRAMES):
        write_series(tmp_path / "dicom" / f"{t}", film.data[0, t].numpy() * 900, film.affine.numpy(), description="cine",
                     SeriesInstanceUID="1.2.3.4", StudyInstanceUID="1.2.3", FrameOfReferenceUID="1.2.5",
                     TemporalPositionIdentifier=t + 1, TemporalResolution="50")  # fmt: skip
    generate_images(tmp_path / "run", tmp_path / "dicom", tmp_path / "out", draws=1, say=lambda _: None)
    said: list[str] = []
    (uid,) = hand_over(Record.read(tmp_path / "out"), Outbox(tmp_path / "store"), say=said.append)
    assert f"bold, {FRAMES * 3} files, made" in said[-1]
    headers = [pydicom.dcmread(f, stop_before_pixels=True) for f in Outbox(tmp_path / "store").files(uid)]
    assert {int(h.TemporalPositionIdentifier) for h in headers} == set(range(1, FRAMES + 1))
    assert {float(h.TemporalResolution) for h in headers} == {50.0}
    assert {h.SyntheticData for h in headers} == {"YES"}
    reviewing = Reviewing(tmp_path / "store")
    ((key, series),) = reviewing.series()
    shown = reviewing.shown(series.uid, series.sources)
    assert shown.result.data.shape[1] == FRAMES * 3
    assert shown.source is not None
    assert np.allclose(shown.source.data[0, 0], film.data[0, 0, 0] * 900, atol=1)
    assert reviewing.told(key)["depth"] == FRAMES * 3

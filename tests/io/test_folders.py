"""Folders as they lie on disks: links, closed folders, files that break the reader; each has one line, the rest is read."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fabrica import io
from fabrica.contracts import Image

MAKE = Callable[..., Image]


def _scan(path: Path, make_image: MAKE) -> None:
    io.write_nifti(make_image(), path)


def test_links_are_followed_and_cycles_cut(tmp_path: Path, make_image: MAKE) -> None:
    _scan(tmp_path / "store/p1/T1w.nii.gz", make_image)
    _scan(tmp_path / "data/p2/T1w.nii.gz", make_image)
    (tmp_path / "data/p1").symlink_to(tmp_path / "store/p1")
    (tmp_path / "data/p2/again").symlink_to(tmp_path / "data")
    (tmp_path / "data/p3").symlink_to(tmp_path / "store/p1")
    (tmp_path / "data/lost.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    found = io.scan_folder(tmp_path / "data")
    assert [s.files[0].parent.name for s in found.scans] == ["p1", "p2"]
    said = {Path(o.file).name: o.fault for o in found.oddities}
    assert said["lost.nii.gz"] == "is a link to nothing."
    assert "which was read already" in said["again"]
    assert "which was read already" in said["p3"]


def test_a_folder_of_links_alone_is_not_empty(tmp_path: Path, make_image: MAKE) -> None:
    _scan(tmp_path / "store/T1w.nii.gz", make_image)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/p1").symlink_to(tmp_path / "store")
    assert len(io.scan_folder(tmp_path / "data").scans) == 1
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(io.scan_folder(tmp_path / "link").scans) == 1


def test_closed_folders_are_named(tmp_path: Path, make_image: MAKE) -> None:
    """As another user than root, who may open everything."""
    _scan(tmp_path / "p1/T1w.nii.gz", make_image)
    _scan(tmp_path / "p2/T1w.nii.gz", make_image)
    (tmp_path / "p2").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    code = (
        "import os, sys; from pathlib import Path; from fabrica import io; from fabrica.io import dicom, nifti, raster, explicit\n"
        "os.getuid() or os.setuid(65534)\n"
        f"for o in io.scan_folder(Path({str(tmp_path)!r})).oddities: print(o)"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    finally:
        (tmp_path / "p2").chmod(0o755)
    assert f"{tmp_path}/p2: cannot be opened (Permission denied). Open it to this user" in done.stdout, done.stderr


@pytest.mark.parametrize("code", [5, 7, 255])
def test_units_that_nifti_does_not_know_are_one_line(tmp_path: Path, make_image: MAKE, code: int) -> None:
    _scan(tmp_path / "p1/T1w.nii.gz", make_image)
    image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    image.header["xyzt_units"] = code
    nibabel.save(image, tmp_path / "odd.nii")
    found = io.scan_folder(tmp_path)
    assert len(found.scans) == 1
    (odd,) = found.oddities
    assert odd.file.endswith("odd.nii")
    assert f"(xyzt_units {code})" in odd.fault


def test_whatever_a_reader_raises_names_the_file(
    tmp_path: Path, make_image: MAKE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: readers that fail in ways that nobody thought of, in the header and in the voxels."""
    from fabrica.io import nifti

    _scan(tmp_path / "a.nii.gz", make_image)
    (scan,) = io.scan_folder(tmp_path).scans

    def fail(*_: object) -> None:
        raise ZeroDivisionError("deep inside\nand more")

    monkeypatch.setattr(nifti, "read", fail)
    with pytest.raises(io.UnreadableError, match=r"a.nii.gz: cannot be understood \(ZeroDivisionError: deep inside\)"):
        io.read(scan)
    monkeypatch.setattr(nifti, "listing", fail)
    (odd,) = io.scan_folder(tmp_path).oddities
    assert odd.fault == "cannot be understood (ZeroDivisionError: deep inside)."


def test_voxels_that_are_no_numbers_name_the_file(tmp_path: Path) -> None:
    data = np.ones((4, 4, 4), np.float32)
    data[1, 1, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(io.UnreadableError, match=r"a.nii: 1 of 64 voxels are not finite") as caught:
        io.read_image(tmp_path / "a.nii")
    assert caught.value.file.endswith("a.nii")
    assert "a.nii" not in caught.value.fault  # said once

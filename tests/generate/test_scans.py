"""New scans: what is read of them only in part is said before anything is drawn."""

from pathlib import Path

from fabrica.data.cohort import Source
from fabrica.generate.scans import MOST, _found

from ..deliver.scanner import head, write_series


def test_planes_that_are_left_out_are_said(tmp_path: Path) -> None:
    volume, affine = head(planes=(16, 24))
    for k in range(MOST + 2):
        write_series(tmp_path / str(k), volume, affine, PatientID=f"P{k}")[3].unlink()
    said: list[str] = []
    assert len(_found(Source.of(tmp_path), said.append)) == MOST + 2
    assert sum("the longest even run is kept (4 of 7 slices)" in line for line in said) == MOST
    assert said[-1].startswith("... and 2 more")

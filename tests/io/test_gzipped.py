"""Gzip files of one and of several members, whole and damaged, with and without the fast extra."""

import gzip
import zlib
from pathlib import Path

import pytest

from fabrica import io
from fabrica.io import gzipped


@pytest.fixture(params=["isal", "zlib"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zlib":
        monkeypatch.setattr(gzipped, "_decompress", gzip.decompress)
        monkeypatch.setattr(gzipped, "_failures", (zlib.error, EOFError, OSError))
    else:
        assert gzipped._decompress is not gzip.decompress, "the tests install the extra `fast`"
    return str(request.param)


def test_whole_files(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"one " * 9000) + gzip.compress(b"two"))
    assert gzipped.content(path) == b"one " * 9000 + b"two"


@pytest.mark.parametrize("damage", ["short", "flipped", "empty head", "text"])
def test_damaged_files_are_refused(tmp_path: Path, engine: str, damage: str) -> None:
    whole = gzip.compress(bytes(range(256)) * 400)
    content = {
        "short": whole[:-20],
        "flipped": whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 0x55]) + whole[len(whole) // 2 + 1 :],
        "empty head": whole[:9],
        "text": b"not a gzip file",
    }[damage]
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(io.UnreadableError, match="cut short or damaged"):
        gzipped.content(tmp_path / "a.gz")

"""Places in stores: what changed travels, what was not sent stays, and nothing leads out of its folder."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from fabrica.machine import remote, stores
from fabrica.machine.remote import StoreError, listed, opened
from fabrica.machine.stores import Mirror, fetched, mirror_of, named, place, sent

from .object_store import keys, object_store, put


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with object_store(tmp_path_factory.mktemp("mirrors")) as root:
        yield root


@pytest.fixture(autouse=True)
def _own_mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FABRICA_STORES", str(tmp_path / "mirrors"))


def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on another machine: nothing of what was fetched is here."""
    monkeypatch.setenv("FABRICA_STORES", str(tmp_path / "elsewhere"))


def test_a_folder_goes_and_comes_whole(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    here = fetched(f"{s3}/whole")
    (here / "deep" / "er").mkdir(parents=True)
    (here / "deep" / "er" / "a.bin").write_bytes(b"a" * 70_000)
    (here / "checkpoint.json").write_text("{}")
    (here / "cut.part").write_text("half")
    (here / "store").mkdir()
    (here / "store" / stores.NOT_KEPT).write_text("Signature: ...")
    (here / "store" / "prepared.npy").write_bytes(b"0")
    sent(here, said.append)
    sent(here, said.append)
    assert said == [f"Sent to {s3}/whole: 2 files, 0.1 MB."]
    assert sorted(k for k in keys() if k.startswith("whole/")) == ["whole/checkpoint.json", "whole/deep/er/a.bin"]
    _elsewhere(monkeypatch, tmp_path)
    there = fetched(f"{s3}/whole/", said.append)
    assert there != here
    assert (there / "deep/er/a.bin").read_bytes() == b"a" * 70_000
    assert said[1:] == [f"Fetched from {s3}/whole: 2 files, 0.1 MB."]
    fetched(f"{s3}/whole", said.append)
    assert len(said) == 2  # nothing changed, nothing travels


def test_only_what_changed_travels_and_nothing_is_deleted_there(s3: str) -> None:
    here = fetched(f"{s3}/some")
    for name in ("one", "two"):
        (here / name).write_text(name)
    sent(here)
    put("some/two", b"another")
    fetched(here)
    assert (here / "two").read_text() == "another"
    (here / "one").write_text("changed here")
    fetched(here)  # not sent yet: it stays
    assert (here / "one").read_text() == "changed here"
    (here / "two").unlink()
    sent(here)
    assert (keys()["some/one"], keys()["some/two"]) == (b"changed here", b"another")


def test_what_was_written_last_is_sent_last(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sees the mark that all is there finds all of it."""
    here, order = fetched(f"{s3}/order"), []
    for k, name in enumerate(("z-first", "m-second", "a-mark")):
        (here / name).write_text(name)
        os.utime(here / name, ns=(k, k))
    fs, _ = opened(f"{s3}/order")
    real = type(fs).put_file
    monkeypatch.setattr(type(fs), "put_file", lambda self, own, *a: (order.append(Path(own).name), real(self, own, *a)))
    sent(here)
    assert order == ["z-first", "m-second", "a-mark"]


def test_changed_on_both_sides_is_refused(s3: str) -> None:
    here = fetched(f"{s3}/both")
    (here / "a").write_text("1")
    sent(here)
    (here / "a").write_text("mine")
    put("both/a", b"theirs")
    with pytest.raises(StoreError, match="changed both in s3://scans/both and in"):
        fetched(here)
    assert (here / "a").read_text() == "mine"


def test_two_machines_that_write_one_file_are_told(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another one sent is never overwritten unseen; the same bytes are no quarrel."""
    here = fetched(f"{s3}/two")
    (here / "checkpoint.json").write_text("mine")
    (here / "same").write_text("same")
    _elsewhere(monkeypatch, tmp_path)
    there = fetched(f"{s3}/two")
    (there / "checkpoint.json").write_text("theirs")
    (there / "same").write_text("same")
    sent(there)
    monkeypatch.setenv("FABRICA_STORES", str(tmp_path / "mirrors"))
    sent(here / "same")
    with pytest.raises(StoreError, match="Another run writes there, or did"):
        sent(here)
    assert keys()["two/checkpoint.json"] == b"theirs"


def test_a_mirror_whose_table_was_lost_is_taken_over(s3: str, tmp_path: Path) -> None:
    here = fetched(f"{s3}/lost")
    (here / "a").write_text("same")
    (here / "b").write_text("same size")
    sent(here)
    (tmp_path / "mirrors" / mirror_of(here)._home.name / "known.sqlite").unlink()
    put("lost/b", b"same sizE")
    fetched(here)
    assert (here / "b").read_text() == "same sizE"  # cut short between file and table: fetched again
    (tmp_path / "mirrors" / mirror_of(here)._home.name / "known.sqlite").unlink()
    (here / "a").write_text("longer than it was")
    with pytest.raises(StoreError, match="unlike it"):
        fetched(here)
    with pytest.raises(StoreError, match="changed both"):
        sent(here)


def test_one_object_is_a_file(s3: str) -> None:
    put("table/files.csv", b"file,patient\n")
    here = fetched(f"{s3}/table/files.csv")
    assert here.read_text() == "file,patient\n"
    here.write_text("file,patient,contrast\n")
    sent(here)
    assert keys()["table/files.csv"] == b"file,patient,contrast\n"


def test_paths_of_this_machine_stay_paths(tmp_path: Path) -> None:
    assert place("scans/mine") == Path("scans/mine")
    assert place(tmp_path) == tmp_path
    assert fetched(f"file://{tmp_path}/my%20scans") == tmp_path / "my scans"
    assert mirror_of(tmp_path) is None
    assert named(tmp_path) == str(tmp_path.resolve())
    sent(tmp_path)
    with pytest.raises(StoreError, match="names the machine other"):
        place("file://other/scans")


def test_a_place_keeps_its_name_and_its_url(s3: str) -> None:
    here = place(f"{s3}/runs/0003/")
    assert here.name == "0003"
    assert not here.exists()
    assert named(here) == f"{s3}/runs/0003"
    assert named(here / "stages" / "model") == f"{s3}/runs/0003/stages/model"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://name:secret@bucket/x", "secret in it"),
        ("s3://", "names no place"),
        ("s3://bucket/../other", "names no place"),
        ("gs://bucket::s3://other", "names no place"),
    ],
)
def test_urls_that_may_not_be(url: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        place(url)


def test_a_store_that_is_silent_is_one_line_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()  # takes connections and never answers
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "a"),
            ("AWS_SECRET_ACCESS_KEY", "b"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
        monkeypatch.setattr(remote, "READ_S", 1)
        began = time.monotonic()
        with pytest.raises(StoreError, match=r"s3://scans/x does not answer \(.*Timeout.*\)"):
            fetched("s3://scans/x")
        assert time.monotonic() - began < 30


def test_beyond_this_machine_only_encrypted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with pytest.raises(StoreError, match="unencrypted at 192.0.2.1"):
        fetched("s3://scans/x")


def test_a_store_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(StoreError, match=r"gs:// needs another package .* pip install"):
        fetched("gs://scans/x", said.append)
    assert said == ["gs:// has not been tested: tested are file, s3."]


class Simulated(fsspec.AbstractFileSystem):
    """A million names that are made up when they are asked for."""

    protocol = "simulated"
    cachable = False

    def __init__(self, folders: int = 1000, names: int = 1000, odd: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folders, self.names, self.odd = folders, names, odd

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[dict[str, Any]]:
        if path == "root":
            return [{"name": f"root/{k:04d}", "type": "directory", "size": 0} for k in range(self.folders)]
        own = [{"name": f"{path}/{k:04d}.dcm", "type": "file", "size": 10, "ETag": "x"} for k in range(self.names)]
        return own + ([{"name": f"{path}/{self.odd}", "type": "file", "size": 1}] if self.odd else [])


def test_a_million_names_in_the_memory_of_one_folder() -> None:
    code = (
        "import resource; from tests.machine.test_stores import Simulated; from fabrica.machine.remote import listed\n"
        "sum(1 for _ in listed(Simulated(folders=1), 'root')); before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "count = sum(1 for _ in listed(Simulated(), 'root')); after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(count, after - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, kilobytes = map(int, done.stdout.split())
    assert count == 1_000_000
    assert kilobytes < 10_000


@pytest.mark.parametrize("odd", ["..", "a\\b", "../../etc/passwd"])
def test_names_that_lead_elsewhere_are_refused(odd: str) -> None:
    with pytest.raises(StoreError, match="which is no file name"):
        list(listed(Simulated(2, 3, odd), "root"))


def test_a_full_disk_names_the_file_here(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this machine refuses is told by the terminal as of any other file, not blamed on the store."""
    put("full/a", b"1")
    mirror = Mirror.of(f"{s3}/full")

    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/somewhere/a.part")

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(OSError, match="No space left"):
        mirror.fetch()
    shutil.rmtree(mirror.folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError("Forbidden"), r"may not be used \(Forbidden\). Set AWS_ACCESS_KEY_ID"),
        (type("NoCredentialsError", (Exception,), {})("none"), "may not be used"),
        (FileNotFoundError("scans"), r"is not there \(scans\). Make the bucket first"),
        (TimeoutError(), r"does not answer \(TimeoutError\)"),
        (RuntimeError("odd\nand more"), r"cannot be used \(RuntimeError: odd\)"),
    ],
)
def test_what_a_store_answers_is_one_line_with_what_to_do(error: Exception, words: str) -> None:
    with pytest.raises(StoreError, match=f"s3://x {words}"), remote.plainly("s3://x"):
        raise error
    with pytest.raises(OSError, match="full"), remote.plainly("s3://x"):
        raise OSError(28, "full", "/tmp/here")

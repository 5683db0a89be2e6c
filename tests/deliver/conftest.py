"""A run that draws CT from MR, a DICOM head drawn by it, and an Orthanc of its own for tests that need an archive."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabrica.deliver.record import Record
from fabrica.generate.scans import generate_images
from fabrica.recipe.checks import from_plain
from fabrica.run.sequence import run_recipe

from ..servers import free_port
from .scanner import head, write_series

PLAIN = {
    "cohorts": {
        "all": {"virtual": {"patients": 3, "spacing_mm": 4, "skull": True, "planes": [18, 22], "disease": "none"}}
    },
    "job": {"name": "translation", "from": ["T1w"], "x": ["CT"]},
    "family": {"name": "regression", "network": {"channels": [8, 16], "blocks": 1}},
    "baseline": "none",
    "train": {"steps": 120, "batch": 4, "precision": "fp32"},
    "evaluate": {"draws": 1, "realism": 0, "evaluations": []},
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_recipe(from_plain(PLAIN), folder, say=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def drawn(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What generate wrote of a DICOM head: two draws of its CT."""
    folder = tmp_path_factory.mktemp("drawn")
    write_series(folder / "dicom", *head())
    generate_images(trained, folder / "dicom", folder / "out", draws=2, say=lambda _: None)
    return folder / "out"


@pytest.fixture
def record(drawn: Path) -> Record:
    return Record.read(drawn)


@dataclass(frozen=True)
class Archive:
    """A running Orthanc: where it listens, and how to ask it."""

    http: int
    dicom: int
    ours: int  # the port where it calls us

    @property
    def web(self) -> str:
        return f"dicomweb:http://127.0.0.1:{self.http}/dicom-web"

    @property
    def node(self) -> str:
        return f"dimse:TESTPACS@127.0.0.1:{self.dicom}"

    def ask(self, path: str) -> object:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=20) as answer:
            return json.loads(answer.read())


def program(name: str) -> str:
    """A peer that `make peers` installs; its tests are skipped loudly without it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        pytest.skip(f"{name} is not installed. As root: make peers")
    return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    """Orthanc with DICOMweb on free ports, gone when the module is done."""
    with started(tmp_path_factory.mktemp("orthanc")) as running:
        yield running


@contextmanager
def started(folder: Path, **more: object) -> Iterator[Archive]:
    """An Orthanc whose files lie in a folder; `more` are settings of its own."""
    orthanc = program("Orthanc")
    plugin = next(iter(sorted(Path("/usr").glob("lib*/**/libOrthancDicomWeb.so.*"))), None)
    if plugin is None:
        pytest.skip("orthanc-dicomweb is not installed. As root: make peers")
    running = Archive(free_port(), free_port(), free_port())
    (folder / "db").mkdir(exist_ok=True)
    settings = {
        "Name": "TESTPACS", "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "Plugins": [str(plugin)],
        "RemoteAccessEnabled": False, "AuthenticationEnabled": False, "HttpPort": running.http, "DicomAet": "TESTPACS",
        "DicomPort": running.dicom, "DicomCheckCalledAet": True, "DicomAlwaysAllowStore": False, "DicomCheckModalityHost": True,
        "DicomModalities": {"us": {"AET": "FABRICA", "Host": "127.0.0.1", "Port": running.ours, "AllowEcho": True, "AllowStore": True,
                                   "AllowFind": True, "AllowMove": True, "AllowGet": True, "AllowStorageCommitment": True}},
        "OverwriteInstances": False, "HttpThreadsCount": 4,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
        **more,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [orthanc, str(folder / "orthanc.json")], stdout=log, stderr=log, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
    try:
        _wait(running, folder / "log")
        yield running
    finally:
        process.terminate()
        process.wait(20)


def _wait(running: Archive, log: Path) -> None:
    for _ in range(150):
        try:
            running.ask("/system")
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"Orthanc does not start: {log.read_text()[-2000:]}")

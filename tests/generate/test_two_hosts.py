"""Two hosts that share no folder draw together: scans, run and results in an object store, all of it encrypted.

The hosts are network namespaces of this machine, each with a file system of its own over the scratch folder.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from fabrica import io
from fabrica.data.virtual import VirtualCohort
from fabrica.federate.certificates import AUTHORITY, CERTIFICATE, KEY, write_certificates

from ..deliver.conftest import program, trained  # noqa: F401 (fixture)

SCHEDULER, STORE, BUCKET = 8786, 5000, "scans"
UPLOAD = """
import sys; from pathlib import Path; import boto3
client = boto3.client("s3"); root = Path(sys.argv[1])
client.create_bucket(Bucket=sys.argv[2])
for path in sorted(root.rglob("*")):
    if path.is_file(): client.upload_file(str(path), sys.argv[2], path.relative_to(root).as_posix())
"""
DOWNLOAD = """
import sys; from pathlib import Path; import boto3
client = boto3.client("s3")
for page in client.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[2], Prefix="out/"):
    for one in page.get("Contents", []):
        target = Path(sys.argv[1], one["Key"]); target.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(sys.argv[2], one["Key"], str(target))
"""


class Host:
    """A namespace with an address; programs run in it see the scratch folder of this host alone."""

    def __init__(self, name: str, address: str, scratch: Path, certificates: Path, store: str) -> None:
        self.name, self.address, self.scratch, self.running = name, address, scratch, list[subprocess.Popen[bytes]]()
        certificate, key, ca = (str(certificates / one) for one in (CERTIFICATE, KEY, AUTHORITY))
        self.environment = {
            **os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": store, "AWS_CA_BUNDLE": ca, "FABRICA_STORES": str(scratch / "own" / "stores"),
            "XDG_CACHE_HOME": str(scratch / "own" / "cache"), "OMP_NUM_THREADS": "1",
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": ca, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
            "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
            **{f"DASK_DISTRIBUTED__COMM__TLS__{who}__{what}": value
               for who in ("SCHEDULER", "WORKER", "CLIENT") for what, value in (("CERT", certificate), ("KEY", key))},
        }  # fmt: skip

    def words(self, *program: str) -> list[str]:
        """With a file system of its own over scratch/own, so that no folder is shared by chance."""
        own, kept = self.scratch / "own", self.scratch / self.name
        inside = f"mount --bind {kept} {own} && exec " + " ".join(f"'{word}'" for word in program)
        return ["ip", "netns", "exec", self.name, "unshare", "-m", "sh", "-c", inside]

    def run(self, *program: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.words(*program), capture_output=True, text=True, env=self.environment, check=False, timeout=240
        )

    def start(self, *program: str) -> None:
        log = (self.scratch / f"{self.name}-{len(self.running)}.log").open("wb")
        self.running.append(subprocess.Popen(self.words(*program), stdout=log, stderr=log, env=self.environment))
        log.close()

    def stop(self) -> None:
        for one in self.running:
            one.terminate()
        for one in self.running:
            with suppress(subprocess.TimeoutExpired):
                one.wait(10)
            one.kill()


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    ip = program("ip")
    if os.geteuid():
        pytest.skip("namespaces are made by root alone. As root: make peers")
    names = [f"fabrica-{os.getpid()}-{one}" for one in "ab"]
    links = [f"fab{os.getpid() % 100000}{one}" for one in "ab"]
    addresses = ["10.213.77.1", "10.213.77.2"]

    def asked(*words: str) -> None:
        done = subprocess.run([ip, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"this machine makes no network namespaces ({done.stderr.strip()}). As root: make peers")

    (tmp_path / "certificates").mkdir()
    write_certificates(tmp_path / "certificates", addresses[0], 2)
    (tmp_path / "own").mkdir()
    made: list[Host] = []
    try:
        for name in names:
            asked("netns", "add", name)
        asked("link", "add", links[0], "type", "veth", "peer", "name", links[1])
        for name, link, address in zip(names, links, addresses, strict=True):
            asked("link", "set", link, "netns", name)
            asked("-n", name, "addr", "add", f"{address}/24", "dev", link)
            asked("-n", name, "link", "set", link, "up")
            asked("-n", name, "link", "set", "lo", "up")
            (tmp_path / name).mkdir()
            made.append(Host(name, address, tmp_path, tmp_path / "certificates", f"https://{addresses[0]}:{STORE}"))
        yield made[0], made[1]
    finally:
        for host in made:
            host.stop()
        for name in names:
            subprocess.run([ip, "netns", "del", name], capture_output=True, check=False)


def _images(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.nii.gz"))}


@pytest.mark.slow
def test_two_hosts_draw_together(trained: Path, hosts: tuple[Host, Host], tmp_path: Path) -> None:  # noqa: F811
    first, second = hosts
    for member in VirtualCohort(4, first=30, spacing_mm=4, planes=(18, 20), disease="none").cohort().members:
        path = tmp_path / first.name / "given" / "cohort" / member.patient / "T1w.nii.gz"
        io.write_nifti(member.load(["T1w"]).images["T1w"], path)
    shutil.copytree(
        trained, tmp_path / first.name / "given" / "run", ignore=shutil.ignore_patterns("store", ".running")
    )
    python, own = sys.executable, tmp_path / "own"
    certificates = tmp_path / "certificates"
    secure = ("-c", str(certificates / CERTIFICATE), "-k", str(certificates / KEY))
    bin = Path(python).parent
    first.start(str(bin / "moto_server"), "-H", first.address, "-p", str(STORE), *secure)
    first.start(
        python,
        "-m",
        "distributed.cli.dask_scheduler",
        "--host",
        f"tls://{first.address}",
        "--port",
        str(SCHEDULER),
        "--no-dashboard",
    )
    scheduler = f"tls://{first.address}:{SCHEDULER}"
    for host in hosts:
        host.start(
            python,
            "-m",
            "distributed.cli.dask_worker",
            scheduler,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            f"tls://{host.address}",
        )
    assert _until(lambda: first.run(python, "-c", UPLOAD, str(own / "given"), BUCKET))
    alone = first.run(
        python,
        "-m",
        "fabrica",
        "generate",
        str(own / "given/run"),
        "--data",
        str(own / "given/cohort"),
        "--out",
        str(own / "alone"),
    )
    assert alone.returncode == 0, alone.stderr
    root = f"s3://{BUCKET}"
    done = first.run(python, "-m", "fabrica", "generate", f"{root}/run", "--data", f"{root}/cohort", "--out", f"{root}/out",
                     "--executor", "dask", "--scheduler", scheduler)  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"4 files in {root}/out" in done.stdout
    assert first.run(python, "-c", DOWNLOAD, str(own / "found"), BUCKET).returncode == 0
    assert _images(tmp_path / first.name / "found" / "out") == _images(tmp_path / first.name / "alone")
    drawn = [p for p in (tmp_path / second.name).rglob("*.nii.gz") if p.name == "CT-0.nii.gz"]
    assert 0 < len(drawn) < 4, "both hosts drew"
    plain = second.run(python, "-m", "fabrica", "generate", f"{root}/run", "--data", f"{root}/cohort", "--out", f"{root}/out",
                       "--executor", "dask", "--scheduler", f"tcp://{first.address}:{SCHEDULER}")  # fmt: skip
    assert "would be spoken to unencrypted" in plain.stderr


def _until(ask: object, patience_s: float = 60) -> bool:
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if ask().returncode == 0:  # type: ignore[operator]
            return True
        time.sleep(1)
    return False

"""PostgreSQL for tests: a server on loopback, of this process alone, and a new database each time."""

import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

BINARIES = (
    next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
    if Path("/usr/lib/postgresql").is_dir()
    else None
)
NUMBERS = itertools.count()


@pytest.fixture
def postgresql(server: str) -> str:
    """A new database."""
    name = f"fabrica{next(NUMBERS)}"
    subprocess.run([f"{BINARIES}/createdb", f"--maintenance-db={server}/postgres", name], check=True)
    return f"{server}/{name}"


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A server of its own; it may forget what a power cut would take."""
    if BINARIES is None:
        pytest.skip("postgresql is not installed. As root: make peers")
    with running(fsync=False) as address:
        yield address


@contextmanager
def running(*, fsync: bool) -> Iterator[str]:
    """PostgreSQL on loopback, by a user who is not root where this is root."""
    folder, port = Path("/tmp") / f"fabrica-postgresql-{os.getpid()}", free_port()
    folder.mkdir(mode=0o777)
    own = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if own:
        shutil.chown(folder, "postgres", "postgres")
    user = "postgres"

    def asked(*words: str) -> None:
        subprocess.run([*own, *words], check=True, capture_output=True, cwd=folder)

    try:
        asked(f"{BINARIES}/initdb", "-D", f"{folder}/db", "-U", user, "-A", "trust", "--no-sync")
        listen = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        listen += "" if fsync else " -c fsync=off"
        asked(f"{BINARIES}/pg_ctl", "-D", f"{folder}/db", "-o", listen, "-l", f"{folder}/log", "-w", "start")
        yield f"postgresql://{user}@127.0.0.1:{port}"
    finally:
        with suppress(subprocess.CalledProcessError):
            asked(f"{BINARIES}/pg_ctl", "-D", f"{folder}/db", "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])

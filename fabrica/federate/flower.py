"""Flower's programs, started and ended; they lie in an environment whose pins exclude ours."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ..deliver.files import write_private

PLACE = "FABRICA_FLOWER"  # a variable that says where that environment is
USUAL = Path(".venv-federation")
RELAY = Path(__file__).parent / "relay"
AUTHORITY, SECRET = "authority.pem", "secret"
DAYS, SECRET_BYTES = 365, 32


def flower_at(place: Path | None = None) -> Path:
    """Folder of Flower's programs; raises ValueError with the line that makes it."""
    root = place or Path(os.environ.get(PLACE, USUAL))
    if not (root / "bin" / "flower-superlink").is_file():
        raise ValueError(f"Flower is not in {root}. Type: make federation, or name its environment: --flower DIR")
    return (root / "bin").resolve()


def started(program: str, words: Sequence[str], home: Path, place: Path | None, log: Path) -> subprocess.Popen[bytes]:
    """A program of Flower, without telemetry, its lines in a file."""
    folder = flower_at(place)
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **{k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")},
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}", "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
    }  # fmt: skip
    with log.open("ab") as file:
        return subprocess.Popen(
            [str(folder / program), *words], stdout=file, stderr=subprocess.STDOUT, env=environment, cwd=home
        )


def ended(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """All of them, the last one first."""
    for one in reversed(processes):
        if one.poll() is None:
            one.terminate()
            try:
                one.wait(timeout=10)
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def relay_in(folder: Path) -> Path:
    """A copy of what Flower runs, which it builds in place."""
    target = folder / "relay"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("pyproject.toml", "relay.py"):
        shutil.copyfile(RELAY / name, target / name)
    return target


def make_certificates(folder: Path, host: str) -> None:
    """An authority, a server's certificate and a secret; what sites need is the authority and the secret. Raises
    ValueError where they are there already, or cryptography is not installed.
    """
    try:
        from .certificates import write_certificates
    except ImportError as error:
        raise ValueError(
            'cryptography is not installed. Type: pip install -e ".[clinic]" -c constraints.txt'
        ) from error
    if (folder / AUTHORITY).exists():
        raise ValueError(f"{folder} holds certificates already. Name another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    write_certificates(folder, host, DAYS)
    write_private(folder / SECRET, (secrets.token_hex(SECRET_BYTES) + "\n").encode())


def secret_in(folder: Path) -> bytes:
    """What every message is signed with; raises ValueError where there is none."""
    path = folder / SECRET
    if not path.is_file() or not (folder / AUTHORITY).is_file():
        raise ValueError(
            f"{folder} lacks {SECRET} or {AUTHORITY}. Make them on the server: fabrica federate certificates DIR"
        )
    found = bytes.fromhex(path.read_text().strip())
    if len(found) != SECRET_BYTES:
        raise ValueError(f"{path} holds {len(found)} bytes, expected {SECRET_BYTES}: it was cut off. Copy it again.")
    return found

"""Signed heads of the ledger: that it ends where it ended, which the chain of hashes alone cannot say (Ed25519)."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .ledger import Line

KEY, PUBLIC, HEADS = "ledger.key", "ledger.pub", "heads.jsonl"
EXTRA = 'Install what signs: pip install -e ".[clinic]" -c constraints.txt'


@dataclass(frozen=True, slots=True)
class Head:
    """How long the ledger was at some time, and the hash of its last line; signed by whoever kept it."""

    count: int
    hash: str
    time: str
    signature: str  # hex

    def words(self) -> bytes:
        """What is signed."""
        return f"{self.count}\n{self.hash}\n{self.time}".encode()

    @staticmethod
    def of(plain: Mapping[str, Any]) -> Head:
        """Raises ValueError for what is no head."""
        try:
            return Head(int(plain["count"]), str(plain["hash"]), str(plain["time"]), str(plain["signature"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"This is no signed head ({error}). Make one: fabrica ledger --head") from error


def sign(folder: Path, lines: Sequence[Line], time: str) -> Head | None:
    """The head of a ledger, signed with the key of its folder (made at first, readable by its owner alone) and kept
    beside it; nothing of an empty one. Raises ValueError where the library is missing.
    """
    if not lines:
        return None
    unsigned = Head(lines[-1].number, lines[-1].hash, time, "")
    head = Head(unsigned.count, unsigned.hash, time, _key(folder).sign(unsigned.words()).hex())
    with (folder / HEADS).open("a") as file:
        file.write(json.dumps(asdict(head)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return head


def check(folder: Path, lines: Sequence[Line]) -> int:
    """How many kept heads the ledger was held against; raises ValueError at one that it does not agree with."""
    if not (folder / HEADS).is_file():
        return 0
    heads = [Head.of(json.loads(text)) for text in (folder / HEADS).read_text().splitlines() if text]
    for head in heads:
        check_head(folder, lines, head)
    return len(heads)


def check_head(folder: Path, lines: Sequence[Line], head: Head) -> None:
    """Raises ValueError where a head was not signed here, or the ledger does not hold the line that it names."""
    from cryptography.exceptions import InvalidSignature

    public = _public(folder)
    try:
        public.verify(bytes.fromhex(head.signature), head.words())
    except (InvalidSignature, ValueError) as error:
        raise ValueError(f"The head of {head.time} was not signed by the key of this ledger.") from error
    if head.count > len(lines):
        raise ValueError(f"The ledger had {head.count} lines at {head.time} and has {len(lines)}: its end was cut off.")
    if lines[head.count - 1].hash != head.hash:
        raise ValueError(f"Line {head.count} of the ledger is not what was signed at {head.time}: it was written anew.")


def _key(folder: Path) -> Any:
    """The private key of a folder; made where there is none."""
    try:
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise ValueError(f"cryptography is not installed. {EXTRA}") from error
    path = folder / KEY
    if not path.is_file():
        made = Ed25519PrivateKey.generate()
        words = made.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, forms.NoEncryption())
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(opened, "wb") as file:
            file.write(words)
        (folder / PUBLIC).write_bytes(
            made.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
        )
    return forms.load_pem_private_key(path.read_bytes(), None)


def _public(folder: Path) -> Any:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    path = folder / PUBLIC
    if not path.is_file():
        raise ValueError(f"{path} is gone: nobody can say that the heads of the ledger are its own.")
    return load_pem_public_key(path.read_bytes())

"""Signed heads of the ledger: that it ends where it ended, which the chain of hashes alone cannot say (Ed25519)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .ledger import Line
from .signing import signed, was_signed

HEADS = "heads.jsonl"


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
    def of(text: str) -> Head:
        """From a line of JSON; raises ValueError for what is no head."""
        try:
            plain = json.loads(text)
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
    head = Head(unsigned.count, unsigned.hash, time, signed(folder, unsigned.words(), (folder / HEADS).is_file()))
    with (folder / HEADS).open("a+") as file:
        file.seek(0)
        text = file.read()
        file.truncate(len(text[: text.rfind("\n") + 1].encode()))  # what a full disk cut off
        file.write(json.dumps(asdict(head)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return head


def kept(folder: Path) -> list[Head]:
    """Those that lie beside the ledger; a last line that a full disk cut off was never said to be kept."""
    if not (folder / HEADS).is_file():
        return []
    whole = (folder / HEADS).read_text().split("\n")[:-1]
    return [Head.of(text) for text in whole if text]


def check_head(folder: Path, lines: Sequence[Line], head: Head) -> None:
    """Raises ValueError where a head was not signed here, or the ledger does not hold the line that it names."""
    if not was_signed(folder, head.words(), head.signature):
        raise ValueError(f"The head of {head.time} was not signed by the key of this ledger.")
    if head.count > len(lines):
        raise ValueError(f"The ledger had {head.count} lines at {head.time} and has {len(lines)}: its end was cut off.")
    if lines[head.count - 1].hash != head.hash:
        raise ValueError(f"Line {head.count} of the ledger is not what was signed at {head.time}: it was written anew.")

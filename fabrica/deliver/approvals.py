"""Which models may be used: approved or retired, by whom, when and why; a signed chain that only grows."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from .signing import signed, was_signed

FILE = "models.jsonl"
State = Literal["approved", "retired"]


@dataclass(frozen=True, slots=True)
class Decision:
    """One line: what somebody decided about a model, and the hash of the line before it."""

    number: int
    weights: str  # sha256 of the checkpoint
    run: str  # where it lay
    state: State
    by: str
    reason: str
    time: str
    previous: str
    signature: str = ""

    def words(self) -> bytes:
        """What is signed, and hashed for the next line."""
        return json.dumps({k: v for k, v in asdict(self).items() if k != "signature"}, sort_keys=True).encode()

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.words()).hexdigest()


class Approvals:
    """A folder with `models.jsonl` and the key that signs it. Raises ValueError for a chain that was changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / FILE
        text = path.read_text().split("\n") if path.is_file() else [""]
        if text.pop():
            raise ValueError(f"The last line of {path} was cut off: a disk was full. Remove it, or bring back a copy.")
        self.decisions = [self._read(line, number) for number, line in enumerate(text, 1)]
        previous = ""
        for one in self.decisions:
            if one.previous != previous or not was_signed(folder, one.words(), one.signature):
                raise ValueError(
                    f"Line {one.number} of {path} is not what was signed: models are not used by it. Bring back a copy."
                )
            previous = one.hash

    def _read(self, line: str, number: int) -> Decision:
        try:
            plain = json.loads(line)
            found = Decision(**plain)
            if found.number != number or found.state not in ("approved", "retired"):
                raise ValueError("it does not follow the line before it")
        except (TypeError, ValueError) as error:
            raise ValueError(f"Line {number} of {self.folder / FILE} is no decision ({error}).") from error
        return found

    def decide(self, weights: str, run: Path, state: State, by: str, reason: str) -> Decision:
        """Add a line; raises ValueError without a name or a reason, and for a model that is so already."""
        if not by.strip() or not reason.strip():
            raise ValueError("A decision on a model has a name and a reason. Write: --by NAME --reason WHY")
        last = self.last(weights)
        if (last.state if last else "retired") == state:
            raise ValueError(f"The model of {run} is {'not approved' if last is None else state} already.")
        previous = self.decisions[-1].hash if self.decisions else ""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        unsigned = Decision(len(self.decisions) + 1, weights, str(run), state, by, reason, time, previous)
        self.folder.mkdir(parents=True, exist_ok=True)
        signature = signed(self.folder, unsigned.words(), bool(self.decisions))
        made = Decision(**{**asdict(unsigned), "signature": signature})
        with (self.folder / FILE).open("a") as file:
            file.write(json.dumps(asdict(made)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.decisions.append(made)
        return made

    def last(self, weights: str) -> Decision | None:
        """The last decision on a model."""
        return next((d for d in reversed(self.decisions) if d.weights == weights), None)

    def current(self) -> Decision | None:
        """The model that was approved last and is approved still: what a node goes back to."""
        return next((d for d in reversed(self.decisions) if d.state == "approved" and self.last(d.weights) is d), None)

    def check(self, weights: str, run: Path) -> None:
        """Raises ValueError for a model that is not approved, with the one that is."""
        last, current = self.last(weights), self.current()
        if last is not None and last.state == "approved":
            return
        why = "nobody approved it" if last is None else f"retired by {last.by} at {last.time}: {last.reason}"
        instead = (
            f" Approved: {current.run}" if current else f" Approve one: fabrica models {self.folder} --approve RUN"
        )
        raise ValueError(f"The model of {run} may not be used: {why}.{instead}")

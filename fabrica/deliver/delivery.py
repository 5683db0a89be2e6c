"""The way out: send, read back, compare, and only then call it delivered."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from ..machine.folders import alone
from .decisions import Waiting
from .destinations.destination import Destination, UnreachableError
from .outbox import Outbox
from .withdrawal import withdraw

TRIES = 3
WAIT_S = 1.0  # before the second try; twice as long before each further one
Say = Callable[[str], None]


def deliver(outbox: Outbox, to: Destination, say: Say = print, *, tries: int = TRIES, wait_s: float = WAIT_S) -> int:
    """Everything that waits for a destination; how many instances still do. Nothing is lost, nothing sent twice
    unasked; where another process is sending there, this one leaves it to that.
    """
    with alone(outbox.folder / "sending" / hashlib.sha256(to.name.encode()).hexdigest()[:16]) as ours:
        if ours:
            _deliver(outbox, to, say, tries, wait_s)
        else:
            say(f"Another process is sending to {to.name}: it is left to that.")
    return len(outbox.waiting(to.name))


def _deliver(outbox: Outbox, to: Destination, say: Say, tries: int, wait_s: float) -> None:
    for attempt in range(tries):
        waiting = outbox.waiting(to.name)
        if not waiting:
            return
        if attempt:
            time.sleep(wait_s * 2 ** (attempt - 1))
        for series, own in groupby(waiting, lambda w: w.series):
            try:
                _deliver_series(outbox, to, series, list(own), say)
                if outbox.standing(series) == "reject":  # by somebody who looked while it went out
                    withdraw(outbox, series)
            except UnreachableError as error:
                say(str(error))
                break
            except Exception as error:  # of this series: a file that was changed, an answer that nobody can read
                words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
                outbox.failed(to.name, {w.instance: words for w in waiting if w.series == series})
                say(f"Not delivered: {words}")


def _deliver_series(outbox: Outbox, to: Destination, series: str, waiting: Sequence[Waiting], say: Say) -> None:
    files = {path.stem: path for path in outbox.files(series)}
    left = [w.instance for w in waiting]
    if any(w.attempts for w in waiting):  # sent before, and nobody knows what became of it
        left = _found_there(outbox, to, files, left, say)
    if not left:
        return
    left = outbox.attempted(to.name, left)
    if not left:
        return
    errors = dict(to.store([files[uid] for uid in left]))
    try:
        there = to.arrived(files, left) if len(errors) < len(left) else {}
        kept = to.commit([files[uid] for uid in left if uid in there and not there[uid]])
    except UnreachableError as error:
        outbox.failed(to.name, {uid: errors.get(uid, str(error)) for uid in left})
        refused = sorted(set(errors.values()))
        raise UnreachableError(f"{'; '.join(refused)}. {error}" if refused else str(error)) from error
    good = [uid for uid in left if uid in there and not there[uid] and uid not in kept]
    for uid in left:
        wrong = there.get(uid, "it is not there when read back") or kept.get(uid, "")
        if wrong and (uid in there or uid not in errors):
            errors[uid] = wrong
    outbox.delivered(to.name, good, to.witness)
    outbox.failed(to.name, {uid: error for uid, error in errors.items() if uid not in good})
    what = "that withdraw a rejected series " if outbox.standing(series) == "reject" else ""
    say(f"{len(good)} of {len(left)} instances {what}delivered to {to.name}: {to.witness}.")
    for words in sorted({text for uid, text in errors.items() if uid not in good}):
        say(f"Not delivered: {words}")


def _found_there(
    outbox: Outbox, to: Destination, files: Mapping[str, Path], left: Sequence[str], say: Say
) -> list[str]:
    """What was sent before a break, and arrived, is delivered; the others are to be sent."""
    there = to.arrived(files, left)
    same = [uid for uid, wrong in there.items() if not wrong]
    kept = to.commit([files[uid] for uid in same])
    outbox.delivered(to.name, [uid for uid in same if uid not in kept], to.witness)
    outbox.failed(to.name, kept)
    if same:
        say(f"{len(same)} instances were there already.")
    return [uid for uid in left if uid not in same]

"""The node: what arrives is gated, answered by the run that its rules choose, held until accepted, then delivered."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..deliver.delivery import deliver
from ..deliver.destinations.destination import Destination
from ..deliver.destinations.settings import destination
from ..deliver.objects.source import read_headers
from ..deliver.outbox import Outbox
from ..deliver.record import Record
from ..deliver.verification import verify
from ..deliver.withdrawal import withdraw
from ..generate.handover import hand_over
from .gates import faults, unread
from .intake import Arrived, Intake
from .rules import Rule, chosen

Say = Callable[[str], None]
QUIET_S = 10.0  # without another image: then a series is taken as whole
TRIES = 2  # of drawing a series, before somebody has to look
DRAWING_S = 4 * 3600.0  # longest that a drawing may take
LONGEST_WAIT_S = 600.0  # between two tries of a destination that does not answer


@dataclass
class Node:
    """One queue, one drawing at a time. `quiet_s`: without another image, then a series is taken as whole."""

    intake: Intake
    outbox: Outbox
    rules: Sequence[Rule]
    say: Say
    quiet_s: float = QUIET_S
    stopped: threading.Event = field(default_factory=threading.Event)
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)  # series -> (images, when there was another)
    _later: dict[str, tuple[float, float]] = field(default_factory=dict)  # destination -> (not before, wait)
    _judged: int | None = None  # the last decision that was seen
    _running: subprocess.Popen[bytes] | None = None

    def run(self, every_s: float = 1.0) -> None:
        """Until it is stopped. A drawing that takes hours holds nothing else up."""
        drawing = threading.Thread(target=self._repeated, args=(every_s, self.answer))
        drawing.start()
        self._repeated(every_s, self.settle, self.hand_out)
        drawing.join()

    def _repeated(self, every_s: float, *steps: Callable[[], None]) -> None:
        """A step that fails is said and tried again; nothing stops the others."""
        while not self.stopped.wait(every_s):
            for step in steps:
                try:
                    step()
                except Exception as error:  # the node outlives whatever one series does to it
                    self.say(f"{step.__name__}: {type(error).__name__}: {error}")

    def stop(self) -> None:
        """No more is begun; a drawing is ended and begins anew at the next start."""
        self.stopped.set()
        if (running := self._running) is not None:
            running.terminate()

    def settle(self) -> None:
        """Series that nothing is added to any more are gated: refused with reasons, or waiting to be answered.

        Quiet is told by this process's own clock: a clock of the day that jumps makes no series whole.
        """
        now = time.monotonic()
        for one in self.intake.series("arriving"):
            images, since = self._seen.get(one.uid, (-1, now))
            if images != one.instances:
                self._seen[one.uid] = (one.instances, now)
            elif now - since >= self.quiet_s:
                del self._seen[one.uid]
                reason = self._refusal(one)
                self.intake.move(one.uid, "refused" if reason else "waiting", reason)
                self.say(f"A series of {one.instances} images {f'is refused: {reason}' if reason else 'waits'}.")

    def _refusal(self, one: Arrived) -> str:
        try:
            headers = read_headers(self.intake.files(one))
            rule, why = chosen(self.rules, headers)
            if rule is None:
                return f"no rule fits ({why})"
            return "; ".join([*faults(headers, lossy=rule.lossy), *unread(self.intake.files(one))])
        except Exception as error:  # a header that says what no header may
            unreadable = f"its headers cannot be read ({type(error).__name__})"
            return str(error) if isinstance(error, ValueError) else unreadable

    def answer(self) -> None:
        """The first series that waits is drawn and prepared; nothing of it leaves before it is accepted."""
        waiting = self.intake.series("waiting")
        if not waiting:
            return
        one = waiting[0]
        if one.tries >= TRIES:  # it ended whoever drew it
            self.intake.move(one.uid, "failed", one.reason or "every drawing of it ended this node")
            return
        if not self.intake.begin(one.uid):  # cancelled just now
            return
        try:
            rule, made = self._answered(one)
        except Exception as error:
            if self.stopped.is_set():
                self.intake.put_back(one.uid)
                return
            words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            again = one.tries + 1 < TRIES
            self.intake.move(one.uid, "waiting" if again else "failed", words)
            self.say(f"A series could not be answered{', and is tried again' if again else ''}: {words}")
            return
        self.intake.prepared(one.uid, made, rule.to, unreviewed=rule.accept == "unreviewed")
        for uid in made:  # somebody may have accepted it already
            self._act(uid)
        self.outbox.sign()
        then = "a person has to accept" if rule.accept == "person" else "sent unreviewed"
        self.say(f"{len(made)} series prepared; {then}.")

    def _answered(self, one: Arrived) -> tuple[Rule, list[str]]:
        """By which rule, and the series that were made; raises ValueError where nothing was."""
        rule, why = chosen(self.rules, read_headers(self.intake.files(one)))
        if rule is None:  # the rules were changed meanwhile
            raise ValueError(f"no rule fits ({why})")
        out = self.intake.folder / "drawn" / f"{one.uid}-{one.tries}"  # of an earlier try a process may still draw
        if error := self._drawn(rule, one, out):
            raise ValueError(error)
        record = Record.read(out)
        used = {source.sop_instance_uid for drawn in record.images for source in drawn.sources}
        if len(used) != one.instances:
            raise ValueError(f"{len(used)} of its {one.instances} images were read: nothing is made of a part.")
        return rule, hand_over(record, self.outbox, say=lambda _: None)

    def _drawn(self, rule: Rule, one: Arrived, out: Path) -> str:
        """By a process of its own, so that nothing that it does ends the node; what went wrong, or nothing."""
        command = [
            sys.executable, "-m", "fabrica", "generate", str(rule.run), "--data",
            str(self.intake.where(one.study, one.uid)), "--out", str(out), "--draws", str(rule.draws),
            "--shift", rule.shift,
            *(("--registry", str(rule.registry)) if rule.registry is not None else ()),
        ]  # fmt: skip
        self._running = running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if self.stopped.is_set():  # while it was started: whoever stopped the node did not see it
            running.terminate()
        try:
            said, _ = running.communicate(timeout=DRAWING_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.communicate()
            return f"the drawing took longer than {DRAWING_S / 3600:g} hours"
        finally:
            self._running = None
        if running.returncode == 0:
            return ""
        last = said.decode(errors="replace").strip().splitlines()[-1:] or [""]
        return f"the drawing ended with {running.returncode}: {last[0][:300]}"

    def _act(self, uid: str) -> None:
        """What a decision on something that was made, or none, asks for."""
        verdict = self.outbox.standing(uid)
        if verdict == "reject":
            withdraw(self.outbox, uid)
        verify(self.outbox, uid)  # before it is sent: a report goes out with its verified version
        for _, place, unreviewed in self.intake.made(uid):
            if verdict == "accept" or unreviewed:
                to = destination(place)
                self.outbox.enqueue(uid, to.name, parts=to.parts, unreviewed=unreviewed)

    def hand_out(self) -> None:
        """What is accepted goes to where its rule says; what was rejected after that is withdrawn there."""
        if self._judged is None:  # since the last start anything may have been cut short
            self._judged = 0
            self._acted(uid for uid, _, _ in self.intake.made())
        for number, uid in self.outbox.verdicts_after(self._judged):
            self._acted([uid])
            self._judged = number
        for place in self.intake.places():
            try:
                if time.monotonic() >= self._later.get(place, (0.0, 0.0))[0]:
                    self._deliver(destination(place))
            except Exception as error:  # of this place: the file that says how to reach it is gone
                self._later[place] = (time.monotonic() + LONGEST_WAIT_S, LONGEST_WAIT_S)
                self.say(f"{place}: {error}")

    def _acted(self, uids: Iterable[str]) -> None:
        """One that cannot be acted on is said, and holds no other up."""
        for uid in uids:
            try:
                self._act(uid)
            except Exception as error:
                self.say(f"{uid}: {error}")

    def _deliver(self, to: Destination) -> None:
        """What waits for a place, unless it did not answer just now."""
        not_before, wait = self._later.get(to.name, (0.0, 1.0))
        if time.monotonic() < not_before or not self.outbox.waiting(to.name):
            return
        if left := deliver(self.outbox, to, self.say, tries=1):
            self._later[to.name] = (time.monotonic() + wait, min(2 * wait, LONGEST_WAIT_S))
            self.say(f"{left} instances wait for {to.name}; tried again in {wait:g} s.")
        else:
            self._later.pop(to.name, None)
            self.outbox.sign()

"""The node as its command runs it: images in, a page, a queue; ended by Ctrl-C or SIGTERM without losing anything."""

from __future__ import annotations

import hashlib
import secrets
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from ..deliver.outbox import Outbox
from ..machine.folders import alone
from .intake import Intake
from .node import Node
from .pages import served
from .review import application
from .rules import read_rules
from .storage import Door, listening
from .stow import add_intake


def _ended(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def run_node(rules: Path, door: Door, store: Path, page: int, quiet_s: float, say: Callable[[str], None]) -> None:
    """Until it is stopped. Raises ValueError for rules that are none, and for ports that are taken."""
    known, token = read_rules(rules), secrets.token_urlsafe(24)
    with alone(store / "node" / "serving") as ours:
        if not ours:
            raise ValueError(f"Another node serves {store}. Stop it, or name another --store DIR")
        outbox = Outbox(store)
        outbox.note("configured", rules=hashlib.sha256(rules.read_bytes()).hexdigest(), count=len(known))
        _run(door, Node(Intake(store / "node"), outbox, known, say, quiet_s), token, page)


def _run(door: Door, node: Node, token: str, page: int) -> None:
    intake, outbox, say = node.intake, node.outbox, node.say
    app = application(outbox.folder, token)
    add_intake(app, intake, outbox, token, say)
    signal.signal(signal.SIGTERM, _ended)  # the web server hands the signal on when it has stopped
    with listening(door, intake, say) as port:
        say(f"{door.title} listens at {door.address}:{port} to {', '.join(door.callers)}; {len(node.rules)} rules.")
        say(f"STOW-RS at /dicom-web, figures at /metrics, with the token {token}")
        working = threading.Thread(target=node.run)
        working.start()
        try:
            served(app, {"": token}, page, say)  # ends with the process's signals
        finally:
            say("Stopping: what is being drawn begins anew at the next start.")
            node.stop()
            working.join()

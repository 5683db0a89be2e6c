"""Places in object stores on the command line: any folder or file may be a URL, worked on through its mirror."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .terminal import call, echo, errors

_ARGUMENT = re.compile(r"((?:--[\w-]+=)?(?:[\w-]+=)?)([a-z][a-z0-9]*://.+)", re.DOTALL)


@contextmanager
def brought(arguments: Sequence[str]) -> Iterator[list[str]]:
    """Arguments with every URL of a store as the folder that stands for it, fetched before and sent after.

    What was done until a failure or a stop is sent as well: it can be gone on with, here or elsewhere.
    """
    if not any(_ARGUMENT.fullmatch(argument) for argument in arguments):
        yield list(arguments)  # --help answers at once: what opens stores is not loaded
        return
    from ..machine import stores

    found: list[str] = []
    used: list[str] = []
    with errors():
        for argument in arguments:
            match = _ARGUMENT.fullmatch(argument)
            if match is None or not stores.is_place(match[2]):
                found.append(argument)
                continue
            folder = stores.place(match[2])
            call(folder, match[2].rstrip("/"))
            found.append(match[1] + str(stores.fetched(match[2], echo)))
            used.append(match[2])
    try:
        yield found
    finally:
        if os.environ.get("RANK", "0") == "0":  # of several processes of one run, the first one writes
            with errors():
                for url in dict.fromkeys(used):
                    stores.sent(stores.place(url), echo)

"""The command line: a thin skin over the library. Verbs stand in the order in which `--help` shows them."""

from . import making, judging, federating, delivering, looking  # isort: skip
import sys

import typer

from .app import app
from .places import brought


def main() -> None:
    """The console script."""
    try:
        with brought(sys.argv[1:]) as arguments:
            app(args=arguments)
    except typer.Exit as stop:  # of a store that cannot be used
        sys.exit(stop.exit_code)


__all__ = ["app", "delivering", "federating", "judging", "looking", "main", "making"]

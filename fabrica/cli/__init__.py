"""The command line: a thin skin over the library. Verbs stand in the order in which `--help` shows them."""

from . import making, judging, federating, delivering, looking  # isort: skip
from .app import app


def main() -> None:
    """The console script."""
    app()


__all__ = ["app", "delivering", "federating", "judging", "looking", "main", "making"]

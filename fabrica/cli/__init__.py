"""The command line: a thin skin over the library."""

from .verbs import app, main

__all__ = ["app", "main"]

"""The program that every verb hangs on."""

from __future__ import annotations

import typer

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Generative medical imaging: real scans in, a model trained, images drawn, an honest report out.",
)  # fmt: skip

"""What a verb does on a terminal: errors in one line with an exit code, and how far a training is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

import typer

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def fail(text: str, code: int = WRONG_INPUT) -> NoReturn:
    typer.echo(text, err=True)
    raise typer.Exit(code)


class errors:  # noqa: N801 (reads as a block)
    """Known errors become one line and an exit code: 2 for wrong input, 1 for a run that failed."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, typer.Exit | SystemExit | KeyboardInterrupt):
            return
        from .checkpoint import CheckpointError
        from .io import UnreadableError
        from .train import TrainingError

        if isinstance(error, TrainingError | CheckpointError):
            fail(str(error), FAILED)
        if isinstance(error, ValueError | UnreadableError):
            fail(str(error), WRONG_INPUT)
        if isinstance(error, OSError):
            fail(
                f"{error.filename or 'A file'}: {error.strerror}. Check the path, its permissions and the free space.",
                FAILED,
            )


class bars:  # noqa: N801 (reads as a block)
    """A progress bar per stage on a terminal; a line every ten seconds elsewhere."""

    def __enter__(self) -> Callable[[str, Any], None]:
        self.last, self.bar = 0.0, None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            words = TextColumn(
                "{task.description} {task.completed}/{task.total} loss {task.fields[loss]:.4f} {task.fields[rate]:.1f} images/s"
            )
            self.bar = Progress(words, BarColumn(), TimeRemainingColumn(), transient=True)
            self.bar.start()
            self.tasks: dict[str, Any] = {}
        return self.watch

    def watch(self, stage: str, p: Any) -> None:
        import time

        if self.bar is not None:
            if stage not in self.tasks:
                self.tasks[stage] = self.bar.add_task(stage, total=p.total, loss=p.loss, rate=p.images_per_second)
            self.bar.update(self.tasks[stage], completed=p.step, loss=p.loss, rate=p.images_per_second)
        elif time.monotonic() - self.last > 10 or p.step == p.total:
            self.last = time.monotonic()
            typer.echo(
                f"{stage} {p.step}/{p.total} loss {p.loss:.4f} {p.images_per_second:.1f} images/s, {p.seconds_left:.0f} s left",
                err=True,
            )

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

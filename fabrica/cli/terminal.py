"""What a verb does on a terminal: errors in one line with an exit code, and how far a training is."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130
_called: dict[str, str] = {}  # folder of this machine -> the URL that its user gave


def call(folder: Path, url: str) -> None:
    """From now on a folder is shown by the name that its user knows."""
    _called[str(folder)] = url


def echo(text: object = "", *, nl: bool = True, err: bool = False) -> None:
    """Say it; once nobody listens any more (`| head`), work goes on in silence."""
    words = str(text)
    for folder, url in _called.items():
        words = words.replace(folder, url)
    try:
        typer.echo(words, nl=nl, err=err)
    except BrokenPipeError:
        stream = sys.stderr if err else sys.stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def fail(text: str, code: int = WRONG_INPUT) -> NoReturn:
    echo(text, err=True)
    raise typer.Exit(code)


class errors:  # noqa: N801 (reads as a block)
    """Known errors become one line and an exit code: 2 for wrong input, 1 for a run that failed."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, typer.Exit | SystemExit | KeyboardInterrupt):
            return
        from ..io import UnreadableError
        from ..learning.checkpoint import CheckpointError
        from ..learning.gradients import TrainingError

        if isinstance(error, TrainingError | CheckpointError):
            fail(str(error), FAILED)
        if isinstance(error, ValueError | UnreadableError):
            fail(str(error), WRONG_INPUT)
        if (databases := sys.modules.get("sqlalchemy.exc")) and isinstance(error, databases.SQLAlchemyError):
            from ..machine.databases import reason

            said = f"The database cannot be used ({reason(error)})."
            fail(f"{said} Check that --store is an outbox that you may write, and that its server runs.", FAILED)
        if isinstance(error, OSError):
            fail(_refused_by_the_system(error), FAILED)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _refused_by_the_system(error: OSError) -> str:
    file = error.filename or "A file"
    if error.errno not in _FULL:
        return f"{file}: {error.strerror or error}. Check the path, its permissions and the free space."
    place = next((p for p in (Path(str(file)), *Path(str(file)).resolve().parents) if p.is_dir()), Path())
    free = shutil.disk_usage(place).free
    return (
        f"{file} could not be written: {error.strerror}. {free / 1e6:.0f} MB are free there. Free some space (old runs"
        " are the largest: du -sh runs/*) and type the same command again."
    )


class bars:  # noqa: N801 (reads as a block)
    """A progress bar per stage on a terminal; a line every ten seconds elsewhere."""

    def __enter__(self) -> Callable[[str, Any], None]:
        self.last, self.bar = 0.0, None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            words = TextColumn(
                "{task.description} {task.completed}/{task.total} loss {task.fields[loss]:.4f} {task.fields[rate]:.1f}"
                " images/s"
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
            echo(
                f"{stage} {p.step}/{p.total} loss {p.loss:.4f} {p.images_per_second:.1f} images/s, {p.seconds_left:.0f}"
                " s left",
                err=True,
            )

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


@contextmanager
def going_on(run: Path) -> Iterator[Callable[[str, Any], None]]:
    """Bars of a training; one that is stopped says how it goes on."""
    from ..learning.loop import Interrupted

    try:
        with bars() as watch:
            yield watch
    except (Interrupted, KeyboardInterrupt) as error:
        echo(f"\n{error or 'Stopped.'}\nGo on with: fabrica run {run}", err=True)
        raise typer.Exit(INTERRUPTED) from error

"""Places in object stores, worked on as folders of this machine: fetched before, sent after.

A place is a URL that fsspec opens. Its mirror lies in the user's cache; what both sides last had in common stands in a
table, so that only what changed travels. Nothing is ever deleted in a store.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from .device import cache_folder
from .folders import HELD
from .remote import StoreError, facts_of, listed, opened, plainly

TESTED = ("file", "s3")
SCHEMES = (*TESTED, "s3a", "gs", "gcs", "az", "abfs", "abfss")
AT_ONCE = 8  # files that travel together
BATCH = 256  # names that are held at once
NOT_KEPT = "CACHEDIR.TAG"  # bford.info/cachedir: a folder that anybody can make again
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """What went one way."""

    files: int
    size: int

    def __str__(self) -> str:
        return f"{self.files} file{'s' * (self.files != 1)}, {self.size / 1e6:.1f} MB"


@dataclass(frozen=True)
class Mirror:
    """A place in a store and the folder that stands for it here."""

    url: str
    folder: Path

    @staticmethod
    def of(url: str) -> Mirror:
        """Raises StoreError for a URL that is none, or that holds a secret."""
        scheme, _, rest = url.partition("://")
        parts = urlsplit(url)
        if scheme not in SCHEMES:
            raise StoreError(f"{scheme}:// is no store that is known. Known: {', '.join(SCHEMES)}.")
        if parts.username or parts.password or "@" in parts.netloc:
            raise StoreError(
                "A URL with a name or a secret in it would be written into runs. Leave it out, and set"
                " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
            )
        if not parts.netloc or "::" in url or any(p in ("..", ".") for p in rest.split("/")):
            raise StoreError(f"{url} names no place. Write {scheme}://BUCKET/FOLDER")
        plain = url.rstrip("/")
        home = mirrors() / hashlib.sha256(plain.encode()).hexdigest()[:20]
        return Mirror(plain, home / "tree" / PurePosixPath(rest.rstrip("/")).name)

    @property
    def _home(self) -> Path:
        return self.folder.parent.parent

    def fetch(self) -> Moved:
        """What changed there comes here. What changed here and was not sent yet stays; raises StoreError where both
        did.
        """
        files, size = 0, 0
        with plainly(self.url), self._table() as known:
            fs, root = opened(self.url)
            entries = _batches(listed(fs, root), BATCH)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for batch in entries:
                    wanted = [one for one in batch if self._wanted(known, *one)]
                    paths = pool.map(lambda one: self._receive(fs, _join(root, one[0]), *one[:2]), wanted)
                    for (name, length, tag), path in zip(wanted, paths, strict=True):
                        known.keep(name, length, tag, path.stat().st_mtime_ns)
                        files, size = files + 1, size + length
            if not self.folder.is_file():
                self.folder.mkdir(parents=True, exist_ok=True)
        return Moved(files, size)

    def send(self, below: Path | None = None) -> Moved:
        """What changed here, or below a path of it, goes there, in the order in which it was written.

        So what says that all is there comes last. Raises StoreError where it cannot; a second time it goes on where it
        stopped.
        """
        files, size = 0, 0
        with plainly(self.url), self._table() as known:
            changed = sorted(self._changed(known, below or self.folder))
            if not changed:
                return Moved(0, 0)
            fs, root = opened(self.url)
            for mtime, name in changed:
                path, remote = self.folder / name, _join(root, name)
                if self._is_there(fs, remote, name, known):
                    known.keep(name, *facts_of(fs.info(remote)), mtime)
                    continue
                fs.put_file(str(path), remote)
                length, tag = facts_of(fs.info(remote))
                if length != path.stat().st_size:
                    raise StoreError(f"{self.url}/{name} arrived with {length} bytes, sent were {path.stat().st_size}.")
                known.keep(name, length, tag, mtime)
                files, size = files + 1, size + length
        return Moved(files, size)

    def _wanted(self, known: _Table, name: str, size: int, tag: str) -> bool:
        """Whether a file of the store must come: it is new there, or it is not here."""
        path, before = self.folder / name, known.of(name)
        if not path.is_file():
            return True
        if before is None:
            if _md5(path) == tag:
                known.keep(name, size, tag, path.stat().st_mtime_ns)
                return False
            if path.stat().st_size == size:
                return True  # cut short between the two, and nobody changed it
            raise StoreError(f"{name} is in {self.url} and, unlike it, in {path}. Take away the one that is wrong.")
        if (size, tag) == before[:2]:
            return False
        if path.stat().st_mtime_ns != before[2]:
            raise self._both(name)
        return True

    def _is_there(self, fs: Any, remote: str, name: str, known: _Table) -> bool:
        """Whether the store holds these bytes already; raises StoreError where it holds what somebody else wrote."""
        try:
            there = facts_of(fs.info(remote))
        except FileNotFoundError:
            return False
        if _md5(self.folder / name) == there[1]:
            return True
        before = known.of(name)
        if before is None or there != before[:2]:
            raise self._both(name)
        return False

    def _both(self, name: str) -> StoreError:
        return StoreError(
            f"{name} changed both in {self.url} and in {self.folder} since they were the same. Another run writes"
            f" there, or did. Take away the one that is wrong, here or there."
        )

    def _receive(self, fs: Any, remote: str, name: str, size: int) -> Path:
        target = self.folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=target.parent, suffix=".part")
        os.close(descriptor)
        try:
            fs.get_file(remote, part)
            if (have := Path(part).stat().st_size) != size:
                raise StoreError(f"{self.url}/{name} came with {have} bytes of {size}. Type the same command again.")
            os.replace(part, target)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
        return target

    def _changed(self, known: _Table, below: Path) -> Iterator[tuple[int, str]]:
        for path in _kept(below):
            name = "" if path == self.folder else path.relative_to(self.folder).as_posix()
            state, before = path.stat(), known.of(name)
            if before is None or (before[0], before[2]) != (state.st_size, state.st_mtime_ns):
                yield state.st_mtime_ns, name

    def remembered(self) -> Mirror:
        """This one, after it was written down which URL its folder stands for."""
        self._home.mkdir(parents=True, exist_ok=True)
        if not (self._home / "place").is_file():
            (self._home / "place").write_text(self.url)
        return self

    def _table(self) -> _Table:
        return _Table(self.remembered()._home / "known.sqlite")


class _Table:
    """name -> size, tag in the store, time of change here: of when both were last the same."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> _Table:
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        self._db.execute("create table if not exists file (name text primary key, size int, tag text, mtime int)")
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def of(self, name: str) -> tuple[int, str, int] | None:
        with closing(self._db.execute("select size, tag, mtime from file where name = ?", (name,))) as found:
            row: tuple[int, str, int] | None = found.fetchone()
        return row

    def keep(self, name: str, size: int, tag: str, mtime: int) -> None:
        self._db.execute("insert or replace into file values (?, ?, ?, ?)", (name, size, tag, mtime))


def mirrors() -> Path:
    """Where mirrors of stores lie; each may be taken away when nothing is unsent."""
    return Path(os.environ.get("FABRICA_STORES") or cache_folder() / "stores")


def is_place(text: str) -> bool:
    """Whether a text is a URL of a store: s3://BUCKET/FOLDER."""
    return re.match(r"[a-z][a-z0-9]*://", text) is not None and text.partition("://")[0] in SCHEMES


def place(text: str | Path) -> Path:
    """The folder of this machine that a URL stands for, a path as it is. Nothing travels."""
    if not isinstance(text, str) or not is_place(text):
        return Path(text)
    if text.startswith("file://"):
        parts = urlsplit(text)
        if parts.netloc not in ("", "localhost"):
            raise StoreError(f"{text} names the machine {parts.netloc}. Give a path of this one.")
        return Path(unquote(parts.path))
    return Mirror.of(text).remembered().folder


def fetched(text: str | Path, say: Say | None = None) -> Path:
    """As `place`, with all that is there; also of a path in a mirror. Says what came, and which store is not tested."""
    found, tell = place(text), say or _silent
    if (mirror := mirror_of(found)) is None:
        return found
    if (scheme := mirror.url.partition("://")[0]) not in (*TESTED, "s3a"):
        tell(f"{scheme}:// has not been tested: tested are {', '.join(TESTED)}.")
    moved = mirror.fetch()
    if moved.files:
        tell(f"Fetched from {mirror.url}: {moved}.")
    return found


def mirror_of(path: Path) -> Mirror | None:
    """The mirror that a path lies in; None where it lies in none."""
    root, whole = mirrors().resolve(), Path(path).resolve()
    if not whole.is_relative_to(root) or len(parts := whole.relative_to(root).parts) < 3:
        return None
    home = root / parts[0]
    return Mirror((home / "place").read_text(), home / "tree" / parts[2]) if (home / "place").is_file() else None


def named(path: Path) -> str:
    """What another machine calls it: the URL of what lies in a mirror, else the whole path."""
    mirror, whole = mirror_of(path), Path(path).resolve()
    if mirror is None:
        return str(whole)
    rest = whole.relative_to(mirror.folder.resolve()).as_posix()
    return mirror.url if rest == "." else f"{mirror.url}/{rest}"


def sent(path: Path, say: Say | None = None) -> None:
    """What changed at or below a path in a mirror goes to its store; nothing for a path of this machine alone."""
    if (mirror := mirror_of(path)) is None:
        return
    moved = mirror.send(path)
    if moved.files and say is not None:
        say(f"Sent to {mirror.url}: {moved}.")


def _md5(path: Path) -> str:
    """What stores call a file that came in one piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _join(root: str, name: str) -> str:
    """Of one object the name is empty."""
    return f"{root}/{name}" if name else root


def _kept(folder: Path) -> Iterator[Path]:
    """Files that a store is to hold: whole ones, outside folders that anybody can make again."""
    if folder.is_file():
        yield folder
    for here, folders, names in os.walk(folder):
        if NOT_KEPT in names:
            folders.clear()
            continue
        for name in names:
            path = Path(here, name)
            if not name.endswith(".part") and name != HELD and path.is_file():
                yield path


def _batches(of: Iterable[Any], size: int) -> Iterator[list[Any]]:
    flow = iter(of)
    while batch := list(islice(flow, size)):
        yield batch


def _silent(text: str) -> None:
    """What is said where nobody listens."""

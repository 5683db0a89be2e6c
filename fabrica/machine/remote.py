"""What fsspec opens, in this project's words: listings of one folder at a time, errors of one line, no secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .addresses import is_loopback

CONNECT_S, READ_S = 10, 60  # until a store counts as silent


class StoreError(ValueError):
    """A store that does not answer, refuses, or holds what may not be taken: which, and what to do."""


def listed(fs: Any, root: str) -> Iterator[tuple[str, int, str]]:
    """(name below `root`, bytes, tag) of every file, one folder after the other: as much memory as one folder takes.

    Raises StoreError for names that lead out of the folder that they would be written to.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = fs.ls(folder, detail=True)
        except FileNotFoundError:
            if folder == root:
                return
            raise
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            if name == folder.rstrip("/"):
                if entry["type"] != "directory" and entry.get("size") and folder == root:
                    yield "", *facts_of(entry)  # one object
                continue  # else the mark that some programs leave for a folder
            if entry["type"] == "directory":
                waiting.append(name)
                continue
            relative = name[len(root) :].lstrip("/")
            _check_name(relative, root)
            yield relative, *facts_of(entry)


def opened(url: str) -> tuple[Any, str]:
    """(file system, path in it), with no listing kept; raises StoreError without what fsspec needs for it."""
    import fsspec

    scheme, _, rest = url.partition("://")
    try:
        fs = fsspec.filesystem(scheme, **_options(scheme))
    except ImportError as error:
        raise StoreError(
            f'{scheme}:// needs another package ({error}). Install it: pip install -e ".[cluster]" -c constraints.txt'
        ) from error
    _check_encrypted(fs, url)
    return fs, rest.rstrip("/")


def _options(scheme: str) -> dict[str, Any]:
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme in ("s3", "s3a"):
        patience = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": 2}}
        options["config_kwargs"] = patience
    return options


def _check_encrypted(fs: Any, url: str) -> None:
    """Raises StoreError for an address beyond this machine that is spoken to in the clear."""
    if not hasattr(fs, "connect"):
        return
    fs.connect()
    address = str((getattr(getattr(fs, "s3", None), "meta", None) and fs.s3.meta.endpoint_url) or "")
    parts = urlsplit(address)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise StoreError(
            f"{url} would be spoken to unencrypted at {parts.hostname}. Set AWS_ENDPOINT_URL to https://..."
        )


def facts_of(entry: Mapping[str, Any]) -> tuple[int, str]:
    """(bytes, tag): what tells a file of a store from what it was before."""
    keys = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")
    return int(entry.get("size") or 0), next((str(entry[k]).strip('"') for k in keys if entry.get(k)), "")


def _check_name(name: str, root: str) -> None:
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(p in ("", ".", "..") for p in parts):
        raise StoreError(f"{root} holds an object called {name!r}, which is no file name. Rename it there.")


class plainly:  # noqa: N801 (reads as a block)
    """Whatever a store's library raises becomes one line."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError) and error.filename and Path(str(error.filename)).is_absolute():
            return  # this machine's own disk: the terminal says what is wrong with it
        raise StoreError(f"{self.url} {_fault(error)}") from error


def _fault(error: Exception) -> str:
    text, kind = (str(error).splitlines() or [""])[0][:120], type(error).__name__
    if isinstance(error, TimeoutError) or re.search(r"Timeout|EndpointConnection|ConnectionError|ConnectTo", kind):
        return f"does not answer ({kind}). Check the address (AWS_ENDPOINT_URL) and type the same command again."
    if isinstance(error, PermissionError) or "Credentials" in kind:
        return f"may not be used ({text}). Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile."
    if isinstance(error, FileNotFoundError):
        return f"is not there ({text}). Make the bucket first, or correct its name."
    return f"cannot be used ({kind}: {text})."

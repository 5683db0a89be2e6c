"""A destination by words: of the command line, or of a file `pacs.yaml` that names no secret."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import plain_yaml
from .bids import Bids
from .destination import Destination
from .dicomweb import Dicomweb, Login
from .dimse import Certificates, Dimse, Manners
from .folder import Folder

HOW = "Write folder:DIR, bids:DIR, dicomweb:URL, dimse:AE@HOST:PORT, or the name of a file pacs.yaml"
KEYS = {  # kind -> (what must be said, what may be)
    "folder": (("path",), ()),
    "bids": (("path",), ()),
    "dicomweb": (("url",), ("user", "password", "token", "ca")),
    "dimse": (
        ("host", "port", "called_ae"), ("calling_ae", "tls", "commitment", "retrieve", "listen", "address"),
    ),
}  # fmt: skip


def destination(text: str) -> Destination:
    """From the command line; raises ValueError for what is none."""
    kind, _, where = text.partition(":")
    if kind == "folder" and where:
        return Folder(Path(where))
    if kind == "bids" and where:
        return Bids(Path(where))
    if kind == "dicomweb" and where:
        return Dicomweb(where)
    if kind == "dimse" and where:
        return Dimse.of(where)
    if text.endswith((".yaml", ".yml")):
        return told(Path(text))
    raise ValueError(f"--to {text!r} is no destination. {HOW}")


def told(path: Path) -> Destination:
    """Of a file; secrets are `env:NAME`, files lie beside it. Raises ValueError for anything that is not as it
    should be.
    """
    plain = plain_yaml(path, HOW)
    if not isinstance(plain, dict) or str(plain.get("kind")) not in KEYS:
        raise ValueError(f"{path} says no kind that is known. Write kind: {', '.join(KEYS)}")
    try:
        return _of(dict(plain), path.parent)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _of(plain: dict[str, Any], folder: Path) -> Destination:
    kind = str(plain.pop("kind"))
    must, may = KEYS[kind]
    _check_keys(plain, must, may)
    if kind in ("folder", "bids"):
        return {"folder": Folder, "bids": Bids}[kind](folder / str(plain["path"]))
    if kind == "dicomweb":
        login = Login(*(_secret(plain, name) for name in ("user", "password", "token")))
        return Dicomweb(str(plain["url"]), login, folder / str(plain["ca"]) if "ca" in plain else None)
    return _node(plain, folder)


def _node(plain: Mapping[str, Any], folder: Path) -> Dimse:
    tls = None
    if "tls" in plain:
        if not isinstance(plain["tls"], dict):
            raise ValueError("tls is no list of files. Write tls: {ca: FILE, certificate: FILE, key: FILE}")
        _check_keys(plain["tls"], ("ca", "certificate", "key"), ())
        tls = Certificates(*(folder / str(plain["tls"][name]) for name in ("ca", "certificate", "key")))
    titles = [str(plain["called_ae"]), str(plain.get("calling_ae", "FABRICA"))]
    if wrong := [t for t in titles if not 0 < len(t.strip()) <= 16]:
        raise ValueError(f"{wrong[0]!r} is no name of a node: 1 to 16 letters.")
    retrieve, commitment = plain.get("retrieve", "get"), plain.get("commitment", False)
    if retrieve not in ("get", "move"):
        raise ValueError(f"retrieve is {retrieve!r}. Write get or move.")
    if not isinstance(commitment, bool):
        raise ValueError(f"commitment is {commitment!r}. Write true or false.")
    listen = _port("listen", plain["listen"]) if "listen" in plain else 0
    manners = Manners(titles[1], tls, commitment, retrieve, listen, str(plain.get("address", "127.0.0.1")))
    return Dimse(titles[0], str(plain["host"]), _port("port", plain["port"]), manners)


def _port(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 65536:
        raise ValueError(f"{name} is {value!r}, expected a number from 1 to 65535.")
    return value


def _check_keys(plain: Mapping[str, Any], must: tuple[str, ...], may: tuple[str, ...]) -> None:
    if missing := [name for name in must if name not in plain]:
        more = f"; may be: {', '.join(may)}" if may else ""
        raise ValueError(f"{missing[0]} is missing. Write {', '.join(must)}{more}")
    if empty := [name for name in plain if plain[name] is None]:
        raise ValueError(f"{empty[0]} says nothing.")
    if strange := sorted(set(map(str, plain)) - {*must, *may}):
        raise ValueError(f"{strange[0]} is not known here. Known: {', '.join((*must, *may))}")


def _secret(plain: Mapping[str, Any], name: str) -> str:
    """What an environment variable holds; a secret that stands in the file is refused."""
    if name not in plain:
        return ""
    how, _, variable = str(plain[name]).partition(":")
    if how != "env" or not variable:
        raise ValueError(f"{name} stands in the file. Write {name}: env:NAME, and set NAME where it runs.")
    if variable not in os.environ:
        raise ValueError(f"{variable} is not set. Type: export {variable}=...")
    return os.environ[variable]

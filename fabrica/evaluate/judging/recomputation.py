"""A report made again from what it says of itself: the same inputs by their hashes, the same bytes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...io import UnreadableError
from ..honesty.claim import Claim
from ..report.page import versions
from ..sets.embedding import Embedding
from .folders import evaluate_folders
from .shelf import Asked, Folders

FILES = ("report.json", "cases.csv", "index.html")
TABLES = ("cases.parquet",)  # where the extra `tables` is installed


def recomputed(folder: Path, load: Callable[[Path], Mapping[str, Embedding]]) -> str:
    """`load` gives the user's own embedding that lies at a path. A sentence when every byte is the same; raises
    ValueError naming the input that changed, or the first difference.
    """
    folder = folder.resolve()  # reports name each other by paths that must not depend on where one stands
    file = folder / "report.json"
    try:
        plain = json.loads(file.read_text())
        asked = plain["recipe"]["evaluate"]
        paths = {k: (folder / v).resolve() for k, v in asked["folders"].items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} holds no report of folders: {type(error).__name__}. Make one: fabrica evaluate --generated"
            " DIR ..."
        ) from error
    for name, path in paths.items():
        if not path.exists():
            raise ValueError(
                f"The {name} images are no longer at {path}. Put them there, as the report remembers them."
            )
    if plain["versions"] != versions():
        old = ", ".join(f"{k} {v}" for k, v in plain["versions"].items() if versions().get(k) != v)
        raise ValueError(f"The report was made with {old}, which is not installed here. Install it, then try again.")
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".recompute-") as scratch:
        again = Path(scratch) / (Path(str(plain["run"])).name or "report")  # the folder may have another name by now
        _make(again, asked, paths, folder, plain["made"], load)
        found = json.loads((again / "report.json").read_text())
        _same_inputs(plain["inputs"], found["inputs"])
        files = [*FILES, *(name for name in TABLES if (folder / name).is_file() and (again / name).is_file())]
        for name in files:
            if (again / name).read_bytes() != (folder / name).read_bytes():
                raise ValueError(
                    f"{name} differs: the report in {folder} was changed, or this machine computes differently."
                )
    return f"The same bytes: {', '.join(files)} of {folder}, from {sum(map(len, plain['inputs'].values()))} files."


def _make(
    again: Path, asked: dict[str, Any], paths: dict[str, Path], folder: Path, made: str,
    load: Callable[[Path], Mapping[str, Embedding]],
) -> None:  # fmt: skip
    claim = Claim(**asked["claim"]) if asked["claim"] else None
    if claim is not None and (folder / "claim.json").is_file():
        again.mkdir()
        (again / "claim.json").write_bytes((folder / "claim.json").read_bytes())
    overrides = {int(k): v for k, v in asked["overrides"].items()}
    labels = (folder / asked["labels"]).resolve() if asked["labels"] else None
    networks = tuple((folder / p).resolve() for p in asked["networks"])
    own = {name: how for path in networks for name, how in load(path).items()}
    if list(own) != asked["embeddings"]:
        raise ValueError(
            f"The embeddings are {', '.join(own)}, the report used {', '.join(asked['embeddings'])}: a network has"
            " changed."
        )
    how = Asked(asked["data_range"], asked["seed"], claim, overrides, labels, asked["quick"], own, networks)
    try:
        evaluate_folders(Folders(**paths), again, how, _silent, made, seen_from=folder, known=asked.get("known", ""))
    except UnreadableError as error:
        raise ValueError(f"An input can no longer be read: {error}") from error


def _silent(text: str) -> None:
    """What the first report has said already."""


def _same_inputs(before: dict[str, dict[str, str]], now: dict[str, dict[str, str]]) -> None:
    for side, files in before.items():
        for name in sorted({*files, *now.get(side, {})}):
            if files.get(name) != now.get(side, {}).get(name):
                how = "is gone" if name not in now.get(side, {}) else "is new" if name not in files else "has changed"
                raise ValueError(f"{name} of the {side} images {how} since the report was made.")

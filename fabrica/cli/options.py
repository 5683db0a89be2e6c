"""Options that verbs share, and what their words stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .terminal import fail

Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="[NAME=]DIR", help="Folder of scans for the recipe's cohort (or the named one)."),
]
Value = Annotated[
    list[str] | None,
    typer.Option("--value", metavar="NAME=VALUE", help="A class, a covariate or words for all of them."),
]
Unit = Annotated[
    list[str] | None,
    typer.Option("--unit", metavar="CONTRAST=UNIT", help="What a file leaves open: --unit PET=SUV."),
]
Device = Annotated[str, typer.Option(help="auto (a CUDA card where there is one), cpu or cuda.")]
Workers = Annotated[int, typer.Option(min=1, help="Processes of this machine, where no scheduler is named.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="local, or dask: cases are done by worker processes.")]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Of a running Dask scheduler: tcp://127.0.0.1:8786; or a cluster.yaml."),
]


def fixed(value: list[str] | None, example: str = "--value class=1") -> dict[str, str]:
    """--value NAME=VALUE, or --unit CONTRAST=UNIT, as often as given."""
    pairs = [text.partition("=") for text in value or []]
    if wrong := next((text for text, (_, equals, _) in zip(value or [], pairs, strict=True) if not equals), None):
        fail(f"{wrong!r} gives no value. Write: {example}")
    return {name: given for name, _, given in pairs}


def claim_in(path: Path) -> Any:
    """A claim from its file."""
    import yaml

    from ..evaluate.honesty.claim import Claim
    from ..recipe.text import parse

    try:
        return Claim.of(parse(path.read_text())[0])
    except yaml.YAMLError as error:
        fail(f"{path} is not YAML: {str(error).splitlines()[0]}. Write one key a line: endpoint: ssim")


def embedding_in(path: Path) -> Any:
    """A user's own embedding: of an ONNX file, of a run, or of a published encoder's folder."""
    if path.is_dir():
        from ..evaluate.sets.published import from_folder, is_published

        if is_published(path):
            return from_folder(path)
        from ..run.answering import embedding_of

        return embedding_of(path)
    import importlib.util

    if importlib.util.find_spec("onnxruntime") is None:
        raise ValueError('ONNX networks need the extra: pip install -c constraints.txt -e ".[onnx]"')
    from ..evaluate.sets.network import from_onnx

    return from_onnx(path)

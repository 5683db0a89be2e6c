"""Trainings of a comparison as tasks: each writes a run of its own, wherever it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..machine.device import threads
from ..machine.executors import Executor, SetAside
from ..recipe.checks import from_plain
from ..recipe.values import Recipe
from ..run.sequence import run_recipe

TRAIN = f"{__name__}:train_arm"  # what an executor calls


def train_apart(waiting: Sequence[tuple[Recipe, Path]], executor: Executor, say: Callable[[str], None]) -> None:
    """Every recipe into its folder, by whoever does tasks. Raises ValueError where no worker could."""
    tasks = [
        {"recipe": recipe.plain(), "folder": str(folder.resolve()), "threads": torch.get_num_threads()}
        for recipe, folder in waiting
    ]
    for number, made in executor.results(TRAIN, tasks):
        folder = waiting[number][1]
        if isinstance(made, SetAside):
            raise ValueError(f"{folder} cannot be trained: {made.reason}.")
        say(f"{folder.parent.name}, {folder.name} is trained.")


def train_arm(task: Mapping[str, Any]) -> str:
    """One training of one arm, where it is done; returns its folder."""
    with threads(task["threads"]):
        run_recipe(from_plain(task["recipe"]), Path(task["folder"]), say=_quiet)
    return str(task["folder"])


def _quiet(text: str) -> None:
    """A worker has no terminal."""

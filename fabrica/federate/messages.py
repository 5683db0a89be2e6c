"""What travels: a question with weights, and an answer with weights; each proven by the federation's secret."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..deliver.files import write_whole
from ..recipe.values import Recipe

OWN = ("cohorts", "split", "evaluate")  # parts of a recipe in which sites may differ


@dataclass(frozen=True)
class Message:
    """Plain data and weights; `proof` is the HMAC of both."""

    plain: Mapping[str, Any]
    weights: Mapping[str, Tensor]

    def write(self, path: Path, secret: bytes) -> None:
        """path.bin, then path.json, which says that both are whole."""
        content = save({name: t.contiguous() for name, t in self.weights.items()})
        plain = {**self.plain, "proof": _proof(secret, self.plain, content)}
        write_whole(path.with_suffix(".bin"), content)
        write_whole(path.with_suffix(".json"), json.dumps(plain).encode())

    @staticmethod
    def read(path: Path, secret: bytes) -> Message:
        """Raises ValueError for a message that somebody without the secret has made, or that is none."""
        try:
            content = path.with_suffix(".bin").read_bytes()
            plain = json.loads(path.with_suffix(".json").read_text())
            given = str(plain.pop("proof"))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"a message is damaged ({error})") from error
        if not hmac.compare_digest(given, _proof(secret, plain, content)):
            raise ValueError("a message was not made with the secret of this federation")
        try:
            return Message(plain, load(content))
        except SafetensorError as error:
            raise ValueError(f"the weights of a message cannot be read ({error})") from error


def _proof(secret: bytes, plain: Mapping[str, Any], content: bytes) -> str:
    words = json.dumps(dict(plain), sort_keys=True).encode() + hashlib.sha256(content).digest()
    return hmac.new(secret, words, hashlib.sha256).hexdigest()


def recipe_hash(recipe: Recipe) -> str:
    """sha256 of what all sites must agree on: everything but whose images, how they are split and what is judged."""
    shared = {k: v for k, v in recipe.plain().items() if k not in OWN}
    return hashlib.sha256(json.dumps(shared, sort_keys=True, default=str).encode()).hexdigest()

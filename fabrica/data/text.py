"""Text as numbers without a learned model: words and pairs of words, hashed into a vector (Weinberger et al. 2009)."""

from __future__ import annotations

import hashlib
import itertools
import re

import torch
from torch import Tensor


def hashed(text: str, width: int) -> Tensor:
    """(width,) whose squares have mean 1, zero for a text without words; the same on every machine. Case and
    punctuation do not count.
    """
    words = re.findall(r"\w+", text.lower())
    vector = torch.zeros(width)
    for term in (*words, *(" ".join(pair) for pair in itertools.pairwise(words))):
        number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "little")
        vector[(number >> 1) % width] += 1.0 if number & 1 else -1.0
    size = vector.norm()
    return vector * (width**0.5 / size) if size > 0 else vector

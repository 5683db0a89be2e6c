"""Texts of a batch as subwords: the case's own, or written from a mask of the same slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .findings import described
from .subwords import Subwords


def worded(
    rows: Sequence[Mapping[str, float | str]],
    words: Mapping[str, Subwords],
    images: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    affine: Tensor,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """({text: (B, length) subwords}, {text: bool (B,) whether it is known}).

    A text that is written from a label map describes each row's own slice, flipped or turned as it is shown; of rows
    without that map, the case's own text counts.
    """
    values: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for name, how in words.items():
        texts = [str(row[name]) if isinstance(row.get(name), str) else "" for row in rows]
        mask = images.get(how.written_from)
        if mask is not None:
            there = present[how.written_from].tolist()
            planes = (mask[:, 0] > 0.5).numpy()
            for k, is_there in enumerate(there):
                if is_there:
                    texts[k] = described(planes[k], affine[k].numpy())
        values[name] = how.words(texts)
        known[name] = torch.tensor([bool(text.strip()) for text in texts])
    return values, known


def texts_of(
    masks: Iterable[tuple[NDArray[np.float32], Sequence[int], NDArray[np.float64]]],
    values: Iterable[Mapping[str, float | str]],
    name: str,
) -> list[str]:
    """What training says: of each slice of (mask (z, y, x), its useful slices, affine), and of the cases themselves."""
    own = [str(one[name]) for one in values if isinstance(one.get(name), str)]
    return [described(mask[z] > 0.5, affine) for mask, useful, affine in masks for z in useful] or own

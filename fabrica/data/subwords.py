"""Texts as subwords (byte-pair encoding; Sennrich et al. 2016), learned from a cohort's own texts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

PADDING, UNKNOWN = "[PAD]", "[UNK]"  # words 0 and 1
EXTRA = 'Install it: pip install -c constraints.txt -e ".[foundation]"'
MOST_UNKNOWN = 0.2  # of the words of a text: of more it says nothing to a model


@dataclass(frozen=True)
class Subwords:
    """A tokenizer (the JSON of the `tokenizers` library), how many words a text has at most, and what writes it."""

    learned: str
    length: int
    written_from: str = ""  # a label map of the batch that the text is written from; none = the case's own text

    def words(self, texts: Sequence[str]) -> Tensor:
        """(B, length) numbers of subwords, 0 where a text has ended; longer texts lose their end."""
        tokenizer = _opened(self.learned)
        found = torch.zeros(len(texts), self.length, dtype=torch.long)
        for row, one in enumerate(tokenizer.encode_batch([t.strip() for t in texts])):
            ids = one.ids[: self.length]
            found[row, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return found

    def text(self, words: Tensor) -> str:
        """Of (length,) numbers, up to the first 0."""
        ids = words.tolist()
        return str(_opened(self.learned).decode(ids[: ids.index(0)] if 0 in ids else ids))

    def fault(self, text: str) -> str:
        """Why a text cannot be understood; '' where it can."""
        if not text.strip():
            return ""
        one = _opened(self.learned).encode(text.strip())
        odd = [p for p in map(_bare, one.tokens) if p == UNKNOWN or (len(p) == 1 and p.isalpha())]
        if len(odd) > MOST_UNKNOWN * len(one.ids):
            share = len(odd) / len(one.ids)
            return f"{share:.0%} of its subwords are single letters or unknown: training saw no such words"
        if len(one.ids) > self.length:
            return f"it has {len(one.ids)} subwords, and the model reads {self.length}"
        return ""


def learned_from(texts: Iterable[str], most: int) -> str:
    """The JSON of a tokenizer of at most `most` subwords. Raises ValueError without texts or without the library."""
    library = _library()
    known = sorted({text.strip().lower() for text in texts} - {""})
    if not known:
        raise ValueError("No training case has a text to learn words from. Add a column of texts, or take text out.")
    tokenizer = library.Tokenizer(library.models.BPE(unk_token=UNKNOWN))  # its training depends on no hash table
    tokenizer.normalizer = library.normalizers.Lowercase()
    space, marks = library.pre_tokenizers.Metaspace(), library.pre_tokenizers.Punctuation("isolated")
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([space, marks])
    tokenizer.decoder = library.decoders.Metaspace()
    trainer = library.trainers.BpeTrainer(vocab_size=most, special_tokens=[PADDING, UNKNOWN], show_progress=False)
    tokenizer.train_from_iterator(known, trainer)
    if (size := tokenizer.get_vocab_size()) > most:
        raise ValueError(f"These texts need a vocabulary of {size}, the recipe gives {most}. Write: words: {size}")
    return json.dumps(json.loads(tokenizer.to_str()), sort_keys=True)


def _bare(piece: str) -> str:
    """Without the mark of a word's beginning."""
    return piece.removeprefix("\u2581")


@lru_cache(maxsize=8)
def _opened(learned: str) -> Any:
    return _library().Tokenizer.from_str(learned)


def _library() -> Any:
    try:
        import tokenizers
        from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError as error:
        raise ValueError(f"tokenizers, which texts need, is not installed. {EXTRA}") from error
    assert all((decoders, models, normalizers, pre_tokenizers, trainers))
    return tokenizers

"""Many texts to token ids, word by word: a word that came before is looked up, only new ones go through byte-pair encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import tokenizers

MOST_WORDS = 1 << 18
"""Words that are kept; the table begins anew when it is full."""
LONGEST = 64
"""Most letters of a word that is kept: what is longer hardly comes again, and scripts without spaces have whole sentences for words."""


class WordEncoder:
    """Encodes many texts.

    Args:
        backend: The tokenizer.
        description: Its `tokenizer.json`; where words cannot be encoded one by one, it encodes whole texts.
    """

    def __init__(self, backend: tokenizers.Tokenizer, description: Mapping[str, Any]) -> None:
        self._backend, self._by_word = backend, is_by_word(description)
        self._known: dict[str, list[int]] = {}

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, the same as the tokenizer gives; none for an empty one."""
        # Words are cut at single spaces: other white space has tokens of its own.
        words = [text.split(" ") if self._by_word and text == " ".join(text.split()) else None for text in texts]
        fresh = self._learn(set(chain.from_iterable(each for each in words if each)))
        others = [text for text, each in zip(texts, words, strict=True) if each is None]
        whole = iter(self._backend.encode_batch_fast(others, add_special_tokens=False))
        found = [next(whole).ids if each is None else list(chain.from_iterable(map(self._known.__getitem__, each))) for each in words]
        for word in fresh:
            if len(word) > LONGEST:
                del self._known[word]
        return [ids if text else [] for text, ids in zip(texts, found, strict=True)]

    def _learn(self, words: set[str]) -> list[str]:
        """Encodes the words that are new, and returns them."""
        if len(self._known) + len(words) > MOST_WORDS:
            self._known = {}
        fresh = sorted(words - self._known.keys())
        encodings = self._backend.encode_batch_fast(fresh, add_special_tokens=False)
        self._known.update((word, each.ids) for word, each in zip(fresh, encodings, strict=True))
        return fresh


def is_by_word(description: Mapping[str, Any]) -> bool:
    """Whether the ids of a text are those of its words, parted by single spaces: as byte-level BPE with a space before the first word.

    Args:
        description: `tokenizer.json`.
    """
    before = description.get("pre_tokenizer") or {}
    whole = before.get("type") == "ByteLevel" and before.get("add_prefix_space") and before.get("use_regex")
    alone = not description.get("normalizer") and not description.get("truncation") and not description.get("padding")
    model = description.get("model") or {}
    exact = model.get("type") == "BPE" and not model.get("dropout")
    return bool(whole and alone and exact and all(each.get("special") for each in description.get("added_tokens") or ()))

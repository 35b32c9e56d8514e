"""Tokenizer: ByteLevel BPE trained on the run's own text, saved with every checkpoint together with its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from rxrl.caching import cached_by_size
from rxrl.data.words import WordEncoder
from rxrl.errors import CheckpointError, ConfigError, DataError
from rxrl.reading import OBJECT, Refusal, guarded, parse_json, read_json, read_text
from rxrl.template import TEMPLATE_TOKENS
from rxrl.types import SPECIAL_TOKENS
from rxrl.writing import write_text

TOKENIZER_FILE = "tokenizer.json"
HASH_FILE = "tokenizer.sha256"
_CACHE = 1 << 22
"""Characters of the texts whose ids are kept."""
MOST_IDS = 1 << 22
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256


class Tokenizer:
    """Text to ids and back (implements `rxrl.types.TextCodec`).

    Every text is read as if a space stood before it, so that a word has the same ids at the start and inside of a sentence.
    Text never turns into special tokens: a user's `[EOS]` is encoded as the five characters it is.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wraps a `tokenizers.Tokenizer` whose first ids are `rxrl.types.SPECIAL_TOKENS`.

        Raises:
            CheckpointError: The special tokens do not have the ids 0 to 6, or those of the template not the ids behind them.
        """
        found = [backend.token_to_id(token) for token in SPECIAL_TOKENS]
        if found != list(range(len(SPECIAL_TOKENS))):
            raise CheckpointError(f"A tokenizer needs the special tokens {', '.join(SPECIAL_TOKENS)} as ids 0 to 6, but they are {found}.")
        self.template = _has_template(backend)
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._hash = hashlib.sha256(_canonical_json(backend).encode()).hexdigest()
        self._begin_caches()

    def _begin_caches(self) -> None:
        # Short sentences recur thousands of times in training; the caches belong to this tokenizer alone.
        self._cached = cached_by_size(_CACHE)(self._encode)
        self._words = WordEncoder(self._backend, parse_json(self._backend.to_str(), "the tokenizer", OBJECT))

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, *, template: bool = False) -> Tokenizer:
        """Trains a tokenizer; the same texts in the same order give the same tokenizer.

        Args:
            texts: Training texts; text that is too varied for `vocab_size` falls apart into smaller pieces, never into unknowns.
            vocab_size: Largest number of tokens, special tokens and the 256 bytes included; small texts may give fewer.
            template: Add the markers of the interaction template, `rxrl.template`.

        Raises:
            ConfigError: `vocab_size` does not hold the special tokens and all bytes.
        """
        special = [*SPECIAL_TOKENS, *(TEMPLATE_TOKENS if template else ())]
        if vocab_size < (smallest := len(special) + 256):
            raise ConfigError(
                f"vocab_size must be at least {smallest} (special tokens and bytes), but is {vocab_size}: choose a larger one."
            )
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        return cls(backend)

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Loads what `save` wrote (or any folder with a fitting `tokenizer.json`, or that file itself).

        Raises:
            CheckpointError: The file is missing or unreadable, or it is not the one whose hash was saved.
        """
        path = Path(directory) if Path(directory).is_file() else Path(directory) / TOKENIZER_FILE
        if not path.is_file():
            raise CheckpointError(f"No {TOKENIZER_FILE} in {directory}: give the folder of a checkpoint or of a trained tokenizer.")
        refusal = Refusal(CheckpointError, "save it again with the checkpoint")
        content = read_json(path, OBJECT, refusal)
        with guarded(path, "a tokenizer", refusal):
            _check_ids(content)
            backend = tokenizers.Tokenizer.from_str(json.dumps(content))
        loaded = cls(backend)
        hash_path = path.with_name(HASH_FILE)
        if hash_path.is_file() and (expected := read_text(hash_path, refusal).strip()) != loaded.hash:
            raise CheckpointError(
                f"{path} has the hash {loaded.hash[:12]}, but {expected[:12]} was saved with it: restore the original file."
            )
        return loaded

    def save(self, directory: str | Path) -> None:
        """Writes `tokenizer.json` and its hash into `directory` (made if missing)."""
        folder = Path(directory)
        write_text(folder / TOKENIZER_FILE, _canonical_json(self._backend))
        write_text(folder / HASH_FILE, self.hash + "\n")

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, never special ones."""
        return list(self._cached(text)) if text else []

    def _encode(self, text: str) -> tuple[int, ...]:
        return tuple(self._backend.encode(_checked(text), add_special_tokens=False).ids)

    def __getstate__(self) -> dict[str, object]:
        """The caches stay behind in copies and pickles."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_cached", "_words")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._begin_caches()

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text: the same as `encode` one by one, but faster."""
        return self._words.encode_batch([_checked(text) for text in texts])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out, without the space that `encode` put in front."""
        return self._backend.decode(list(ids), skip_special_tokens=True).removeprefix(" ")

    @property
    def model_settings(self) -> dict[str, Any]:
        """What the configuration of a model for this tokenizer says of it."""
        return {"vocab_size": self.vocab_size, "template": self.template}

    @property
    def vocab_size(self) -> int:
        """Number of tokens, special ones included."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON: equal hashes mean equal tokenizers."""
        return self._hash


def _has_template(backend: tokenizers.Tokenizer) -> bool:
    """Whether it has the markers of the template, all of them behind the special tokens."""
    added = {token.content: number for number, token in backend.get_added_tokens_decoder().items() if token.special}
    found = [added.get(token) for token in TEMPLATE_TOKENS]
    if not any(each is not None for each in found):
        return False
    first = len(SPECIAL_TOKENS)
    if found != list(range(first, first + len(TEMPLATE_TOKENS))):
        markers = ", ".join(TEMPLATE_TOKENS)
        raise CheckpointError(
            f"A tokenizer has the markers {markers} as ids {first} to {first + 3}, or none of them, but they are {found}."
        )
    return True


def _check_ids(content: Mapping[str, Any]) -> None:
    """The library makes a table that is as long as the largest id."""
    vocabulary = (content.get("model") or {}).get("vocab")
    ids = [each for each in (vocabulary.values() if isinstance(vocabulary, Mapping) else ()) if isinstance(each, int)]
    if max(ids, default=0) > MOST_IDS:
        raise ValueError(f"it has a token of the id {max(ids)}, but ids go up to {MOST_IDS}")


def _canonical_json(backend: tokenizers.Tokenizer) -> str:
    return json.dumps(parse_json(backend.to_str(), "the tokenizer", OBJECT), sort_keys=True, ensure_ascii=False)


def _checked(text: str) -> str:
    """The text, if it is one: halves of characters (lone surrogates), which terminals and JSON let through, are none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"The text holds what is no Unicode character ({error.object[error.start : error.end]!r}): remove it.") from None
    return text

"""What a token store says of itself, and the files that it consists of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import DataError
from rxrl.reading import Refusal, mapped, read_json

MANIFEST = "store.json"
VERSION = 1
ASKS, FRAMED = 1, 2
"""Marks of an interaction: its query asks for something, or may; its ids have the markers of the interaction template among them."""
REFUSAL = Refusal(DataError, "write the store anew with `rxrl data tokenize`", expected="the description of a token store")
Kind = Literal["texts", "conversations"]


class Skipped(BaseModel):
    """What was left out of a source.

    Attributes:
        file: File or data set.
        row: Row, from 1; 0 where the file as a whole cannot be read.
        reason: Why.
    """

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.file}{f', row {self.row}' if self.row else ''}: {self.reason}"


class Manifest(BaseModel):
    """The description of a store.

    Attributes:
        version: Of the layout.
        kind: What it holds.
        source: Name of what it was made from.
        fingerprint: Tells the source, the tokenizer and the options of the tokenization from others, without a look into files.
        content: Hash of what the store says.
        tokenizer: Hash of the tokenizer.
        vocab_size: Tokens of the tokenizer.
        dtype: Of the token ids.
        tokens: Token ids in the store, without markers.
        items: Texts (documents, long ones in sections) or conversations.
        documents: Documents, whether long or not; conversations.
        interactions: Interactions of all conversations.
        row_bytes: Bytes of the rows of all conversations.
        longest: Most tokens of an item; of an interaction, with markers.
        lengths: Conversations by number of turns, by strategy that they name ("": none).
        skipped: The first rows and files that were left out.
        skipped_count: How many were left out.
    """

    model_config = ConfigDict(extra="forbid")
    version: Literal[1]
    kind: Kind
    source: str
    fingerprint: str
    content: str
    tokenizer: str
    vocab_size: int = Field(ge=1)
    dtype: Literal["uint16", "uint32"]
    tokens: int = Field(ge=0)
    items: int = Field(ge=1)
    documents: int = Field(ge=1)
    interactions: int = Field(0, ge=0)
    row_bytes: int = Field(0, ge=0)
    longest: int = Field(ge=0)
    lengths: dict[str, dict[str, int]] = Field(default_factory=dict)
    skipped: list[Skipped] = Field(default_factory=list)
    skipped_count: int = 0

    @property
    def left_out(self) -> str:
        """How much was left out, in words."""
        return f"{self.skipped_count} row{'' if self.skipped_count == 1 else 's'} or file{'' if self.skipped_count == 1 else 's'}"


def is_store(folder: str | Path) -> bool:
    """Whether a folder is a token store."""
    return (Path(folder) / MANIFEST).is_file()


class StoreFiles:
    """The files of a store.

    Args:
        folder: The store.
        kind: What it must hold.

    Raises:
        DataError: It is no store, is damaged, or holds something else.
    """

    def __init__(self, folder: str | Path, kind: Kind) -> None:
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        if self.manifest.kind != kind:
            raise DataError(f"{folder} is a store of {self.manifest.kind}, but {kind} are needed: tokenize a source that holds them.")

    def array(self, name: str, dtype: str, *shape: int) -> NDArray[Any]:
        """One of its arrays, mapped."""
        return mapped(self.folder / f"{name}.bin", dtype, shape, REFUSAL)

    def tokens(self) -> NDArray[Any]:
        """All token ids."""
        return self.array("tokens", self.manifest.dtype, self.manifest.tokens)

    def load_tokenizer(self) -> Tokenizer:
        """The tokenizer that the ids come from."""
        found = Tokenizer.load(self.folder)
        if found.hash != self.manifest.tokenizer:
            raise DataError(f"{self.folder} holds another tokenizer than its ids come from: {REFUSAL.advice}.")
        return found

    def check_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Refuses ids of another tokenizer.

        Raises:
            DataError: They are.
        """
        if tokenizer.hash != self.manifest.tokenizer:
            raise DataError(
                f"{self.folder} was tokenized with the tokenizer {self.manifest.tokenizer[:12]}, but the model has {tokenizer.hash[:12]}: "
                "tokenize the source with --tokenizer and the model's checkpoint."
            )

    def checked(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """Ids as int64.

        Raises:
            DataError: One is beyond the vocabulary.
        """
        if len(ids) and int(ids.max()) >= self.manifest.vocab_size:
            vocabulary = self.manifest.vocab_size
            raise DataError(f"{self.folder} holds a token {int(ids.max())}, but the vocabulary has {vocabulary}: {REFUSAL.advice}.")
        return ids.astype(np.int64)


def read_manifest(folder: Path) -> Manifest:
    """The description of a store.

    Raises:
        DataError: There is none, or it is not whole.
    """
    return read_json(folder / MANIFEST, Manifest, REFUSAL)


def token_type(tokenizer: Tokenizer) -> Literal["uint16", "uint32"]:
    """Smallest type that holds all ids."""
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"

"""Data at scale: tokenizing of texts and conversations, packed rows and episodes from token stores, padding, memory.

python -m tests.benchmarks data                                            the rows
python -m tests.benchmarks.data texts 200 /tmp/texts.txt                   200 MB of made-up documents
python -m tests.benchmarks.data conversations 200000 /tmp/talks.jsonl      made-up conversations
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rxrl.data.corpora import DOCUMENT_BORDER, open_corpus
from rxrl.data.stores import ConversationStore, Options, TextStore, build
from rxrl.data.tokenizer import Tokenizer
from tests.benchmarks.measure import Bench, Row

TOKENISING_BAR = 5.0
"""MB/s of text."""
PADDING_BAR = 0.05
"""Share of a batch of packed texts."""
VOCABULARY, LENGTH, ROWS = 7500, 256, 16
_WORDS = 20_000
_SYLLABLES = "ka lo mi ren tas ul be gor san ti ve du pal ok ne shi fa ru mo en".split()


class Words:
    """Made-up words, as frequent as words are (Zipf), the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draws = np.random.default_rng(seed)
        lengths = self._draws.integers(1, 5, _WORDS)
        self._words = np.array(["".join(self._draws.choice(_SYLLABLES, length)) for length in lengths])
        weights = 1 / (np.arange(_WORDS) + 5)
        self._sums = np.cumsum(weights / weights.sum())

    def text(self, count: int) -> str:
        """Sentences of some words."""
        found = self._words[np.minimum(np.searchsorted(self._sums, self._draws.random(count)), _WORDS - 1)].tolist()
        return " ".join(word if number % 11 else f"{word}." for number, word in enumerate(found, start=1))

    def below(self, most: int) -> int:
        """A number."""
        return int(self._draws.integers(most))


def documents(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of 20 to 600 words, `megabytes` in all."""
    words, rest = Words(seed), megabytes * 1e6
    while rest > 0:
        document = words.text(20 + words.below(580))
        rest -= len(document)
        yield document


def conversations(count: int, seed: int = 0) -> Iterator[bytes]:
    """Rows of conversations of 1 to 8 turns, each told a few facts."""
    words = Words(seed)
    for number in range(count):
        turns = [
            {"query": words.text(4 + words.below(16)), "answer": words.text(2 + words.below(10)), "asks": [f"it.{number % 7}"]}
            for _ in range(1 + words.below(8))
        ]
        told = {"facts": [{"key": f"it.{number % 7}", "value": words.text(1)}], "interactions": turns}
        yield (json.dumps({"id": str(number), "query": words.text(12), "answer": words.text(3), **told}) + "\n").encode()


def write(kind: str, size: float, path: Path) -> Path:
    """Writes made-up data: megabytes of texts, or a number of conversations."""
    with path.open("wb") as file:
        if kind == "texts":
            for document in documents(size):
                file.write(f"{document}\n{DOCUMENT_BORDER}\n".encode())
        else:
            file.writelines(conversations(int(size)))
    return path


def rows(bench: Bench, presets: Sequence[str]) -> Iterator[Row]:
    """Measures the data; it needs no preset."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = write("texts", 1 if bench.quick else 20, folder / "texts.txt")
        talks = write("conversations", 200 if bench.quick else 5000, folder / "talks.jsonl")
        codec = Tokenizer.train(list(documents(0.3 if bench.quick else 2)), VOCABULARY)
        yield from _tokenizing(bench, codec, {"texts": texts, "conversations": talks})
        yield from _reading(bench, TextStore(folder / "texts-0"), ConversationStore(folder / "conversations-0"))


def _tokenizing(bench: Bench, codec: Tokenizer, sources: dict[str, Path]) -> Iterator[Row]:
    for kind, source in sources.items():
        split, done = open_corpus(source).choose("train"), iter(range(1000))

        def work(kind: str = kind, source: Path = source, split=split, done=done) -> None:
            build(split, source.with_name(f"{kind}-{next(done)}"), codec, Options())

        bar = TOKENISING_BAR if kind == "texts" and not bench.quick else None
        yield bench.rate("-", f"tokenizing {kind}", work, source.stat().st_size / 1e6, "MB/s", bar)


def _reading(bench: Bench, texts: TextStore, talks: ConversationStore) -> Iterator[Row]:
    packed, source = texts.packed(LENGTH, 0, "train"), talks.source(0, "train")
    places = iter(range(0, 10**9, ROWS))
    yield bench.time("-", "opening a store of texts", lambda: TextStore(texts.files.folder).packed(LENGTH, 0, "train"))
    yield bench.time("-", f"a batch of {ROWS} packed rows of {LENGTH}", lambda: packed.batch(next(places), ROWS))
    yield bench.value("-", "padding of packed rows", packed.batch(0, min(packed.blocks, 512)).padding_share, "share", bar=PADDING_BAR)

    def episodes() -> object:
        return source.episodes(steps=1, strategy="multi-step", start=next(places), count=ROWS, max_length=LENGTH)

    yield bench.time("-", f"a batch of {ROWS} conversations", episodes)
    batches = [episodes() for _ in range(20)]
    padding = 1 - np.mean([float(each.turns.mask.float().mean()) for each in batches])  # type: ignore[attr-defined]
    yield bench.value("-", "padding of conversations", float(padding), "share")
    yield bench.peak("-", "an epoch of conversations", lambda: [episodes() for _ in range(len(source) // ROWS)])


if __name__ == "__main__":
    write(sys.argv[1], float(sys.argv[2]), Path(sys.argv[3]))

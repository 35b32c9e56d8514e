"""A toy language, a memory that is a book of what was written, and policies that read or ignore it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch

from rxrl.envs import ConversationVectorEnv
from rxrl.evaluation import TurnRecord
from rxrl.rewards import Retention
from rxrl.types import EOS, SPECIAL_TOKENS, Action, Conversation, Interaction, TokenBatch, Turn

VALUES = ("cat", "dog", "bird", "fish", "pony", "frog", "mouse", "goat")
KEYS = ("mia.pet", "tom.pet", "ida.pet")
UNKNOWN = "i do not know ."

Book = tuple[tuple[tuple[int, ...], ...], ...]


class WordCodec:
    """One id for each word."""

    def __init__(self) -> None:
        self.words: list[str] = list(SPECIAL_TOKENS)
        self.ids: dict[str, int] = {word: index for index, word in enumerate(self.words)}
        self.vocab_size = 1000

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self.ids:
                self.ids[word] = len(self.words)
                self.words.append(word)
        return [self.ids[word] for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[token] for token in ids if token >= len(SPECIAL_TOKENS))


class BookMemory:
    """Keeps every interaction; the value of a row is what was written into it, oldest first."""

    def init(self, seeds: Sequence[int]) -> Book:
        return tuple(((seed,),) for seed in seeds)

    def write(self, memory: Book, interactions: TokenBatch, rows: torch.Tensor) -> Book:
        written = zip(memory, interactions.rows(), rows.tolist(), strict=True)
        return tuple((*row, tuple(ids)) if write else row for row, ids, write in written)

    def reset_rows(self, memory: Book, rows: torch.Tensor, fresh: Book) -> Book:
        return tuple(new if reset else old for old, new, reset in zip(memory, fresh, rows.tolist(), strict=True))

    def select_rows(self, memory: Book, indices: Sequence[int]) -> Book:
        return tuple(memory[index] for index in indices)


def tell(key: str, value: str, reply: str = "ok .") -> Interaction:
    entity, attribute = key.split(".")
    return Interaction(f"the {attribute} of {entity} is {value} .", reply, facts=((key, value),), asks=(), kind="tell")


def ask(key: str, value: str | None) -> Interaction:
    entity, attribute = key.split(".")
    answer = UNKNOWN if value is None else f"it is {value} ."
    return Interaction(f"which {attribute} has {entity} ?", answer, asks=(key,), unknown=value is None, kind="ask")


def chat() -> Interaction:
    return Interaction("nice day .", "yes indeed .", asks=(), kind="chat")


def conversation(name: str, *, steps: int, seed: int) -> Conversation:
    """The first key is told first, another may follow; the rest asks, chats and overwrites."""
    rng = random.Random(seed)
    known = {KEYS[0]: rng.choice(VALUES)}
    first = tell(KEYS[0], known[KEYS[0]])
    follow_ups = []
    for _ in range(steps):
        move = rng.random()
        if move < 0.6:
            key = rng.choice(KEYS)
            follow_ups.append(ask(key, known.get(key)))
        elif move < 0.8:
            key = rng.choice(KEYS[:2])
            known[key] = rng.choice(VALUES)
            follow_ups.append(tell(key, known[key]))
        else:
            follow_ups.append(chat())
    return Conversation(name, first, tuple(follow_ups))


def conversations(count: int, *, steps: int = 16, seed: int = 0) -> list[Conversation]:
    return [conversation(f"c{index}", steps=steps, seed=1000 * seed + index) for index in range(count)]


class Reader:
    """Answers from the book: a perfect memory, where the book is the right one."""

    def __init__(self, codec: WordCodec) -> None:
        self.codec = codec
        self.rows_seen: list[int] = []

    def act(self, observation: TokenBatch, memory: Book, generators: Sequence[torch.Generator] | None) -> Action:
        prompts = observation.rows()
        assert len(prompts) == len(memory)
        self.rows_seen.append(len(prompts))
        draws = generators or [None] * len(prompts)
        texts = [self.answer(self.codec.decode(ids), row, draw) for ids, row, draw in zip(prompts, memory, draws, strict=True)]
        batch = TokenBatch.pad([[*self.codec.encode(text), EOS] for text in texts])
        return Action(batch.ids, batch.mask)

    def answer(self, query: str, row: tuple[tuple[int, ...], ...], draw: torch.Generator | None) -> str:
        if not query.startswith("which"):
            return "ok then ."
        _, attribute, _, entity, _ = query.split()
        needle = f"the {attribute} of {entity} is "
        found = [text.split(needle)[1].split()[0] for text in map(self.codec.decode, row[1:]) if needle in text]
        return f"it is {found[-1]} ." if found else UNKNOWN


class Forgetful(Reader):
    """Never looks at memory."""

    def answer(self, query: str, row: tuple[tuple[int, ...], ...], draw: torch.Generator | None) -> str:
        return f"it is {VALUES[0]} ."


class Guesser(Reader):
    """Draws its answers."""

    def answer(self, query: str, row: tuple[tuple[int, ...], ...], draw: torch.Generator | None) -> str:
        assert draw is not None
        return f"it is {VALUES[int(torch.randint(len(VALUES), (), generator=draw))]} ."


def environment(
    played: Sequence[Conversation], codec: WordCodec, num_envs: int, memory: Any = None, **options: Any
) -> ConversationVectorEnv:
    reward = options.pop("reward", Retention())
    return ConversationVectorEnv(played, memory=memory or BookMemory(), reward=reward, codec=codec, num_envs=num_envs, **options)


def record(
    name: str = "c0",
    turn: int = 1,
    retention: float | None = 1.0,
    *,
    distance: int | None = 1,
    steps: int = 16,
    reward: float | None = 8.0,
    **changes: Any,
) -> TurnRecord:
    asking = retention is not None
    values: dict[str, Any] = {
        "conversation_id": name, "index": turn, "steps": steps, "strategy": "multi-step", "query": "which pet has mia ?",
        "answer": "it is cat .", "reference": "it is cat .", "query_ids": (7, 8), "answer_ids": (9,), "reference_ids": (9,), "saved": (),
        "asking": asking, "expected": {"mia.pet": "cat"} if asking else {}, "distance": distance if asking else None,
        "kind": "ask",
    }  # fmt: skip
    own = {key: value for key, value in changes.items() if key in {"terms", "control"}}
    turn_changes = {key: value for key, value in changes.items() if key not in own}
    return TurnRecord(Turn(**values | turn_changes), retention=retention, reward=reward, **own)

"""A small world, a codec of bytes and a memory of numbers, to play with."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rxrl.rewards import Retention
from rxrl.types import Action, Conversation, Interaction, TokenBatch

FIRST_ID = 7
PETS = ("bird", "cat", "cow", "dog", "fish", "fox", "goat", "horse")
PEOPLE = ("Ann", "Bob", "Mia", "Tom")


class ByteCodec:
    """Every byte is a token."""

    vocab_size = FIRST_ID + 256

    def encode(self, text: str) -> list[int]:
        return [FIRST_ID + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i - FIRST_ID for i in ids if FIRST_ID <= i < self.vocab_size).decode(errors="replace")


CODEC = ByteCodec()


class NumberMemory:
    """A memory `[batch, 4]` in which every write and its order leave a trace; counts what it was asked to write."""

    def __init__(self) -> None:
        self.writes: list[list[bool]] = []

    def init(self, seeds: Sequence[int]) -> Tensor:
        return torch.stack([torch.rand(4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds])

    def write(self, memory: Tensor, interactions: TokenBatch, rows: Tensor) -> Tensor:
        self.writes.append(rows.tolist())
        places = torch.arange(1, interactions.ids.shape[1] + 1, dtype=torch.float64)
        trace = (interactions.ids * interactions.mask * places).sum(dim=1, keepdim=True)
        return torch.where(rows[:, None], (memory * 0.7 + torch.sin(trace * torch.arange(1, 5))), memory)

    def reset_rows(self, memory: Tensor, rows: Tensor, fresh: Tensor) -> Tensor:
        return torch.where(rows[:, None], fresh, memory)

    def select_rows(self, memory: Tensor, indices: Sequence[int]) -> Tensor:
        return memory[list(indices)]


def make_conversation(seed: int, steps: int, strategy: str | None = None) -> Conversation:
    """Turns that tell, overwrite, ask for one or two pets, ask for what was never told, or ask for nothing."""
    rng = random.Random(seed)
    told: dict[str, str] = {}

    def tell() -> Interaction:
        person, pet = rng.choice(PEOPLE[:3]), rng.choice(PETS)
        told[f"{person.lower()}.pet"] = pet
        return Interaction(f"{person} has a {pet}.", f"I see, a {pet}.", facts=((f"{person.lower()}.pet", pet),), asks=(), kind="tell")

    def ask() -> Interaction:
        keys = tuple(rng.sample(sorted(told), min(len(told), rng.choice((1, 1, 2)))))
        names = " and ".join(key.partition(".")[0].capitalize() for key in keys)
        answer = " ".join(f"{key.partition('.')[0].capitalize()} has a {told[key]}." for key in keys)
        return Interaction(f"What pet does {names} have?", answer, asks=keys, kind="ask")

    unknown = Interaction("What pet does Tom have?", "I do not know.", asks=("tom.pet",), unknown=True)
    idle = Interaction("Nice weather.", "Indeed.", asks=())
    plain = Interaction("Who was it?", "It was a " + rng.choice(PETS) + ".")
    first = tell()
    follow_ups = tuple(rng.choice((tell, ask, ask, lambda: unknown, lambda: idle, lambda: plain))() for _ in range(steps))
    extra: dict[str, Any] = {} if strategy is None else {"strategy": strategy}
    return Conversation(f"c{seed}-{steps}", first, follow_ups, extra)


def make_answer(conversation: Conversation, turn: int, seed: int = 0) -> str:
    """What a player who is sometimes wrong answers; depends on conversation, turn and seed alone."""
    rng = random.Random(f"{conversation.id}/{turn}/{seed}")
    return rng.choice((conversation.follow_ups[turn - 1].answer, f"A {rng.choice(PETS)}.", "I do not know.", ""))


def action(answers: Sequence[str]) -> Action:
    batch = TokenBatch.pad([CODEC.encode(answer) for answer in answers])
    return Action(batch.ids, batch.mask)


def common(**changes: Any) -> dict[str, Any]:
    """Arguments that both environments take."""
    return {"memory": NumberMemory(), "reward": Retention(), "codec": CODEC, "max_query_tokens": 64, "max_answer_tokens": 64, **changes}

"""Probes of a memory: what is still known of each fact, what the memory holds that is not said, and what breaks when a part is gone.

Each probe tells one fact an interaction and asks for all of them after every one, without writing the questions: so every age of every fact
is seen, and no question refreshes what it asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rxrl.data.world import Telling, generate_telling
from rxrl.evaluation.linear_probe import Labels, stored_facts
from rxrl.evaluation.metrics import bootstrap
from rxrl.evaluation.trace import Trace, trace
from rxrl.facts import attribute_of
from rxrl.lexicon import VALUES
from rxrl.models import ReactiveTransformer
from rxrl.policies.reactive import ModelPolicy
from rxrl.rewards.retention import held
from rxrl.types import TextCodec, TokenBatch, Turn, prompt_ids

ROWS = 256
"""Most questions that are answered at once."""
FITTED = 4
"""Conversations that the linear probe is fitted on, for each one that is asked."""
GROUPS = 32
"""Most groups of slots that are zeroed one after the other."""
ABLATED = 24
"""Most conversations that parts are zeroed in."""

Array = NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Questions:
    """Answers to the questions of tellings, from any memory.

    Attributes:
        model, codec: Who answers.
        tellings: Whose facts are asked for.
        max_answer_tokens: Longest answer.
    """

    model: ReactiveTransformer
    codec: TextCodec
    tellings: Sequence[Telling]
    max_answer_tokens: int

    def retention(self, memory: Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Retention of greedy answers.

        Args:
            memory: `[layers, batch, slots, dim]`, one row for each telling.
            pairs: (telling, fact) of each question.
        """
        policy = ModelPolicy(self.model, self.max_answer_tokens + 1)
        found: list[float] = []
        for start in range(0, len(pairs), ROWS):
            part = pairs[start : start + ROWS]
            queries = (self.tellings[row].questions[fact].query for row, fact in part)
            prompts = TokenBatch.pad([prompt_ids(self.codec.encode(query)) for query in queries])
            rows = torch.tensor([row for row, _ in part], device=memory.device)
            answers = policy.act(prompts, memory[:, rows], None)
            texts = map(self.codec.decode, TokenBatch(answers.ids, answers.mask).rows())
            found += [self._score(row, fact, text) for (row, fact), text in zip(part, texts, strict=True)]
        return found

    def _score(self, row: int, fact: int, answer: str) -> float:
        telling = self.tellings[row]
        question, [(key, value)] = telling.questions[fact], telling.conversation.interactions[fact].facts
        rivals = tuple(each for each in VALUES[attribute_of(key)] if each != value)
        turn = Turn(
            telling.conversation.id, fact + 1, len(telling.questions), "multi-step", question.query, answer, question.answer,
            (), (), (), (), asking=True, expected={key: value}, aliases=question.aliases, rivals={key: rivals}, distance=1,
        )  # fmt: skip
        return held(turn) or 0.0


def probe(
    model: ReactiveTransformer,
    codec: TextCodec,
    *,
    level: int = 0,
    facts: int = 10,
    conversations: int = 48,
    max_answer_tokens: int = 16,
    seed: int = 0,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Probes the memory of a model on the generated world.

    Args:
        model: The Reactive Transformer.
        codec: Its tokenizer.
        level: How facts are told and asked.
        facts: Facts of a conversation, one an interaction and one an attribute: 2 to 10.
        conversations: Conversations that are asked; at least 2.
        max_answer_tokens: Longest answer.
        seed: Keys conversations, stm0 and resampling.
        say: Is told each step in a sentence.

    Returns:
        `forgetting` (`[told][asked]`, None where the fact was not told yet), `by_age`, `capacity`, `by_kind`, `linear`, `ablation` and
        `pictures` (drift, gates, write and read attention), as the page shows them.
    """
    tellings = [generate_telling(level=level, facts=facts, split="test", seed=seed, index=index) for index in range(conversations)]
    fitted = [generate_telling(level=level, facts=facts, split="train", seed=seed, index=index) for index in range(FITTED * conversations)]
    say(f"Writing {len(tellings) + len(fitted)} conversations of {facts} facts.")
    seen, other = (trace(model, codec, [each.conversation for each in group], seed=seed) for group in (tellings, fitted))
    questions = Questions(model, codec, tellings, max_answer_tokens)
    say(f"Asking {facts * (facts + 1) // 2 * conversations} questions.")
    grid = _asked(questions, seen, model)
    ids = [each.conversation.id for each in tellings]
    say("Reading facts off the memory with a linear probe.")
    stored, chance = stored_facts((_labels(fitted), other.memories), (_labels(tellings), seen.memories))
    say("Zeroing layers and slots.")
    return {
        "facts": facts, "conversations": conversations, "level": level, "seed": seed, "slots": model.config.slots,
        "forgetting": _matrix(grid),
        "by_age": _by_age(grid, ids, seed),
        "capacity": _capacity(grid, ids, seed),
        "by_kind": _by_kind(grid, tellings, seed),
        "linear": _stored_and_said(grid, stored, chance, ids, seed),
        "ablation": _ablation(questions, seen, model, seed),
        "pictures": _pictures(seen),
    }  # fmt: skip


def _asked(questions: Questions, seen: Trace, model: ReactiveTransformer) -> Array:
    """Retention `[conversations, told, asked]`; NaN where the fact was not told yet."""
    rows, facts = len(questions.tellings), len(questions.tellings[0].questions)
    grid = np.full((rows, facts, facts), np.nan)
    for asked in range(facts):
        pairs = [(row, told) for told in range(asked + 1) for row in range(rows)]
        memory = seen.memories[asked + 1].to(model.device, model.dtype)
        grid[:, : asked + 1, asked] = np.reshape(questions.retention(memory, pairs), (asked + 1, rows)).T
    return grid


def _matrix(grid: Array) -> list[list[float | None]]:
    facts = grid.shape[1]
    return [[float(grid[:, told, asked].mean()) if asked >= told else None for asked in range(facts)] for told in range(facts)]


def _by_age(grid: Array, ids: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Retention by interactions since the fact was told; 1: asked right after."""
    facts = grid.shape[1]
    return [_row("age", age, _aged(grid, age), ids, seed) for age in range(1, facts + 1)]


def _capacity(grid: Array, ids: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """How many of the facts told so far are known, after each interaction."""
    return [_row("told", asked + 1, grid[:, : asked + 1, asked].sum(1)[None], ids, seed) for asked in range(grid.shape[1])]


def _by_kind(grid: Array, tellings: Sequence[Telling], seed: int) -> list[dict[str, Any]]:
    """Retention of each attribute, over all ages."""
    values: dict[str, tuple[list[float], list[str]]] = {}
    for row, telling in enumerate(tellings):
        for told, attribute in enumerate(_attributes(telling)):
            found, names = values.setdefault(attribute, ([], []))
            own = grid[row, told, told:]
            found += own.tolist()
            names += [telling.conversation.id] * len(own)
    rows = [{"kind": kind, **_interval(found, names, seed)} for kind, (found, names) in values.items()]
    return sorted(rows, key=lambda row: -row["mean"])


def _stored_and_said(grid: Array, stored: Array, chance: float, ids: Sequence[str], seed: int) -> dict[str, Any]:
    """What the linear probe finds in memory beside what the answers say, by age; both as shares of exactly right facts."""
    said, facts = (grid > 1 - 1e-9).astype(np.float64), grid.shape[1]
    rows = []
    for age in range(1, facts + 1):
        found = [_aged(each, age) for each in (stored, said)]
        parts = [{f"{name}_{key}": value for key, value in _interval(each.ravel(), [*ids] * len(each), seed).items()}
                 for name, each in zip(("stored", "said"), found, strict=True)]  # fmt: skip
        rows.append({"age": age, **parts[0], **parts[1], "stored_not_said": float((found[0] * (1 - found[1])).mean())})
    return {"chance": chance, "rows": rows}


def _ablation(questions: Questions, seen: Trace, model: ReactiveTransformer, seed: int) -> dict[str, Any]:
    """Retention of all facts at the end, with a layer or a group of slots read as zeros."""
    rows, facts = min(ABLATED, len(questions.tellings)), len(questions.tellings[0].questions)
    pairs = [(row, fact) for fact in range(facts) for row in range(rows)]
    memory = seen.memories[-1].to(model.device, model.dtype)
    groups = np.array_split(np.arange(memory.shape[2]), min(GROUPS, memory.shape[2]))
    changes: list[tuple[str, Any]] = [(f"layer {layer + 1}", (layer, slice(None), slice(None))) for layer in range(len(memory))]
    changes += [(_slots(group), (slice(None), slice(None), group.tolist())) for group in groups]
    ids = [questions.tellings[row].conversation.id for row, _ in pairs]
    whole = np.array(questions.retention(memory, pairs))
    found = []
    for name, place in changes:
        changed = memory.clone()
        changed[place] = 0
        lost = whole - np.array(questions.retention(changed, pairs))
        found.append({"zeroed": name, **_interval(lost, ids, seed)})
    return {"whole": float(whole.mean()), "layers": found[: len(memory)], "slots": found[len(memory) :], "conversations": rows}


def _pictures(seen: Trace) -> dict[str, Any]:
    """Means over conversations: by write and layer, and by layer and slot."""
    found = {}
    for name, each in (("drift", seen.drift), ("gates", seen.gates), ("read", seen.read_attention)):
        found[name] = {"by_turn": each.mean((2, 3)).tolist(), "by_slot": each.mean((0, 2)).tolist()}
    # How sharply a slot reads: 1 where it reads one token, 0 where it reads all tokens alike.
    sharpness = torch.stack([_sharpness(weights) for weights in seen.write_attention])
    found["write"] = {"by_turn": sharpness.mean((2, 3)).tolist(), "by_slot": sharpness.mean((0, 2)).tolist()}
    last = seen.write_attention[-1][:, 0]
    found["example"] = {"tokens": list(seen.tokens[-1][0]), "attention": last[..., : len(seen.tokens[-1][0])].tolist()}
    return found


def _sharpness(weights: Tensor) -> Tensor:
    """`[layers, batch, slots]` of `[layers, batch, slots, time]`."""
    entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
    most = (weights > 0).sum(-1).clamp(min=2).log()
    return (1 - entropy / most).clamp(0, 1)


def _labels(tellings: Sequence[Telling]) -> Labels:
    return [[(attribute_of(key), value) for each in telling.conversation.interactions for key, value in each.facts] for telling in tellings]


def _attributes(telling: Telling) -> list[str]:
    return [attribute_of(each.facts[0][0]) for each in telling.conversation.interactions]


def _aged(grid: Array, age: int) -> Array:
    """`[told, conversations]`: all facts of one age."""
    return np.stack([grid[:, told, told + age - 1] for told in range(grid.shape[1] - age + 1)])


def _slots(group: NDArray[np.int64]) -> str:
    return f"slot {group[0] + 1}" if len(group) == 1 else f"slots {group[0] + 1} to {group[-1] + 1}"


def _row(name: str, number: int, values: Array, ids: Sequence[str], seed: int) -> dict[str, Any]:
    return {name: number, **_interval(values.ravel(), [*ids] * len(values), seed)}


def _interval(values: Sequence[float] | Array, ids: Sequence[str], seed: int) -> dict[str, Any]:
    mean, low, high = bootstrap(values, ids, seed=seed)
    return {"mean": mean, "low": low, "high": high}

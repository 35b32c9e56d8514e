"""Where conversations come from: the protocol, and a source over conversations that are already there."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from rxrl.errors import DataError
from rxrl.seeding import derive_seed
from rxrl.template import heard
from rxrl.types import Conversation, Interaction, Scenario


class ConversationSource(Protocol):
    """An endless, index-addressable supply of conversations: the same arguments always give the same conversations."""

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Returns the conversations `start` to `start + count - 1`, each of exactly `steps` turns."""
        ...


class EpisodeSource(Protocol):
    """The same supply of scenarios, of which conversations are one kind: what a training plays."""

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> Sequence[Scenario]:
        """Returns the scenarios `start` to `start + count - 1`, each of at most `steps` turns."""
        ...


def said(scenario: Scenario) -> tuple[tuple[str, str], ...]:
    """Query and answer of every interaction that is fixed: what makes two conversations the same, whatever they are called."""
    if isinstance(scenario, Conversation):
        return tuple((heard(each), each.answer) for each in scenario.interactions)
    dialogue = scenario.begin(0)
    spoken = (dialogue.first, dialogue.say(()))
    return tuple((heard(each), each.answer) for each in spoken if each is not None)


def told_together(before: Interaction, after: Interaction) -> str:
    """Two interactions as one text, for pre-training."""
    return f"{heard(before)} {before.answer} {heard(after)} {after.answer}"


def fingerprint(source: EpisodeSource, *, steps: int = 1, strategy: str = "multi-step", count: int = 16) -> str:
    """What tells a source from others: a hash of its first conversations."""
    found = source.take(steps=steps, strategy=strategy, start=0, count=count)
    spoken = [[each.id, *said(each)] for each in found]
    return hashlib.sha256(json.dumps(spoken).encode()).hexdigest()[:16]


class RowsSource:
    """Cycles through given conversations, shuffled anew at each epoch.

    Conversations with at least `steps` follow-ups serve and are cut to `steps`; those that are long-range keep the last one, which returns
    to the first interaction, in place of the one that would be the last. Those that name a strategy (`extra["strategy"]`)
    serve that strategy; where none names the wanted one, all serve.
    """

    def __init__(self, conversations: Sequence[Conversation], seed: int) -> None:
        self._conversations = tuple(conversations)
        self._seed = seed
        self._long_enough: dict[tuple[int, str], list[Conversation]] = {}
        self._orders: dict[tuple[int, str], tuple[int, list[int]]] = {}

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        """Those of one epoch, whatever their length, in the order in which they were given."""
        return self._conversations

    def __len__(self) -> int:
        """Number of conversations of one epoch, whatever their length."""
        return len(self._conversations)

    def available(self, steps: int, strategy: str) -> int:
        """Number of conversations that are long enough for `steps` turns."""
        return len(self._eligible(steps, strategy))

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Returns `count` conversations of exactly `steps` turns from position `start` of the endless shuffled sequence.

        Raises:
            DataError: No conversation is long enough.
        """
        eligible = self._eligible(steps, strategy)
        if not eligible:
            longest = max((conversation.steps for conversation in self._conversations), default=0)
            raise DataError(
                f"Conversations of at least {steps} turns are needed, but the longest of {len(self._conversations)} has {longest}: "
                "use fewer steps or longer data."
            )
        chosen = []
        for position in range(start, start + count):
            epoch, offset = divmod(position, len(eligible))
            chosen.append(eligible[self._order(steps, strategy, epoch)[offset]])
        return [cut(conversation, steps, strategy) for conversation in chosen]

    def _eligible(self, steps: int, strategy: str) -> list[Conversation]:
        if (steps, strategy) not in self._long_enough:
            enough = [conversation for conversation in self._conversations if conversation.steps >= steps]
            named = [conversation for conversation in enough if conversation.extra.get("strategy") == strategy]
            self._long_enough[steps, strategy] = named or enough
        return self._long_enough[steps, strategy]

    def _order(self, steps: int, strategy: str, epoch: int) -> list[int]:
        """Order of an epoch; only the last one is remembered, since epochs are gone through in order."""
        remembered = self._orders.get((steps, strategy))
        if remembered is None or remembered[0] != epoch:
            order = list(range(len(self._eligible(steps, strategy))))
            random.Random(derive_seed(self._seed, "rows", steps, strategy, epoch)).shuffle(order)
            remembered = self._orders[steps, strategy] = (epoch, order)
        return remembered[1]


def cut(conversation: Conversation, steps: int, strategy: str) -> Conversation:
    """The first `steps` turns; one that is long-range keeps its return to the first interaction, unless what is left out matters to it."""
    if conversation.steps == steps:
        return conversation
    *kept, dropped = conversation.follow_ups[:steps]
    last, between = conversation.follow_ups[-1], (dropped, *conversation.follow_ups[steps:-1])
    returns = strategy == conversation.extra.get("strategy") == "long-range"
    if returns and not {key for each in between for key, _ in each.facts}.intersection(last.asks or ()):
        return replace(conversation, follow_ups=(*kept, last))
    return replace(conversation, follow_ups=(*kept, dropped))

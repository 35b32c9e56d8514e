"""Conversations from a token store: shuffled, bucketed by length and read as they are needed, however many there are."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rxrl.data.batches import EpisodeBatch, answer_positions, long_interaction, turns_first
from rxrl.data.rows import to_conversation
from rxrl.data.sources import cut, told_together
from rxrl.data.stores.manifest import ASKS, FRAMED, REFUSAL, StoreFiles
from rxrl.data.stores.parts import Part, Parting
from rxrl.data.stores.permutation import Permutation
from rxrl.data.stores.sums import HELD, RunningSums, Whole
from rxrl.errors import DataError
from rxrl.reading import json_value, let_go
from rxrl.types import ANSWER, BOS, EOS, QUERY, Conversation

WINDOW, BUCKET = 1024, 16
"""Conversations that are sorted by length together, and neighbours of these that stay together."""
LONG_RANGE = "long-range"


class ConversationStore:
    """The conversations that `rxrl data tokenize` wrote.

    Args:
        folder: The store.

    Raises:
        DataError: It is no store of conversations, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.files = StoreFiles(folder, "conversations")
        found, array = self.files.manifest, self.files.array
        self.manifest, self.ids = found, self.files.tokens()
        self.ends: NDArray[Any] = array("ends", "uint64", found.interactions, 2)
        self.asking: NDArray[Any] = array("asking", "uint8", found.interactions)
        self.interactions: NDArray[Any] = array("interactions", "uint64", found.items)
        self.rows: NDArray[Any] = array("rows", "uint8", found.row_bytes)
        self.row_ends: NDArray[Any] = array("row_ends", "uint64", found.items)
        self.keys: NDArray[Any] = array("keys", "uint64", found.items, 2)
        self.order: NDArray[Any] = array("order", "uint64", sum(sum(group.values()) for group in found.lengths.values()))

    def conversation(self, index: int) -> Conversation:
        """A conversation as its row tells it.

        Raises:
            DataError: The store is damaged.
        """
        start = int(self.row_ends[index - 1]) if index else 0
        try:
            return to_conversation(json_value(self.rows[start : int(self.row_ends[index])].tobytes(), halves=True), str(index))
        except ValueError as error:
            raise DataError(f"{self.files.folder} is damaged at conversation {index + 1} ({error}): {REFUSAL.advice}.") from None

    def turns(self, index: int) -> tuple[int, int]:
        """The first interaction of a conversation, and the one behind its last, among the interactions of all."""
        return int(self.interactions[index - 1]) if index else 0, int(self.interactions[index])

    def interaction(self, number: int) -> tuple[list[int], int]:
        """One of all interactions, `[BOS] [Q] query [A] answer [EOS]` or as the template has it, and on how many ids no loss is taken."""
        start = int(self.ends[number - 1, 1]) if number else 0
        middle, end = (int(each) for each in self.ends[number])
        ids = self.files.checked(self.ids[start:end]).tolist()
        if self.asking[number] & FRAMED:
            return [BOS, *ids, EOS], middle - start + 1 + (end > middle)
        return [BOS, QUERY, *ids[: middle - start], ANSWER, *ids[middle - start :], EOS], middle - start + 3

    def let_go(self) -> None:
        """Gives the memory of all arrays back to the system."""
        let_go(self.ids, self.ends, self.asking, self.interactions, self.rows, self.row_ends, self.keys, self.order)

    def source(self, seed: int, part: Part = "all", share: float = 0.05) -> StoredConversations:
        """The conversations of a part as a source.

        Args:
            seed: Key of the order, and of which conversations validate.
            part: `train` and `validation` share no conversation.
            share: Share of the conversations that validate, about.

        Raises:
            DataError: There are too few to part.
        """
        return StoredConversations(self, seed, part, share)


class StoredConversations:
    """One part of a store as a `rxrl.data.sources.ConversationSource`, shuffled anew at each epoch; see `ConversationStore.source`.

    It picks conversations and cuts them as `rxrl.data.sources.RowsSource` does. Neighbours in the sequence are about equally long.
    """

    def __init__(self, store: ConversationStore, seed: int, part: Part, share: float) -> None:
        self.store, self._seed, self._part = store, seed, part
        self._parting = None if part == "all" else Parting(store.keys[:, 0], seed, share, str(store.files.folder))
        self._groups = _groups(store.manifest.lengths)
        self._eligible = lru_cache(maxsize=64)(self._find_eligible)
        self._window = lru_cache(maxsize=4)(self._make_window)

    @property
    def fingerprint(self) -> str:
        """What tells these conversations and their order from others."""
        return f"{self.store.manifest.content}/{self._part}/{self._seed}"

    def __len__(self) -> int:
        """Number of conversations of one epoch, whatever their length."""
        return self._sums(self._all(1)).total

    def available(self, steps: int, strategy: str) -> int:
        """Number of conversations that are long enough for `steps` turns."""
        return self._eligible(steps, strategy)[1].total

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Returns `count` conversations of exactly `steps` turns from position `start` of the endless shuffled sequence.

        Raises:
            DataError: No conversation is long enough.
        """
        found = [cut(self.store.conversation(index), steps, strategy) for index in self._indices(steps, strategy, start, count)]
        self.store.let_go()
        return found

    def episodes(self, *, steps: int, strategy: str, start: int, count: int, max_length: int) -> EpisodeBatch:
        """The same conversations as token ids: what `rxrl.data.batches.episode_batch` makes of `take`, without any text.

        Args:
            steps: Turns of each conversation.
            strategy: As for `take`.
            start: First position.
            count: How many.
            max_length: Longest interaction in tokens, special tokens included.

        Raises:
            DataError: No conversation is long enough, or an interaction is longer than `max_length`.
        """
        chosen = [(index, self._turns(index, steps, strategy)) for index in self._indices(steps, strategy, start, count)]
        written: list[list[list[int]]] = [[] for _ in range(steps + 1)]
        prompts = torch.zeros(steps, count, dtype=torch.int64)
        for row, (index, numbers) in enumerate(chosen):
            for turn, number in enumerate(numbers):
                ids, prompt = self.store.interaction(number)
                if len(ids) > max_length:
                    raise long_interaction(self.store.conversation(index).id, turn, len(ids), max_length)
                written[turn].append(ids)
                if turn:
                    prompts[turn - 1, row] = prompt
        decoded = turns_first(written[1:])
        asking = torch.tensor([[bool(self.store.asking[numbers[turn]] & ASKS) for _, numbers in chosen] for turn in range(1, steps + 1)])
        real = torch.ones(steps, count, dtype=torch.bool)
        self.store.let_go()
        return EpisodeBatch(turns_first(written[:-1]), decoded, answer_positions(prompts, decoded.mask), real, asking)

    def texts(self, start: int, count: int) -> list[str]:
        """Texts for pre-training: of each of some conversations of the endless sequence, an interaction together with the one before it."""
        found = []
        for place in range(start, start + count):
            conversation = self.store.conversation(self._indices(1, "multi-step", place, 1)[0])
            # Every epoch tells another pair.
            turn = place // self.available(1, "multi-step") % conversation.steps
            found.append(told_together(*conversation.interactions[turn : turn + 2]))
        self.store.let_go()
        return found

    def _turns(self, index: int, steps: int, strategy: str) -> list[int]:
        """The interactions that `cut` keeps, numbered among those of all."""
        first, stop = self.store.turns(index)
        kept = list(range(first, first + steps + 1))
        if strategy == LONG_RANGE and stop - first > steps + 1:
            # Only what the row says decides whether its last turn may stand in for another.
            conversation = self.store.conversation(index)
            if cut(conversation, steps, strategy).follow_ups[-1] is conversation.follow_ups[-1]:
                kept[-1] = stop - 1
        return kept

    def _indices(self, steps: int, strategy: str, start: int, count: int) -> list[int]:
        total = self.available(steps, strategy)
        if not total:
            longest = max(int(turns) for group in self.store.manifest.lengths.values() for turns in group)
            raise DataError(
                f"Conversations of at least {steps} turns are needed, but the longest of {self.store.manifest.items} has {longest}: "
                "use fewer steps or longer data."
            )
        found = []
        for position in range(start, start + count):
            epoch, offset = divmod(position, total)
            window, place = divmod(offset, WINDOW)
            found.append(int(self._window(steps, strategy, epoch, window)[place]))
        return found

    def _make_window(self, steps: int, strategy: str, epoch: int, window: int) -> Whole:
        """The conversations of a stretch of an epoch, sorted by length in buckets, the buckets in a drawn order."""
        places, sums = self._eligible(steps, strategy)
        key = (self._seed, "conversations", steps, strategy, epoch)
        order = Permutation(sums.total, *key)
        positions = order(np.arange(window * WINDOW, min((window + 1) * WINDOW, sums.total)))
        indices = self.store.order[places(sums.items(positions))].astype(np.int64)
        lengths = self._tokens(indices, steps)
        ordered = indices[np.argsort(lengths, kind="stable")]
        whole = len(ordered) // BUCKET * BUCKET
        buckets = ordered[:whole].reshape(-1, BUCKET)
        if len(buckets):
            buckets = buckets[Permutation(len(buckets), *key, window)(np.arange(len(buckets)))]
        self.store.let_go()
        return np.concatenate([buckets.reshape(-1), ordered[whole:]])

    def _tokens(self, indices: Whole, steps: int) -> Whole:
        """Tokens of the first `steps` turns."""
        firsts = np.where(indices > 0, self.store.interactions[np.maximum(indices - 1, 0)], 0).astype(np.int64)
        starts = np.where(firsts > 0, self.store.ends[np.maximum(firsts - 1, 0), 1], 0).astype(np.int64)
        found: Whole = self.store.ends[firsts + steps, 1].astype(np.int64) - starts
        return found

    def _find_eligible(self, steps: int, strategy: str) -> tuple[_Places, RunningSums]:
        """The conversations that serve, as stretches of the store's order, and running sums over those of the part."""
        places = _Places([(start, _enough(lengths, steps)) for name, start, lengths in self._groups if name == strategy])
        sums = self._sums(places)
        if not sums.total:
            places = self._all(steps)
            sums = self._sums(places)
        return places, sums

    def _all(self, steps: int) -> _Places:
        return _Places([(start, _enough(lengths, steps)) for _, start, lengths in self._groups])

    def _sums(self, places: _Places) -> RunningSums:
        def kept(start: int, stop: int) -> Whole:
            if self._parting is None:
                return np.ones(stop - start, dtype=np.int64)
            indices = self.store.order[places(np.arange(start, stop))]
            if start % HELD == 0:
                let_go(self.store.order, self.store.keys)
            return self._parting.kept(self._part, indices).astype(np.int64)

        return RunningSums(places.total, kept)


class _Places:
    """Stretches of the store's order, laid end to end."""

    def __init__(self, stretches: list[tuple[int, int]]) -> None:
        self._starts = np.array([start for start, _ in stretches] or [0], dtype=np.int64)
        self._before = np.array([0, *accumulate(count for _, count in stretches)], dtype=np.int64)
        self.total = int(self._before[-1])

    def __call__(self, positions: Whole) -> Whole:
        """Where the positions of all stretches together lie in the order."""
        stretch = np.searchsorted(self._before, positions, side="right") - 1
        found: Whole = self._starts[stretch] + positions - self._before[stretch]
        return found


def _groups(lengths: dict[str, dict[str, int]]) -> list[tuple[str, int, dict[int, int]]]:
    """Strategy, begin in the order and conversations by number of turns of each group, in the order that they have there."""
    found, start = [], 0
    for name in sorted(lengths):
        group = {int(turns): count for turns, count in lengths[name].items()}
        found.append((name, start, group))
        start += sum(group.values())
    return found


def _enough(lengths: dict[int, int], steps: int) -> int:
    """Conversations of a group that have that many turns: they come first."""
    return sum(count for turns, count in lengths.items() if turns >= steps)

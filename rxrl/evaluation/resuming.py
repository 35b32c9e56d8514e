"""Progress of an evaluation, and the batches that are already played when it is started again."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rxrl.errors import PlayError
from rxrl.evaluation.records import TurnRecord, read_records, write_records
from rxrl.reading import Refusal, hash_of_text, read_json
from rxrl.types import Scenario
from rxrl.writing import json_text, replacing_folder, write_json

TRUE = "true"
"""Name of the condition with the true memory."""
BATCHES = "batches"
"""Folder of the batches of an unfinished evaluation, below its own."""
_DONE = "cost.json"
_REFUSAL = Refusal(advice="remove the folder of batches and evaluate again", expected="the cost of turns")


@dataclass(frozen=True, slots=True)
class TurnCost:
    """What one turn took, summed over conversations.

    Attributes:
        turn: Turn number.
        rows: Conversations.
        tokens: Tokens read: the prompt and the interaction written just before, or the whole history where memory is a transcript.
        seconds: Time of answering, scoring and writing.
        memory_bytes: Size of the memory that was read; None where that is not known.
    """

    turn: int
    rows: int
    tokens: int
    seconds: float
    memory_bytes: int | None = None


Played = tuple[str, list[TurnRecord], TurnCost | None]
"""A condition with its records of one turn and their cost, which is that of the true memory alone."""


@dataclass(slots=True)
class Batch:
    """What was played of some conversations: records by condition, and costs."""

    records: dict[str, list[TurnRecord]]
    costs: list[TurnCost] = field(default_factory=list)


class KeptBatches:
    """Batches on disk, so that an evaluation that was stopped goes on where it stood and ends with the same bytes.

    Args:
        folder: That of the evaluation; the batches lie in `batches` below it.
        identity: Plain values on which the answers depend. Batches of another identity are never used.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]) -> None:
        self.folder = Path(folder) / BATCHES
        self._identity = json_text(dict(identity))

    def find(self, key: Sequence[str]) -> Batch | None:
        """The batch of a key; None where it was not played."""
        place = self._place(key)
        if not (place / _DONE).is_file():
            return None
        found = read_json(place / _DONE, _Costs, _REFUSAL)
        records = {name: read_records(place / f"{name}.jsonl") for name in found.conditions}
        return Batch(records, [TurnCost(**each) for each in found.costs])

    def keep(self, key: Sequence[str], batch: Batch) -> None:
        """Writes a batch, whole or not at all."""
        costs = [asdict(each) for each in batch.costs]
        with replacing_folder(self._place(key)) as place:
            for name, records in batch.records.items():
                write_records(place / f"{name}.jsonl", records)
            write_json(place / _DONE, {"conditions": list(batch.records), "costs": costs})

    def clear(self) -> None:
        """Removes all batches, those of other identities too."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _place(self, key: Sequence[str]) -> Path:
        return self.folder / hash_of_text(json_text([self._identity, *key]))[:24]


@dataclass(slots=True)
class Watch:
    """Follows an evaluation: says how far it is, and keeps what was played.

    Attributes:
        progress: Called with the number of turns played and that of all turns.
        kept: Where batches are kept; None keeps nothing.
        total: Turns of all passes, with which an evaluation begins.
    """

    progress: Callable[[int, int], None] | None = None
    kept: KeptBatches | None = None
    total: int = 0
    _done: int = 0

    def batch(self, key: Sequence[str], conversations: Sequence[Scenario], played: Callable[[], Iterator[Played]]) -> Batch:
        """A batch that was kept, or one that is played now.

        Args:
            key: What tells it from the other batches of the evaluation.
            conversations: What is played.
            played: Yields a condition, its records of one turn, and their cost.
        """
        name = [*key, *(each.id for each in conversations)]
        end = self._done + sum(each.steps for each in conversations)
        found = self.kept.find(name) if self.kept is not None else None
        if found is None:
            found = Batch({})
            try:
                for condition, records, cost in played():
                    found.records.setdefault(condition, []).extend(records)
                    found.costs += [cost] if cost else []
                    self._tell(self._done + (cost.rows if cost else 0))
            except PlayError as error:
                error.turns = (*(record.turn for record in found.records.get(TRUE, ())), *error.turns)
                raise
            if self.kept is not None:
                self.kept.keep(name, found)
        # Dialogues may end early.
        self._tell(end)
        return found

    def _tell(self, done: int) -> None:
        self._done = done
        if self.progress is not None:
            self.progress(done, max(done, self.total))


@dataclass(frozen=True, slots=True)
class _Costs:
    """Form of the file that marks a batch as whole."""

    conditions: list[str]
    costs: list[dict[str, Any]]

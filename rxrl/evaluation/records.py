"""What is kept of every evaluated turn: enough to score it again with another reward, without a model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from rxrl.errors import DataError, RewardError, sentence
from rxrl.rewards.retention import held
from rxrl.scoring import score_turns
from rxrl.types import RewardFunction, SavedInteraction, Score, Turn
from rxrl.writing import json_text, write_text

EXACT = 1.0 - 1e-9
"""An F1 from here on counts as exactly right."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One evaluated turn.

    The fields up to `outcome` are those of `rxrl.types.Turn`.

    Attributes:
        turn: Turn number, 1 for the first follow-up.
        retention: F1 of the asked facts in the answer, in [0, 1]; None where the turn asks for nothing.
        reward: In [0, 10]; None where no reward applies (such a turn is left out of every mean).
        terms: Named parts of the reward, each in [0, 10] or None.
        control: The control that was on when the answer was given; None for the true memory.
    """

    conversation_id: str
    turn: int
    steps: int
    strategy: str
    query: str
    answer: str
    reference: str
    query_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    reference_ids: tuple[int, ...]
    saved: tuple[SavedInteraction, ...]
    asking: bool
    expected: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rivals: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: bool = False
    distance: int | None = None
    asks_known: bool = True
    kind: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[SavedInteraction, ...] = ()
    outcome: Score | None = None
    retention: float | None = None
    reward: float | None = None
    terms: Mapping[str, float | None] = field(default_factory=dict)
    control: str | None = None

    @property
    def exact(self) -> bool | None:
        """Every asked fact is held and nothing false is named; None where the turn asks for nothing."""
        return None if self.retention is None else self.retention >= EXACT

    @property
    def key(self) -> tuple[str, int]:
        """What makes two records the same turn: conversation and turn number."""
        return self.conversation_id, self.turn

    @classmethod
    def of(cls, turn: Turn, *, retention: float | None, score: Score, control: str | None = None) -> Self:
        """Builds the record of a scored turn."""
        shared = {name: getattr(turn, name) for name in _SHARED}
        return cls(
            turn=turn.index,
            retention=retention,
            reward=score.value,
            terms=dict(score.terms),
            control=control,
            **shared,
        )

    def to_turn(self) -> Turn:
        """The turn as a reward sees it."""
        return Turn(index=self.turn, **{name: getattr(self, name) for name in _SHARED})

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; `exact` is added for readers of the file."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in ("saved", "history"):
            row[name] = [asdict(interaction) for interaction in row[name]]
        row["outcome"] = None if self.outcome is None else {"value": self.outcome.value, "terms": dict(self.outcome.terms)}
        row["exact"] = self.exact
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Self:
        """Reads what `to_json` made (after a round through JSON text).

        Raises:
            DataError: A key is missing or not known.
        """
        values = {name: value for name, value in row.items() if name != "exact"}
        try:
            for name in ("saved", "history"):
                values[name] = tuple(_interaction(item) for item in values.get(name, ()))
            for name in ("query_ids", "answer_ids", "reference_ids"):
                values[name] = tuple(values[name])
            for name in ("aliases", "rivals"):
                values[name] = {key: tuple(items) for key, items in values.get(name, {}).items()}
            outcome = values.get("outcome")
            values["outcome"] = None if outcome is None else Score(outcome["value"], dict(outcome["terms"]))
            for name in ("retention", "reward"):
                values[name] = None if values.get(name) is None else float(values[name])
            return cls(**values)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"Expected a turn record with the keys of TurnRecord, got {sorted(row)}: {error}.") from error


_SHARED = tuple(item.name for item in fields(Turn) if item.name != "index")


def _interaction(row: Mapping[str, Any]) -> SavedInteraction:
    return SavedInteraction(row["query"], row["answer"], tuple(row["query_ids"]), tuple(row["answer_ids"]))


def asking_keys(records: Iterable[TurnRecord]) -> set[tuple[str, int]]:
    """The turns that ask for something."""
    return {record.key for record in records if record.retention is not None}


def write_records(path: str | Path, records: Iterable[TurnRecord]) -> Path:
    """Writes records as JSONL, one turn a line, atomically.

    A line holds only what its history adds to that of the line before it; `history_kept` says how many interactions both share, and
    `history_of` which turn that line is.
    """
    lines: list[str] = []
    before: TurnRecord | None = None
    for record in records:
        shared = () if before is None else before.history
        pairs = zip(record.history, shared, strict=False)
        kept = next((index for index, (new, old) in enumerate(pairs) if new != old), min(len(record.history), len(shared)))
        row = {**replace(record, history=record.history[kept:]).to_json(), "history_kept": kept}
        if before is not None and kept:
            row["history_of"] = before.key
        lines.append(json_text(row) + "\n")
        before = record
    return write_text(path, "".join(lines))


def read_records(path: str | Path) -> list[TurnRecord]:
    """Reads a JSONL transcript.

    Raises:
        DataError: The file is missing or a line is not a turn record; the message has file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Expected a transcript (JSONL) at {path}, found no such file: give a file written by an evaluation.")
    records: list[TurnRecord] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                records.append(_record(json.loads(line.decode("utf-8")), records[-1] if records else None))
            except (ValueError, DataError, AttributeError, TypeError) as error:
                raise DataError(f"{path}, line {number}: expected a turn record as JSON, got something else ({error}).") from error
    return records


def _record(row: dict[str, Any], before: TurnRecord | None) -> TurnRecord:
    """The record of a line; `before` is that of the line before it."""
    kept, source = row.pop("history_kept", 0), row.pop("history_of", None)
    record = TurnRecord.from_json(row)
    if not kept:
        return record
    if before is None or source not in (None, list(before.key)) or len(before.history) < kept:
        raise DataError("its history goes on from that of a line that does not stand before it: use the whole file")
    return replace(record, history=(*before.history[:kept], *record.history))


@contextmanager
def keeping_transcripts(path: str | Path) -> Iterator[None]:
    """Writes what was said so far to `path` where a reward fails inside; the error then says where.

    Raises:
        RewardError: The one that came, with the path in its message.
    """
    try:
        yield
    except RewardError as error:
        if not error.turns:
            raise
        records = [TurnRecord.of(turn, retention=held(turn), score=Score(None)) for turn in error.turns]
        written = write_records(path, records)
        kept = RewardError(
            f"{sentence(str(error))} The {len(records)} turns so far are in {written}: score them with `rxrl rescore {written}`."
        )
        kept.turns = error.turns
        raise kept from error


def rescore(records: Sequence[TurnRecord], reward: RewardFunction) -> list[TurnRecord]:
    """Scores recorded turns again, with another reward and without a model; retention stays as it was.

    Args:
        records: Turns of any conversations.
        reward: Any reward function.

    Returns:
        The same records with `reward` and `terms` replaced.

    Raises:
        RewardError: The reward failed or returned something that is not a score in [0, 10].
    """
    scores = score_turns(reward, [record.to_turn() for record in records])
    return [replace(record, reward=score.value, terms=dict(score.terms)) for record, score in zip(records, scores, strict=True)]

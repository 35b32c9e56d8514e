"""What is kept of every evaluated turn: enough to score it again with another reward, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field

from rxrl.errors import DataError, PlayError, sentence
from rxrl.reading import Refusal, open_lines, parse_json
from rxrl.rewards.retention import held
from rxrl.scoring import score_turns
from rxrl.types import RewardFunction, Score, Turn
from rxrl.writing import json_text, write_text

EXACT = 1.0 - 1e-9
"""An F1 from here on counts as exactly right."""


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """One evaluated turn.

    Attributes:
        turn: The turn as a reward sees it.
        retention: F1 of the asked facts in the answer, in [0, 1]; None where the turn asks for nothing.
        reward: In [0, 10]; None where no reward applies (such a turn is left out of every mean).
        terms: Named parts of the reward, each in [0, 10] or None.
        control: The control that was on when the answer was given; None for the true memory.
    """

    turn: Turn
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
        return self.turn.conversation_id, self.turn.index

    @classmethod
    def of(cls, turn: Turn, *, retention: float | None, score: Score, control: str | None = None) -> Self:
        """Builds the record of a scored turn."""
        return cls(turn, retention, score.value, dict(score.terms), control)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values, those of the turn beside the others; `exact` is added for readers of the file."""
        turn = {"turn" if item.name == "index" else item.name: getattr(self.turn, item.name) for item in fields(Turn)}
        for name in ("saved", "history"):
            turn[name] = [_without_empty_parts(asdict(interaction)) for interaction in turn[name]]
        turn = _without_empty_parts(turn)
        if (outcome := self.turn.outcome) is not None:
            turn["outcome"] = {"value": outcome.value, "terms": dict(outcome.terms)}
        own = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "turn"}
        return turn | own | {"exact": self.exact}


_OF_TEMPLATE = {"framed", "thought", "thought_ids", "reference_thought_ids"}


def _without_empty_parts(values: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what the interaction template alone fills, where it is empty."""
    return {name: value for name, value in values.items() if value or name not in _OF_TEMPLATE}


_REFUSAL = Refusal(advice="use a file that an evaluation wrote", expected="a turn record")


@dataclass(frozen=True, slots=True)
class TurnLine(Turn):
    """A record as it stands in a line of a transcript: the schema of the file. The number of the turn is called `turn` there.

    Attributes:
        retention, reward, terms, control: As in `TurnRecord`.
        exact: For readers of the file; made anew from `retention`.
        history_kept: How many interactions of its history are those of the line before it.
        history_of: Conversation and turn of that line.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    index: Annotated[int, Field(alias="turn")]
    retention: float | None = None
    reward: float | None = None
    terms: Mapping[str, float | None] = field(default_factory=dict)
    control: str | None = None
    exact: bool | None = None
    history_kept: Annotated[int, Field(ge=0)] = 0
    history_of: tuple[str, int] | None = None

    def record(self, before: TurnRecord | None) -> TurnRecord:
        """The record; `before` is that of the line before it.

        Raises:
            DataError: The history goes on from another line.
        """
        turn = Turn(**{item.name: getattr(self, item.name) for item in fields(Turn)})
        if self.history_kept:
            if before is None or self.history_of not in (None, before.key) or len(before.turn.history) < self.history_kept:
                raise DataError("its history goes on from that of a line that does not stand before it: use the whole file.")
            turn = replace(turn, history=(*before.turn.history[: self.history_kept], *self.history))
        return TurnRecord(turn, self.retention, self.reward, self.terms, self.control)


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
        shared, history = () if before is None else before.turn.history, record.turn.history
        pairs = zip(history, shared, strict=False)
        kept = next((index for index, (new, old) in enumerate(pairs) if new != old), min(len(history), len(shared)))
        row = {**replace(record, turn=replace(record.turn, history=history[kept:])).to_json(), "history_kept": kept}
        if before is not None and kept:
            row["history_of"] = before.key
        lines.append(json_text(row) + "\n")
        before = record
    return write_text(path, "".join(lines))


def read_records(path: str | Path, most: int | None = None) -> list[TurnRecord]:
    """Reads a JSONL transcript.

    Args:
        path: The file.
        most: Turns to read from its beginning; None reads all.

    Raises:
        DataError: The file is missing or a line is not a turn record; the message has file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"Expected a transcript (JSONL) at {path}, found no such file: give a file written by an evaluation.")
    records: list[TurnRecord] = []
    for number, line in islice(open_lines(path), most):
        source = f"{path}, line {number}"
        row = parse_json(line, source, TurnLine, _REFUSAL)
        try:
            records.append(row.record(records[-1] if records else None))
        except DataError as error:
            raise DataError(f"{source}: {error}") from None
    return records


@contextmanager
def keeping_transcripts(path: str | Path | None) -> Iterator[None]:
    """Writes what was said so far to `path` where a reward or a scenario fails inside; the error then says where. None writes nothing.

    Raises:
        PlayError: The one that came, with the path in its message.
    """
    try:
        yield
    except PlayError as error:
        if not error.turns or path is None:
            raise
        records = [TurnRecord.of(turn, retention=held(turn), score=Score(None)) for turn in error.turns]
        written = write_records(path, records)
        kept = type(error)(
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
    scores = score_turns(reward, [record.turn for record in records])
    return [replace(record, reward=score.value, terms=dict(score.terms)) for record, score in zip(records, scores, strict=True)]

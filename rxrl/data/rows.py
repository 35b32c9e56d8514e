"""Conversations on disk: validated rows in JSONL, Parquet or a `datasets` data set, and back.

A row holds one conversation: `query` and `answer` of the first interaction, `interactions` for the follow-ups. `facts`, `asks`,
`aliases`, `unknown`, `kind` and the segments of the interaction template (`rxrl.template`) are optional for each; at the top level they
belong to the first interaction. A system prompt, `system`, is an interaction of its own before all others. Everything else is kept as it is
for rewards and reports.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from rxrl.data.corpora import ROW_ENDINGS, Purpose, Row, Say, Split, ending, open_corpus
from rxrl.data.tables import write_parquet
from rxrl.errors import DataError, sentence, unknown_name
from rxrl.facts import value_words
from rxrl.template import SEGMENT_KEYS, segments, system_interaction, system_of, texts_of
from rxrl.types import INTERACTION_MARKERS, Conversation, Interaction, TextCodec
from rxrl.validation import first_refusal, shown
from rxrl.writing import write_bytes

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Key = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
WHOLE_ANSWER = "*"
CHAT_COLUMNS = {"messages": ("role", "content"), "conversations": ("from", "value")}


class FactRow(BaseModel):
    """A fact as it stands in a row."""

    model_config = ConfigDict(extra="forbid")
    key: Key
    value: Text

    @field_validator("value")
    @classmethod
    def _has_a_word(cls, value: str) -> str:
        if not value_words(value):
            raise ValueError(f"the value {value!r} holds no word, so no answer could be found to hold it")
        return value


class InteractionRow(BaseModel):
    """An interaction as it stands in a row; unknown keys are kept."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=False)
    internal: str | None = None
    think: str | None = None
    tool_call: str | None = None
    tool_result: str | None = None
    query: Text
    answer: Text
    facts: list[FactRow] = Field(default_factory=list)
    asks: list[Key] | None = None
    aliases: dict[Key, list[Text]] = Field(default_factory=dict)
    unknown: bool = Field(default=False, strict=True)
    kind: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, row: Any) -> Any:
        """Columns of Parquet and Hub files hold null where a row has no such key; a tool may take the place of query or answer."""
        if not isinstance(row, Mapping):
            return row
        found = {key: value for key, value in row.items() if value is not None}
        return {**{key: "" for key, tool in _TOOLS.items() if found.get(tool)}, **found}

    @field_validator("query", "answer", mode="wrap")
    @classmethod
    def _may_be_left_to_a_tool(cls, text: Any, check: ValidatorFunctionWrapHandler, info: ValidationInfo) -> str:
        instead = info.data.get(_TOOLS[str(info.field_name)])
        return "" if instead and text == "" else str(check(text))

    @field_validator("aliases", mode="before")
    @classmethod
    def _one_form_of_aliases(cls, aliases: Any) -> Any:
        if isinstance(aliases, (list, tuple)):
            pairs = bool(aliases) and all(isinstance(entry, (list, tuple)) and len(entry) == 2 for entry in aliases)
            pairs = pairs and all(isinstance(key, str) for key, _ in aliases)
            aliases = dict(aliases) if pairs else {WHOLE_ANSWER: list(aliases)}
        if isinstance(aliases, Mapping):
            return {key: words for key, words in aliases.items() if words}
        return aliases

    @model_validator(mode="after")
    def _taught_is_a_flag(self) -> InteractionRow:
        _check_taught(self.model_extra or {})
        return self

    def to_interaction(self) -> Interaction:
        """The same as the noun that the rest of the library works with."""
        return Interaction(
            query=self.query,
            answer=self.answer,
            facts=tuple((fact.key, fact.value) for fact in self.facts),
            asks=None if self.asks is None else tuple(self.asks),
            aliases={key: tuple(words) for key, words in self.aliases.items()},
            unknown=self.unknown,
            kind=self.kind,
            extra={**{key: text for key in SEGMENT_KEYS if (text := getattr(self, key)) is not None}, **(self.model_extra or {})},
        )


def _check_taught(extra: Mapping[str, Any]) -> None:
    """Refuses what is neither true nor false: text would count as true without a word."""
    if not isinstance(extra.get("taught", True), bool):
        raise ValueError(f"taught: expected true or false, got {shown(extra['taught'])}")


_TOOLS = {"query": "tool_result", "answer": "tool_call"}
"""What an interaction may have in place of its query and its answer."""


class ConversationRow(InteractionRow):
    """A conversation as it stands in a row: its own fields are the first interaction."""

    id: str | None = None
    interactions: list[InteractionRow] = Field(min_length=1)

    @field_validator("id", mode="before")
    @classmethod
    def _numbers_are_ids_too(cls, found: Any) -> Any:
        return str(found) if isinstance(found, int) and not isinstance(found, bool) else found

    @model_validator(mode="after")
    def _asks_only_what_was_told(self) -> ConversationRow:
        told: set[str] = set()
        for turn, interaction in enumerate([self, *self.interactions]):
            missing = [key for key in interaction.asks or () if key not in told]
            where = f"interactions[{turn - 1}]" if turn else "the first interaction"
            if missing and not interaction.unknown:
                raise ValueError(f"{where} asks for {missing[0]!r}, which no earlier interaction tells: add the fact or set unknown")
            if interaction.unknown and not interaction.asks:
                raise ValueError(f"{where} is unknown, but has no asks: name the key of what was never told")
            if interaction.unknown and not missing:
                asked = ", ".join(interaction.asks or ())
                raise ValueError(f"{where} is unknown, but an earlier interaction tells all that it asks for ({asked}): leave unknown out")
            told.update(fact.key for fact in interaction.facts)
        return self

    @model_validator(mode="after")
    def _aliases_are_of_what_is_told_or_asked(self) -> ConversationRow:
        everything = [self, *self.interactions]
        known = {WHOLE_ANSWER, *(key for each in everything for key in (*(fact.key for fact in each.facts), *(each.asks or ())))}
        for turn, interaction in enumerate(everything):
            if wrong := [key for key in interaction.aliases if key not in known]:
                where = f"interactions[{turn - 1}]" if turn else "the first interaction"
                raise ValueError(f"{where} has aliases of what is neither told nor asked: {unknown_name('key', wrong[0], known)}")
        return self


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that does not fit.

    Attributes:
        file: File or data set that it comes from.
        row: Number of the row, counted from 1 (the line of a text file).
        reason: What is wrong with it.
    """

    file: str
    row: int
    reason: str

    def __str__(self) -> str:
        """One line for people."""
        return f"{self.file}, row {self.row}: {self.reason}"


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """How long one interaction may be.

    Attributes:
        longest: Largest length of query and answer together, in units of `measure`.
        measure: Length of a text; words where no tokenizer is at hand.
        unit: Name of the unit in messages.
    """

    longest: int
    measure: Callable[[str], int] = lambda text: len(text.split())
    unit: str = "words"

    @classmethod
    def in_tokens(cls, longest: int, codec: TextCodec) -> LengthLimit:
        """Limit in tokens of `[BOS] [Q] query [A] answer [EOS]`, as models have it."""
        return cls(longest - INTERACTION_MARKERS, lambda text: len(codec.encode(text)), "tokens")

    @classmethod
    def of_texts(cls, longest: int, codec: TextCodec) -> LengthLimit:
        """Limit in tokens of `[BOS] text [EOS]`, as pre-training has it."""
        return cls(longest - 2, lambda text: len(codec.encode(text)), "tokens")

    def complaint(self, conversation: Conversation) -> str | None:
        """Says which interaction of a conversation is too long, if any."""
        for turn, interaction in enumerate(conversation.interactions):
            length = sum(map(self.measure, texts_of(interaction))) + len(segments(interaction))
            if length > self.longest:
                return f"interaction {turn} has {length} {self.unit}, but at most {self.longest} are allowed"
        return None


def to_conversation(row: Any, default_id: str) -> Conversation:
    """Validates one row.

    Raises:
        ValueError: The row does not fit; the message says what is wrong with it.
    """
    if isinstance(row, Mapping) and row.get("system") is not None:
        return _with_system(row, default_id)
    checked = _checked(row, ConversationRow)
    first = checked.to_interaction()
    extra = {key: value for key, value in first.extra.items() if key not in SEGMENT_KEYS}
    first = replace(first, extra={key: value for key, value in first.extra.items() if key in SEGMENT_KEYS})
    follow_ups = tuple(interaction.to_interaction() for interaction in checked.interactions)
    return Conversation(checked.id or default_id, first, follow_ups, extra)


class SystemRow(ConversationRow):
    """A conversation with a system prompt before its first interaction, which may be all that follows."""

    interactions: list[InteractionRow] = Field(default_factory=list)


R = TypeVar("R", bound=ConversationRow)


def _checked(row: Any, kind: type[R]) -> R:
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        raise ValueError(first_refusal(error, kind, "")) from error


def _with_system(row: Mapping[str, Any], default_id: str) -> Conversation:
    """A conversation whose initial interaction is a system prompt; what else stands at the top level of the row is its first turn."""
    system = row["system"]
    if not isinstance(system, str) or not system.strip():
        raise ValueError(f"system: expected text, got {shown(system)}")
    own = {key: value for key, value in row.items() if key in InteractionRow.model_fields and value is not None}
    rest = row.get("interactions")
    rest = [] if rest is None else rest
    if not own and isinstance(rest, list) and rest and isinstance(rest[0], Mapping):
        own, rest = dict(rest[0]), rest[1:]
    known = {*InteractionRow.model_fields, "id", "system", "interactions"}
    checked = _checked({"id": row.get("id"), **own, "interactions": rest}, SystemRow)
    turns = tuple(interaction.to_interaction() for interaction in (checked, *checked.interactions))
    extra = {key: value for key, value in row.items() if key not in known and value is not None}
    _check_taught(extra)
    return Conversation(checked.id or default_id, system_interaction(system.strip()), turns, extra)


def to_row(conversation: Conversation) -> dict[str, Any]:
    """The row of a conversation; keys without content are left out."""
    system = system_of(conversation.first)
    first = {"system": system} if system is not None else {**_interaction_row(conversation.first), **conversation.first.extra}
    return {
        "id": conversation.id,
        **first,
        "interactions": [{**_interaction_row(interaction), **interaction.extra} for interaction in conversation.follow_ups],
        **conversation.extra,
    }


def read_conversations(
    source: str | Path,
    *,
    subset: str | None = None,
    split: str | None = None,
    purpose: Purpose = "any",
    say: Say | None = None,
    limit: LengthLimit | None = None,
    keep_valid: bool = False,
    refused: list[RefusedRow] | None = None,
) -> list[Conversation]:
    """Reads and validates conversations.

    Args:
        source: A file, a folder or the name of a data set, with `:SPLIT` or without, as `rxrl.data.corpora.open_corpus` takes it.
        subset: Configuration of a data set, for example `steps-4`.
        split: Split of a data set, where `source` names none.
        purpose: What they are for; decides which split is taken where none is asked for.
        say: Is told in one sentence which split was taken, where there were several.
        limit: Longest interaction; longer ones do not fit.
        keep_valid: Leave rows out that do not fit, instead of raising an error at the first one.
        refused: Receives the rows that were left out, with their reasons.

    Raises:
        DataError: The source cannot be read, holds no conversation, or (without `keep_valid`) a row does not fit.
    """
    chosen = open_corpus(source, subset=subset, split=split).choose(purpose, say)
    return conversations_of(chosen, limit=limit, keep_valid=keep_valid, refused=refused)


def conversations_of(
    split: Split, *, limit: LengthLimit | None = None, keep_valid: bool = False, refused: list[RefusedRow] | None = None
) -> list[Conversation]:
    """The conversations of a split; see `read_conversations`."""
    if wrong := [file.name for file in split.files if ending(file) not in ROW_ENDINGS]:
        raise DataError(f"Conversations are read from .jsonl, .json or .parquet files, but {wrong[0]!r} was given.")
    conversations: list[Conversation] = []
    seen: dict[str, Row] = {}
    refused = [] if refused is None else refused
    for row in split.rows():
        try:
            conversation = _conversation(row, limit)
            if (first := seen.setdefault(conversation.id, row)) is not row:
                there = "" if first.source == row.source else f" of {first.source}"
                raise ValueError(f"the id {conversation.id!r} is already taken by row {first.number}{there}")
        except ValueError as error:
            problem = RefusedRow(row.source, row.number, str(error))
            if not keep_valid:
                raise DataError(f"{sentence(str(problem))} {_advice(row)}") from error
            refused.append(problem)
            continue
        conversations.append(conversation)
    if not conversations:
        reason = f" (of {len(refused)} rows none fits; {refused[0]})" if refused else ""
        raise DataError(
            f"{split.name} holds no valid conversation{reason}: give a file with at least one row of query, answer and interactions."
        )
    return conversations


def _conversation(row: Row, limit: LengthLimit | None) -> Conversation:
    found = row.value()
    if chat_column(found):
        raise ValueError(f"it is a chat with a list of {chat_column(found)!r}, not a row of query, answer and interactions")
    conversation = to_conversation(found, row.default_id)
    if limit is not None and (reason := limit.complaint(conversation)):
        raise ValueError(reason)
    return conversation


def chat_column(row: Any) -> str | None:
    """The column of a row in which a chat stands, as other tools write it: `messages` of roles, or `conversations` of ShareGPT."""
    for column, keys in CHAT_COLUMNS.items():
        turns = row.get(column) if isinstance(row, Mapping) and "interactions" not in row else None
        if isinstance(turns, list) and turns and all(isinstance(turn, Mapping) and turn.keys() >= set(keys) for turn in turns):
            return column
    return None


def _advice(row: Row) -> str:
    """What to do about a row that does not fit; the command runs as it stands."""
    source = shlex.quote(row.source)
    try:
        if chat_column(row.value()):
            return f"Convert it: `rxrl data import chat {source} OUT`."
    except ValueError:
        pass
    return f"Mend the row, or write the valid ones to a file: `rxrl data import published {source} OUT --keep-valid`."


def write_conversations(path: str | Path, conversations: Iterable[Conversation]) -> int:
    """Writes conversations to a `.jsonl` or `.parquet` file (folders are made) and returns how many there were.

    Raises:
        DataError: The file has another ending, or cannot hold what a row has.
    """
    target = Path(path)
    rows = [to_row(conversation) for conversation in conversations]
    if target.suffix.lower() not in (".jsonl", ".parquet"):
        raise DataError(f"Conversations are written to .jsonl or .parquet files, but {target.name!r} was given.")
    if target.suffix.lower() == ".jsonl":
        write_bytes(target, b"".join(json_line(row, f"Conversation {row['id']!r}") for row in rows))
    else:
        write_parquet(target, rows)
    return len(rows)


def _interaction_row(interaction: Interaction) -> dict[str, Any]:
    row: dict[str, Any] = {"query": interaction.query, "answer": interaction.answer}
    if interaction.facts:
        row["facts"] = [{"key": key, "value": value} for key, value in interaction.facts]
    if interaction.asks is not None:
        row["asks"] = list(interaction.asks)
    if interaction.aliases:
        row["aliases"] = {key: list(words) for key, words in interaction.aliases.items()}
    if interaction.unknown:
        row["unknown"] = True
    if interaction.kind is not None:
        row["kind"] = interaction.kind
    return row


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def json_line(row: Mapping[str, Any], name: str) -> bytes:
    """A row as a line of JSON; half of a surrogate pair, which UTF-8 has no form for, is escaped.

    Args:
        row: What to write.
        name: Whose row it is, for messages.

    Raises:
        DataError: A column holds what JSON has no form for, for example a time.
    """
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode(errors="backslashreplace")
    except (TypeError, ValueError, RecursionError) as error:
        parts = [("", row), *((f"interactions[{turn}].", each) for turn, each in enumerate(row.get("interactions", ())))]
        named = ((place + key, each[key]) for place, each in reversed(parts) for key in each if not _fits_json(each[key]))
        column, value = next(named, ("interactions", row))
        raise DataError(
            f"{name}, column {column!r}: JSON has no form for {_short(value)} ({type(value).__name__}): turn it into text or a number, "
            "leave the column out, or write .parquet."
        ) from error


def _fits_json(value: Any) -> bool:
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True

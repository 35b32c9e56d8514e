"""The interaction template: how what is said in an interaction becomes tokens, and which of them a model is trained on.

    [BOS] [Q] query [A] answer [EOS]

is the whole of it for most data. Rows may carry more, as optional keys of an interaction: `internal` (an instruction that the user does
not see), `tool_result` (what a tool gave back), `think` (what is thought before the answer) and `tool_call` (what the model asks a tool
for). A tokenizer that was trained with the template has a marker for each:

    [BOS] [I] internal [Q] query [U] tool result [T] think [A] answer [C] tool call [EOS]

What a model hears, everything up to the tool result, is its prompt: no loss is taken on it. What it says itself, thoughts, answer, tool
call and the markers in between, is trained on. Parts that an interaction does not have are left out with their markers; `[A]` always
stands before the answer. A system prompt is an interaction of its own, `[BOS] [I] system [EOS]`, that memory begins with. Without these
keys nothing differs from the first line.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from rxrl.errors import DataError
from rxrl.types import ANSWER, BOS, EOS, QUERY, SPECIAL_TOKENS, Interaction, TextCodec

INTERNAL, THINK, CALL, RESULT = range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + 4)
"""Ids of the markers of the template, in every tokenizer that has them."""
TEMPLATE_TOKENS = ("[I]", "[T]", "[C]", "[U]")
HEARD_MARKERS = frozenset((BOS, INTERNAL, QUERY, RESULT))
SEGMENT_KEYS = ("internal", "tool_result", "think", "tool_call")
"""Keys of an interaction beside `query` and `answer` that become tokens."""

_logger = logging.getLogger(__name__)


def has_template(codec: TextCodec) -> bool:
    """Whether a tokenizer has the markers of the template."""
    return bool(getattr(codec, "template", False))


def segment(interaction: Interaction, key: str) -> str:
    """A segment of an interaction, one of `SEGMENT_KEYS`; empty where it has none."""
    return str(interaction.extra.get(key) or "") if interaction.extra else ""


def segments(interaction: Interaction) -> dict[str, str]:
    """The segments that an interaction has, by key."""
    return {key: text for key in SEGMENT_KEYS if (text := segment(interaction, key))} if interaction.extra else {}


def texts_of(interaction: Interaction) -> list[str]:
    """Everything that is said in an interaction; query and answer come first."""
    return [interaction.query, interaction.answer, *segments(interaction).values()]


def heard(interaction: Interaction) -> str:
    """What the model hears, as text: the query, and what stands around it."""
    if not interaction.extra:
        return interaction.query
    parts = (segment(interaction, "internal"), interaction.query, segment(interaction, "tool_result"))
    return "\n".join(part for part in parts if part)


def system_interaction(text: str) -> Interaction:
    """A system prompt as the initial interaction of a conversation: what memory begins with."""
    return Interaction("", "", asks=(), extra={"internal": text})


def system_of(interaction: Interaction) -> str | None:
    """The system prompt that an interaction is; None for any other."""
    own = segments(interaction)
    return own["internal"] if not interaction.query and not interaction.answer and own.keys() == {"internal"} else None


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of an interaction.

    Attributes:
        heard: `[BOS]` and what stands before the model's own words, with its markers.
        said: From `[T]` or `[A]` on, without `[EOS]`; empty for a system prompt.
        plain: Whether it is `[BOS] [Q] query [A] answer`, nothing else.
    """

    heard: tuple[int, ...]
    said: tuple[int, ...]
    plain: bool

    @property
    def ids(self) -> list[int]:
        """The whole interaction, as it is written into memory."""
        return [*self.heard, *self.said, EOS]

    @property
    def prompt(self) -> int:
        """Tokens that no loss is taken on: what was heard, and the marker that the model goes on from."""
        return len(self.heard) + min(1, len(self.said))


def interaction_tokens(interaction: Interaction, codec: TextCodec) -> Tokens:
    """The tokens of an interaction in the template.

    Where the tokenizer has no markers, `think` is left out (said once in the log), and a system prompt takes the place of a query.

    Args:
        interaction: What is said.
        codec: Tokenizer.

    Raises:
        DataError: It has a tool call, a tool result or an internal instruction, and the tokenizer has no markers for them.
    """
    own = segments(interaction)
    query, answer = interaction.query, interaction.answer
    if own and not has_template(codec):
        query = system_of(interaction) or query
        _check_without_markers(own, interaction)
        own = {}
    if not own:
        return Tokens((BOS, QUERY, *codec.encode(query)), (ANSWER, *codec.encode(answer)), True)

    def part(marker: int, text: str) -> list[int]:
        return [marker, *codec.encode(text)] if text else []

    heard_ids = [*part(INTERNAL, own.get("internal", "")), *part(QUERY, query), *part(RESULT, own.get("tool_result", ""))]
    said = [] if system_of(interaction) is not None else [*part(THINK, own.get("think", "")), ANSWER, *codec.encode(answer)]
    return Tokens((BOS, *heard_ids), (*said, *part(CALL, own.get("tool_call", ""))), False)


def _check_without_markers(own: Mapping[str, str], interaction: Interaction) -> None:
    if system_of(interaction) is not None:
        return
    if needed := [key for key in own if key != "think"]:
        raise DataError(
            f"An interaction has a {needed[0].replace('_', ' ')}, but the tokenizer has no marker for it: train one with "
            "`rxrl data tokenizer --template` and start the model with it."
        )
    _say_left_out()


@cache
def _say_left_out() -> None:
    _logger.warning(
        "The tokenizer has no marker for thoughts, so `think` is left out: to use it, train one with `rxrl data tokenizer --template`."
    )


def prompt_tokens(query: str, codec: TextCodec, *, think: bool = False, result: bool = False) -> list[int]:
    """What a model answers: `[BOS] [Q] query [A]`, or as it is asked for.

    Args:
        query: What is said to it.
        codec: Tokenizer; with the template where one of the options is on.
        think: End with `[T]`, so that the model thinks first and gives `[A]` itself.
        result: The text is what a tool gave back, behind `[U]` in place of `[Q]`.

    Raises:
        DataError: The tokenizer has no markers for that.
    """
    if (think or result) and not has_template(codec):
        raise DataError(
            "Thinking and tools need a tokenizer with the markers of the template: train one with `rxrl data tokenizer --template`, and a "
            "model with it."
        )
    return [BOS, RESULT if result else QUERY, *codec.encode(query), THINK if think else ANSWER]


def split_written(ids: Sequence[int]) -> tuple[tuple[int, ...], dict[str, tuple[int, ...]]]:
    """An interaction of the template as it was written, apart: the ids of what was heard, and what was said as `split_said` gives it."""
    end = next((at for at, token in enumerate(ids) if token in {THINK, ANSWER}), len(ids))
    heard_ids = tuple(token for token in ids[:end] if token not in HEARD_MARKERS and token != EOS)
    return heard_ids, split_said(ids[end + 1 :], think=end < len(ids) and ids[end] == THINK)


def split_said(ids: Sequence[int], *, think: bool = False) -> dict[str, tuple[int, ...]]:
    """What a model said, apart: the ids of what it thought, of its answer and of its tool call, without markers.

    Args:
        ids: What it generated behind a prompt of the template, up to `[EOS]`.
        think: Whether the prompt ended with `[T]`.
    """
    found: dict[str, list[int]] = {"think": [], "answer": [], "tool_call": []}
    now = "think" if think else "answer"
    for token in ids:
        if token == ANSWER:
            now = "answer"
        elif token == CALL:
            now = "tool_call"
        elif token != EOS:
            found[now].append(token)
    return {key: tuple(each) for key, each in found.items()}

"""Chats as other tools write them: `messages` of roles (OpenAI, TRL), or `conversations` of ShareGPT, to rows of rxrl."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rxrl.data.corpora import open_corpus
from rxrl.data.importers.common import ImportResult
from rxrl.data.rows import CHAT_COLUMNS, LengthLimit, RefusedRow, chat_column, to_conversation
from rxrl.reading import json_value
from rxrl.types import Conversation

ROLES = {
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
    "function_call": "call",
}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_THINK = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
_OWN = frozenset({"query", "answer", "interactions", "system"})


def import_chat(source: str | Path, *, limit: LengthLimit | None = None, keep_valid: bool = False) -> ImportResult:
    """Turns chats into conversations: the first question and its answer are what is told, each later pair is a turn.

    A system message at the beginning becomes the system prompt, one further on an instruction before the next question. What an assistant
    thinks (`<think>...</think>`, or a key such as `reasoning_content`), its tool calls and their results become segments of the interaction
    template. Messages of one role behind one another are joined, and a question without an answer at the end is left out. What the chats
    ask for is not known, so rewards fall back on content words.

    Args:
        source: File, folder or name of a data set, with `:SPLIT` or without.
        limit: Longest interaction.
        keep_valid: Keep the rest where rows do not fit.

    Raises:
        DataError: The source cannot be read, or a row does not fit and the rest is not wanted.
    """
    conversations: list[Conversation] = []
    refused: list[RefusedRow] = []
    for row in open_corpus(source).choose("any").rows():
        try:
            conversation = to_conversation(_row(row.value()), row.default_id)
            if limit is not None and (reason := limit.complaint(conversation)):
                raise ValueError(reason)
            conversations.append(conversation)
        except ValueError as error:
            refused.append(RefusedRow(row.source, row.number, str(error)))
    counts = {"rows": len(conversations) + len(refused), "conversations": len(conversations), "refused": len(refused)}
    return ImportResult(conversations, counts, tuple(refused)).checked(source, keep_valid)


def _row(chat: Any) -> dict[str, Any]:
    """The row of a chat.

    Raises:
        ValueError: It is no chat, or one that cannot be put as questions and answers.
    """
    column = chat_column(chat)
    if column is None:
        raise ValueError("it has neither `messages` of role and content nor `conversations` of from and value")
    chosen = _Interactions()
    for message in chat[column]:
        chosen.add(message, *CHAT_COLUMNS[column])
    turns, system = [each for each in chosen.turns if _answered(each)], "\n".join(chosen.system)
    needed = 1 if system else 2
    if len(turns) < needed:
        raise ValueError(
            f"it has {len(turns)} question with an answer, but {'one is' if system else 'two are'} needed: what is told, and a turn that "
            "can recall it"
        )
    extra = {key: value for key, value in chat.items() if key not in {column, *_OWN}}
    first, *rest = turns
    return {**extra, **({"system": system} if system else {}), **first, "interactions": rest}


class _Interactions:
    """Messages as they come, put together to interactions."""

    def __init__(self) -> None:
        self.system: list[str] = []
        self.turns: list[dict[str, str]] = []
        self._internal: list[str] = []

    def add(self, message: Mapping[str, Any], role: str, text: str) -> None:
        """The next message.

        Raises:
            ValueError: It is of no known role, not a text, or an answer without a question.
        """
        speaker = ROLES.get(str(message[role]).lower())
        if speaker is None:
            raise ValueError(f"the role {message[role]!r} is neither a question nor an answer: expected {', '.join(ROLES)}")
        words = "" if message[text] is None and _calls(message) else _words(message[text])
        if speaker == "system":
            (self._internal if self.turns else self.system).append(words)
        elif speaker in {"user", "tool"}:
            self._hear("query" if speaker == "user" else "tool_result", words)
        else:
            self._say({"tool_call": words} if speaker == "call" else _said(message, words))

    def _hear(self, key: str, words: str) -> None:
        if not self.turns or _answered(self.turns[-1]):
            self.turns.append({})
        turn = self.turns[-1]
        _join(turn, key, words)
        for each in self._internal:
            _join(turn, "internal", each)
        self._internal.clear()

    def _say(self, segments: Mapping[str, str]) -> None:
        if not self.turns:
            raise ValueError("it begins with an answer: leave it out, or put the question before it")
        for key, words in segments.items():
            _join(self.turns[-1], key, words)


def _answered(turn: Mapping[str, str]) -> bool:
    return "answer" in turn or "tool_call" in turn


def _join(turn: dict[str, str], key: str, words: str) -> None:
    turn[key] = f"{turn[key]}\n{words}" if key in turn else words


def _said(message: Mapping[str, Any], words: str) -> dict[str, str]:
    """What an assistant's message holds: thoughts, an answer, tool calls as JSON."""
    found: dict[str, str] = {}
    thought = next((message[key] for key in _THOUGHTS if isinstance(message.get(key), str)), None)
    if thought is None and (match := _THINK.match(words)):
        thought, words = match[1].strip(), words[match.end() :]
    if thought and thought.strip():
        found["think"] = thought
    calls = _calls(message)
    if words.strip() or not calls:
        found["answer"] = words
    if calls:
        found["tool_call"] = "\n".join(_call(each) for each in calls)
    return found


def _calls(message: Mapping[str, Any]) -> list[Any]:
    """The tool calls of a message, in either of the two ways to write them."""
    several, single = message.get("tool_calls"), message.get("function_call")
    return several if isinstance(several, list) else [single] if single else []


def _call(call: Any) -> str:
    """A tool call as JSON of name and arguments, whatever else comes with it."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise ValueError("a tool call has no name of a function")
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = json_value(arguments)
    return json.dumps({"name": function["name"], "arguments": arguments}, ensure_ascii=False)


def _words(content: Any) -> str:
    """The text of a message, which may be given in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None for part in parts]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("a message holds something other than text")
    return "".join(str(each) for each in texts)

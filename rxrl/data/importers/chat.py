"""Chats as other tools write them: `messages` of roles (OpenAI, TRL), or `conversations` of ShareGPT, to rows of rxrl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rxrl.data.corpora import open_corpus
from rxrl.data.importers.common import ImportResult
from rxrl.data.rows import CHAT_COLUMNS, LengthLimit, RefusedRow, chat_column, to_conversation
from rxrl.types import Conversation

ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "model": "assistant", "system": "system"}


def import_chat(source: str | Path, *, limit: LengthLimit | None = None, keep_valid: bool = False) -> ImportResult:
    """Turns chats into conversations: the first question and its answer are what is told, each later pair is a turn.

    A system message stands before the first question, messages of one role behind one another are joined, and a question without an answer
    at the end is left out. What the chats ask for is not known, so rewards fall back on content words.

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
    role, text = CHAT_COLUMNS[column]
    pairs: list[list[str]] = []
    system: list[str] = []
    for speaker, words in _joined(chat[column], role, text):
        if speaker == "system":
            system.append(words)
        elif speaker == "user":
            pairs.append([words])
        elif not pairs:
            raise ValueError("it begins with an answer: leave it out, or put the question before it")
        else:
            pairs[-1].append(words)
    pairs = [pair for pair in pairs if len(pair) == 2]
    if len(pairs) < 2:
        raise ValueError(f"it has {len(pairs)} question with an answer, but two are needed: what is told, and a turn that can recall it")
    first, *rest = ({"query": query, "answer": answer} for query, answer in pairs)
    first["query"] = "\n".join([*system, first["query"]])
    extra = {key: value for key, value in chat.items() if key not in {column, "query", "answer", "interactions"}}
    return {**extra, **first, "interactions": rest}


def _joined(messages: list[Mapping[str, Any]], role: str, text: str) -> Iterator[tuple[str, str]]:
    """Speakers and their words, those of one speaker behind one another as one."""
    said: list[tuple[str, str]] = []
    for message in messages:
        speaker = ROLES.get(str(message[role]).lower())
        if speaker is None:
            raise ValueError(f"the role {message[role]!r} is neither a question nor an answer: expected {', '.join(ROLES)}")
        words = _words(message[text])
        if said and said[-1][0] == speaker:
            said[-1] = (speaker, f"{said[-1][1]}\n{words}")
        else:
            said.append((speaker, words))
    yield from said


def _words(content: Any) -> str:
    """The text of a message, which may be given in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else None for part in parts]
    if not all(isinstance(each, str) for each in texts):
        raise ValueError("a message holds something other than text")
    return "".join(str(each) for each in texts)

"""The data set of prompts that a trainer of TRL draws from."""

from __future__ import annotations

from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]

from rxrl.integrations.dialogues import QUERY_TOKENS, Dialogues


def prompts_of(conversations: Any, *, system: str | None = None, seed: int = 0) -> Dataset:
    """The data set that a trainer of TRL draws prompts from.

    Args:
        conversations: As in `rxrl.factory.make_env`: a path, rows, conversations, scenarios, or "scenario:NAME".
        system: A system prompt that goes first.
        seed: Keys what the scenarios draw; the same as that of the rollout.

    Returns:
        One row for each conversation: its `prompt` is how it begins, as messages, each with the id of the conversation as `conversation`.

    Raises:
        RxrlError: Nothing can be played.
    """
    dialogues = Dialogues(conversations, seed=seed, max_query_tokens=QUERY_TOKENS)
    return Dataset.from_list([{"prompt": messages} for messages in dialogues.openings(system)])

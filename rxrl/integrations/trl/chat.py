"""Dialogues as the tokens that a chat template makes of them."""

from __future__ import annotations

from typing import Any

from rxrl.errors import ConfigError
from rxrl.integrations.dialogues import Messages
from rxrl.integrations.trl.generation import tokenizer_of
from rxrl.policies.huggingface import chat_text, end_tokens

_PLACE = "rxrlanswergoeshere"


class Chat:
    """Dialogues as the tokens that the model of a trainer reads."""

    def __init__(self, trainer: Any) -> None:
        self.tokenizer = tokenizer_of(trainer)
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(f"{type(self.tokenizer).__name__} has no chat template: set `tokenizer.chat_template`, or take a chat model.")
        model = trainer.accelerator.unwrap_model(trainer.model)
        self.ends = end_tokens(model, self.tokenizer)
        self._options = dict(trainer.args.chat_template_kwargs or {})
        self._completion = trainer.args.max_completion_length
        self._context = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def ids(self, messages: Messages) -> list[int]:
        """The dialogue up to where the answer begins."""
        return self._encode(chat_text(self.tokenizer, messages, **self._options))

    def next(self, messages: Messages, query: str, last: int) -> list[int]:
        """What stands between the last answer of a row and the next one; the token that ends an answer only where it was not sampled."""
        before = messages[:-1]
        after: Messages = [{"role": "assistant", "content": _PLACE}, {"role": "user", "content": query}]
        _, found, rest = chat_text(self.tokenizer, [*before, *after], **self._options).rpartition(_PLACE)
        if not found:
            raise ConfigError("The chat template leaves out what the assistant said before: take one that shows the whole dialogue.")
        ids = self._encode(rest)
        return ids[1:] if last in self.ends and ids[:1] == [last] else ids

    def room(self, prompt: int) -> int:
        """Tokens of the longest completion behind a prompt of so many."""
        limits = [self._completion, None if self._context is None else self._context - prompt]
        return min((limit for limit in limits if limit is not None), default=2**31)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

"""Whole conversations played with the model of a trainer, as its `rollout_func`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rxrl.envs import ConversationVectorEnv
from rxrl.errors import ConfigError
from rxrl.integrations.dialogues import KEY, QUERY_TOKENS, Dialogues, Messages, Rewards, TokenizerCodec, conversation_of
from rxrl.integrations.trl.chat import Chat
from rxrl.integrations.trl.generation import Generate, generate_answers
from rxrl.types import ANSWER_TOKENS, EOS

_logger = logging.getLogger(__name__)


def conversation_rollout(conversations: Any, **options: Any) -> ConversationRollout:
    """A `rollout_func` for TRL's `GRPOTrainer`; arguments as in `ConversationRollout`."""
    return ConversationRollout(conversations, **options)


class ConversationRollout:
    """Plays whole conversations with the model of a trainer, as its `rollout_func`.

    A completion holds the answers of all turns, and between them what the user said, which is masked out of the loss (`env_mask`). A
    dialogue is cut where the next turn would not fit `max_completion_length` or the model's context; the turns that it lacks earn 0.

    Args:
        conversations: As in `rxrl.factory.make_env`; those of the training and of the evaluation prompts.
        reward: As in `rxrl.factory.make_env`.
        max_answer_tokens: Longest answer in tokens of the model, the token that ends it included.
        max_query_tokens: Longest query in tokens of the model.
        seed: Keys what the scenarios draw; the same as that of the prompts.
        generate: What samples answers; None samples with the `generate` of the model. Needed where the trainer generates with vLLM.

    Raises:
        RxrlError: An argument is wrong.
    """

    def __init__(
        self,
        conversations: Any,
        *,
        reward: Any = None,
        max_answer_tokens: int = ANSWER_TOKENS,
        max_query_tokens: int = QUERY_TOKENS,
        seed: int = 0,
        generate: Generate | None = None,
    ) -> None:
        self._codec = TokenizerCodec()
        limits: dict[str, Any] = {"max_answer_tokens": max_answer_tokens, "max_query_tokens": max_query_tokens}
        self.dialogues = Dialogues(conversations, reward=reward, codec=self._codec, seed=seed, **limits)
        self.max_answer_tokens = max_answer_tokens
        self._generate = generate_answers if generate is None else generate
        self._said_cut = False

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """Plays the conversation of each prompt, as often as the trainer wants it.

        Args:
            prompts: As `prompts_of` makes them, either once or once for each completion.
            trainer: A `GRPOTrainer`.

        Returns:
            Lists with an entry for each completion: `prompt_ids`, `completion_ids`, `logprobs` and `env_mask` (1 for sampled tokens) as TRL
            takes them; `turn_rewards` (one for each turn of the conversation, None where it has no score) and `answers` (their texts)
            for reward functions.

        Raises:
            RxrlError: A prompt names no conversation, a setting of the trainer does not fit, or the environment failed.
        """
        chat = Chat(trainer)
        if self._codec.tokenizer is not chat.tokenizer:
            self._codec.tokenizer = chat.tokenizer
            self.dialogues.renew()
        copies = _copies(prompts, trainer)
        rows = [_Row(conversation=conversation_of(prompt), messages=_plain(prompt)) for prompt in prompts for _ in range(copies)]
        envs = self.dialogues.begin([row.conversation for row in rows])
        for row, query in zip(rows, envs.next_queries, strict=True):
            self._start(row, query, chat)
        while waiting := [row for row in rows if row.open]:
            answers = self._generate(trainer, [[*row.prompt, *row.completion] for row in waiting], self.max_answer_tokens)
            for row, (ids, log_probs) in zip(waiting, answers, strict=True):
                row.add(ids, log_probs, sampled=True)
            self._step(envs, rows, chat)
        return {
            "prompt_ids": [row.prompt for row in rows],
            "completion_ids": [row.completion for row in rows],
            "logprobs": [row.log_probs for row in rows],
            "env_mask": [row.mask for row in rows],
            "turn_rewards": [row.rewards for row in rows],
            "answers": [row.answers for row in rows],
        }

    def _start(self, row: _Row, query: str, chat: Chat) -> None:
        if row.messages[-1]["content"] != query:
            raise ConfigError(
                f"The prompt of conversation {row.conversation!r} ends with another query than the conversation begins with: "
                "give prompts_of the same conversations and seed as the rollout."
            )
        row.prompt = chat.ids(row.messages)
        row.room = chat.room(len(row.prompt))
        if row.room < self.max_answer_tokens:
            raise ConfigError(
                f"After a prompt of {len(row.prompt)} tokens there is room for {max(0, row.room)}, but an answer may take "
                f"{self.max_answer_tokens}: raise max_completion_length, lower max_answer_tokens, or take a model with a longer context."
            )

    def _step(self, envs: ConversationVectorEnv, rows: Sequence[_Row], chat: Chat) -> None:
        """Gives the answers to the environment, and what the users say next to the rows."""
        ids = [self._codec.shifted(row.answer_ids(chat.ends)) if row.open else [] for row in rows]
        width = max(map(len, ids)) + 1
        padded = [[*row, *[EOS] * (width - len(row))] for row in ids]
        _, rewards, _, _, info = envs.step({"ids": padded, "length": [len(row) for row in ids]})
        active, cut = envs.active, []
        for place, (row, query) in enumerate(zip(rows, envs.next_queries, strict=True)):
            if not row.open:
                continue
            turn = info["turns"][place]
            row.hear(turn.answer, float(rewards[place]) if info["scored"][place] else None)
            said = chat.next(row.messages, query, row.completion[-1]) if active[place] else []
            if active[place] and len(row.completion) + len(said) + self.max_answer_tokens > row.room:
                self._say_cut(row, turn.steps)
                row.rewards += [0.0] * (turn.steps - turn.index)
                cut.append(place)
            row.open = bool(active[place]) and place not in cut
            if row.open:
                row.messages.append({"role": "user", "content": query})
                row.add(said, [0.0] * len(said), sampled=False)
        if cut:
            envs.reset(options={"reset_mask": [place in cut for place in range(len(rows))], "conversations": []})

    def _say_cut(self, row: _Row, steps: int) -> None:
        if not self._said_cut:
            self._said_cut = True
            _logger.warning(
                "Conversation %r is cut after turn %d of %d, because the next one does not fit the %d tokens of a completion; what is cut "
                "earns 0. Raise max_completion_length, or take a model with a longer context.",
                row.conversation, len(row.answers), steps, row.room,
            )  # fmt: skip


@dataclass
class _Row:
    """A completion that grows turn by turn."""

    conversation: str
    messages: Messages
    prompt: list[int] = field(default_factory=list)
    completion: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    rewards: Rewards = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    room: int = 0
    open: bool = True

    def add(self, ids: Sequence[int], log_probs: Sequence[float], *, sampled: bool) -> None:
        self.completion += ids
        self.log_probs += log_probs
        self.mask += [int(sampled)] * len(ids)

    def hear(self, answer: str, reward: float | None) -> None:
        self.messages.append({"role": "assistant", "content": answer})
        self.answers.append(answer)
        self.rewards.append(reward)

    def answer_ids(self, ends: Sequence[int]) -> list[int]:
        """Tokens of the last answer, without the one that ends it."""
        start = len(self.mask) - self.mask[::-1].index(0) if 0 in self.mask else 0
        ids = self.completion[start:]
        return ids[:-1] if ids[-1] in ends else ids


def _plain(prompt: Any) -> Messages:
    """The messages of a prompt as a chat template takes them."""
    return [{key: value for key, value in message.items() if key != KEY and value is not None} for message in prompt]


def _copies(prompts: Sequence[Any], trainer: Any) -> int:
    """Completions that are wanted of each prompt given: 1 where the trainer has repeated the prompts already."""
    args, training = trainer.args, trainer.model.training
    wanted = trainer.num_generations if training else trainer.num_generations_eval
    batch = args.generation_batch_size // trainer.accelerator.num_processes if training else args.per_device_eval_batch_size
    return wanted if len(prompts) * wanted == batch else 1

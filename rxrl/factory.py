"""Puts environments together from names, paths and live objects: the entry point of Gymnasium's registry, and of everything above."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from rxrl.data.rows import read_conversations, to_conversation
from rxrl.data.tokenizer import Tokenizer
from rxrl.envs import ConversationEnv, ConversationVectorEnv, Live
from rxrl.envs.backends import unwrap
from rxrl.errors import CheckpointError, ConfigError, DataError
from rxrl.models import ReactiveTransformer, StmBackend
from rxrl.models.model import CONFIG_FILE
from rxrl.rewards import load_reward, mean_embeddings
from rxrl.types import Conversation, MemoryBackend, RewardFunction, TextCodec

DEFAULT_VOCABULARY = 512
"""Tokens of a tokenizer that is trained here because nobody gave one."""
_LONGEST = 128
_MARKERS = 4

_logger = logging.getLogger(__name__)


def load_checkpoint(path: str | Path) -> tuple[ReactiveTransformer, Tokenizer]:
    """Reads a checkpoint.

    Args:
        path: Directory of `config.json`, `model.safetensors` and `tokenizer.json`, or one that holds such a directory as `model`.

    Returns:
        The model on the CPU, and its tokenizer.

    Raises:
        CheckpointError: Something is missing, broken, or does not fit together.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint {folder}: give the directory that a stage, a training or `save_pretrained` wrote.")
    if not (folder / CONFIG_FILE).exists() and (folder / "model" / CONFIG_FILE).exists():
        folder = folder / "model"
    model, tokenizer = ReactiveTransformer.from_pretrained(folder), Tokenizer.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"The tokenizer of {folder} has {tokenizer.vocab_size} tokens, but its model knows {model.config.vocab_size}: "
            "put back the tokenizer that the model was trained with."
        )
    return model, tokenizer


def make_env(
    conversations: Any, *, memory: Any = None, reward: Any = "retention", tokenizer: Any = None, **options: Any
) -> ConversationEnv:
    """Makes the environment that `gymnasium.make("rxrl/Conversation-v0", ...)` gives.

    Args:
        conversations: A path or Hub name, or a list of rows or `Conversation`s.
        memory: What holds the conversation: None, a `MemoryBackend`, a `ReactiveTransformer`, or the path of a checkpoint.
        reward: A name, a mapping, `"package.module:function"`, `"path/file.py:function"` or a function (`rxrl.rewards.load_reward`).
        tokenizer: A `TextCodec` or the path of a trained one. None takes the checkpoint's; where there is none, one is
            trained on the conversations.
        options: Everything else that `ConversationEnv` takes. Token limits follow the model where there is one.

    Raises:
        RxrlError: An argument is wrong; the message says which, and what to do.
    """
    parts = _resolve(conversations, memory, reward, tokenizer)
    given = parts.limits | options
    return _RegisteredEnv(parts.conversations, memory=parts.memory, reward=parts.reward, codec=parts.codec, **given)


def make_vector_env(
    num_envs: int = 1, *, conversations: Any, memory: Any = None, reward: Any = "retention", tokenizer: Any = None, **options: Any
) -> ConversationVectorEnv:
    """Makes the batched environment: `gymnasium.make_vec("rxrl/Conversation-v0", num_envs, vectorization_mode="vector_entry_point", ...)`.

    Args:
        num_envs: Rows.
        conversations: As in `make_env`, and so are `memory`, `reward` and `tokenizer`.
        memory: See there.
        reward: See there.
        tokenizer: See there.
        options: Everything else that `ConversationVectorEnv` takes.
    """
    parts = _resolve(conversations, memory, reward, tokenizer)
    given = parts.limits | options
    return _RegisteredVectorEnv(
        parts.conversations, memory=parts.memory, reward=parts.reward, codec=parts.codec, num_envs=num_envs, **given
    )


class TokenEmbeddings:
    """Mean token embeddings of a model, for rewards: rows of ids -> `[batch, dim]`. Follows the model while it is trained."""

    def __init__(self, model: ReactiveTransformer) -> None:
        self.model = model

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean embeddings of the rows' tokens; zeros for an empty row."""
        return mean_embeddings(self.model.embedding.weight, rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenEmbeddings:
        return self


class _Parts(NamedTuple):
    conversations: list[Conversation]
    memory: MemoryBackend | None
    reward: RewardFunction
    codec: TextCodec
    limits: dict[str, int]


def _resolve(conversations: Any, memory: Any, reward: Any, tokenizer: Any) -> _Parts:
    rows = _conversations(unwrap(conversations))
    backend, model, own_tokenizer = _memory(unwrap(memory))
    codec = _codec(unwrap(tokenizer), own_tokenizer, model, rows)
    handed_in = {} if model is None else {"embed": TokenEmbeddings(model)}
    function = load_reward(unwrap(reward), **handed_in)
    limits = {} if model is None else _limits(model.config.max_length)
    return _Parts(rows, backend, function, codec, limits)


def _conversations(given: Any) -> list[Conversation]:
    if isinstance(given, (str, Path)):
        return read_conversations(given)
    if not isinstance(given, Sequence):
        raise ConfigError(f"conversations is a path or a list of rows or Conversations, got {type(given).__name__}.")
    found = [_conversation(row, number) for number, row in enumerate(given, start=1)]
    rows: dict[str, int] = {}
    for number, conversation in enumerate(found, start=1):
        if rows.setdefault(conversation.id, number) != number:
            raise DataError(f"Row {number}: the id {conversation.id!r} is already taken by row {rows[conversation.id]}; give each its own.")
    return found


def _conversation(row: Any, number: int) -> Conversation:
    if isinstance(row, Conversation):
        return row
    try:
        return to_conversation(row, default_id=f"row-{number}")
    except ValueError as error:
        raise DataError(f"Row {number}: {error}.") from error


def _memory(given: Any) -> tuple[MemoryBackend | None, ReactiveTransformer | None, Tokenizer | None]:
    """The backend, with its model and tokenizer where it has them."""
    if given is None:
        return None, None, None
    if isinstance(given, (str, Path)):
        model, tokenizer = load_checkpoint(given)
        return StmBackend(model), model, tokenizer
    if isinstance(given, ReactiveTransformer):
        return StmBackend(given), given, None
    missing = [name for name in ("init", "write", "reset_rows") if not callable(getattr(given, name, None))]
    if missing:
        raise ConfigError(
            f"memory is None, a memory backend, a ReactiveTransformer or the path of a checkpoint; a {type(given).__name__} "
            f"is no backend, it lacks {', '.join(missing)}."
        )
    behind = getattr(given, "model", None)
    return given, behind if isinstance(behind, ReactiveTransformer) else None, None


def _codec(given: Any, own: Tokenizer | None, model: ReactiveTransformer | None, conversations: Sequence[Conversation]) -> TextCodec:
    if isinstance(given, (str, Path)):
        given = Tokenizer.load(given)
    codec: TextCodec = given if given is not None else own if own is not None else _trained(model, conversations)
    if not (callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))):
        raise ConfigError(f"tokenizer is the path of a trained one or has encode and decode, got {type(codec).__name__}.")
    size = getattr(codec, "vocab_size", None)
    if model is not None and isinstance(size, int) and size > model.config.vocab_size:
        raise ConfigError(
            f"The tokenizer has {size} tokens, but the model knows {model.config.vocab_size}: give the tokenizer that it was trained with."
        )
    return codec


def _trained(model: ReactiveTransformer | None, conversations: Sequence[Conversation]) -> Tokenizer:
    if model is not None:
        _note_missing_tokenizer()
    size = DEFAULT_VOCABULARY if model is None else model.config.vocab_size
    return Tokenizer.train([text for each in conversations for turn in each.interactions for text in (turn.query, turn.answer)], size)


@cache
def _note_missing_tokenizer() -> None:
    """Says it once: environments are made again and again from their spec."""
    _logger.warning("A live model came without its tokenizer, so one is trained on the conversations: give `tokenizer` if it has one.")


def _limits(max_length: int) -> dict[str, int]:
    """Token limits that let every prompt, answer and written interaction fit the model's length."""
    answer = max(1, min(_LONGEST, (max_length - _MARKERS) // 2))
    return {
        "max_answer_tokens": answer,
        "max_query_tokens": max(1, min(_LONGEST, max_length - _MARKERS - answer)),
        "max_interaction_tokens": max_length,
    }


def _copyable(spec: EnvSpec | None) -> EnvSpec | None:
    """The spec with live arguments as handles: Gymnasium deep-copies it, and a model must stay the one that is trained."""
    if spec is None:
        return None
    handled = copy.copy(spec)
    handled.kwargs = {name: value if _is_plain(value) else Live(value) for name, value in spec.kwargs.items()}
    return handled


def _is_plain(value: Any) -> bool:
    """Whether `value` is plain data, which may be copied and printed."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, int, float, Path, Live))


class _RegisteredEnv(ConversationEnv):
    @property
    def spec(self) -> EnvSpec | None:
        """How the registry made this environment; live arguments as handles."""
        return self.__dict__.get("_spec")

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self.__dict__["_spec"] = _copyable(spec)


class _RegisteredVectorEnv(ConversationVectorEnv):
    @property
    def spec(self) -> EnvSpec | None:
        """How the registry made this environment; live arguments as handles."""
        return self.__dict__.get("_spec")

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self.__dict__["_spec"] = _copyable(spec)

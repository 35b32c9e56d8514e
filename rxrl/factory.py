"""Builds environments and policies from names, paths and live objects; the entry point of Gymnasium's registry."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from torch import Tensor

from rxrl.data.mixing import Named, mix_of
from rxrl.data.rows import read_conversations, to_conversation
from rxrl.data.splits import SCENARIO, generated
from rxrl.data.tokenizer import TOKENIZER_FILE, Tokenizer
from rxrl.envs import (
    MEMORIES,
    ConversationEnv,
    ConversationTokensEnv,
    ConversationVectorEnv,
    TranscriptMemory,
    has_references,
    is_scenario,
    scenario_values,
    scenarios,
    unwrap,
)
from rxrl.envs.conversation import OneRowEnv
from rxrl.errors import CheckpointError, ConfigError, DataError, unknown_name
from rxrl.models import ReactiveTransformer
from rxrl.models.files import CONFIG_FILE
from rxrl.models.interop.hub import local_folder
from rxrl.policies import StmBackend
from rxrl.registry import called
from rxrl.rewards import load_reward, mean_embeddings
from rxrl.supply import default_reward, load_mix
from rxrl.template import segments
from rxrl.types import ANSWER_TOKENS, Conversation, MemoryBackend, RewardFunction, Scenario, TextCodec, longest_query
from rxrl.validation import is_whole

DEFAULT_VOCABULARY = 512
"""Tokens of a tokenizer that is trained here because nobody gave one."""
_SCENARIO_OPTIONS = ("level", "steps", "split", "seed", "count")

_logger = logging.getLogger(__name__)

E = TypeVar("E")


def load_checkpoint(path: str | Path) -> tuple[ReactiveTransformer, Tokenizer]:
    """Reads a checkpoint.

    Args:
        path: Directory of `config.json`, `model.safetensors` and `tokenizer.json`, or one that holds such a directory as `checkpoint`
            (the folder of a run) or `model`; or the name `owner/name` of one on the Hub.

    Returns:
        The model on the CPU, and its tokenizer.

    Raises:
        CheckpointError: Something is missing, broken, or does not fit together.
    """
    folder = checkpoint_folder(path)
    if not (folder / TOKENIZER_FILE).is_file():
        if not (folder / CONFIG_FILE).is_file():
            raise CheckpointError(f"{folder} holds no checkpoint (no {CONFIG_FILE}): give the folder of a checkpoint or of a run.")
        raise CheckpointError(f"No {TOKENIZER_FILE} in {folder}, and text needs one: put the model's own beside {CONFIG_FILE}.")
    model, tokenizer = ReactiveTransformer.from_pretrained(folder), Tokenizer.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"The tokenizer of {folder} has {tokenizer.vocab_size} tokens, but its model knows {model.config.vocab_size}: "
            "put back the tokenizer that the model was trained with."
        )
    if tokenizer.template != model.config.template:
        raise CheckpointError(
            f"The tokenizer of {folder} has {'' if tokenizer.template else 'no '}markers of the interaction template, its model "
            f"{'none' if tokenizer.template else 'has'}: put back the tokenizer that the model was trained with."
        )
    return model, tokenizer


def checkpoint_folder(source: str | Path) -> Path:
    """The one folder that model, tokenizer and critic of a checkpoint are read from.

    Args:
        source: The folder of a checkpoint; one that holds it as `checkpoint` (the folder of a run) or `model`; or the name `owner/name` of
            one on the Hub, which is fetched.

    Raises:
        CheckpointError: There is none, or `source` is the folder of a run that has not ended.
    """
    folder = local_folder(source)
    found = next((each for each in (folder, folder / "checkpoint", folder / "model") if (each / CONFIG_FILE).exists()), None)
    if found is None and (inner := sorted(file.parent for file in (folder / "checkpoints").glob("**/" + CONFIG_FILE))):
        raise CheckpointError(f"{folder} is a run that has not ended: go on with it, or name one of its checkpoints, such as {inner[-1]}.")
    return found or folder


def make_env(conversations: Any = None, **options: Any) -> ConversationEnv:
    """Makes the environment that `gymnasium.make("rxrl/Conversation-v0", ...)` gives: queries and answers are texts.

    Args:
        conversations: A path or Hub name, a list of rows, `Conversation`s or other scenarios, or "scenario:NAME"; or a mix by weights,
            such as `{"scenario:guess": 1, "world": 2, "rows.jsonl": 1}`. Of scenarios and mixes, the arguments of `load_mix` are options.
        options: `memory`: what holds the conversation: None or "none", "transcript", "transcript:4" (the last four interactions),
            the path of a checkpoint, "package.module:name" or "path/file.py:name", a `MemoryBackend` or a `ReactiveTransformer`.
            `reward`: a name, a mapping, "package.module:function", "path/file.py:function" or a function
            (`rxrl.rewards.load_reward`); where it is left out "retention", or "outcome" where scenarios have no references.
            `tokenizer`: a `TextCodec` or the path of a trained one; without it the checkpoint's, and where there is none, one
            that is trained on the conversations.
            Everything else that `ConversationEnv` takes; token limits follow the model where there is one.

    Raises:
        RxrlError: An argument is wrong; the message says which, and what to do.
    """
    return _made(ConversationEnv, conversations, **options)


def make_tokens_env(conversations: Any = None, **options: Any) -> ConversationTokensEnv:
    """Makes the environment that `gymnasium.make("rxrl/ConversationTokens-v0", ...)` gives: padded token ids.

    Args:
        conversations: As in `make_env`.
        options: As in `make_env`.
    """
    return _made(ConversationTokensEnv, conversations, **options)


def make_vector_env(num_envs: int = 1, *, conversations: Any = None, **options: Any) -> ConversationVectorEnv:
    """Makes the batched environment: `gymnasium.make_vec("rxrl/Conversation-v0", num_envs, vectorization_mode="vector_entry_point", ...)`.

    Args:
        num_envs: Rows.
        conversations: As in `make_env`.
        options: As in `make_env`, and everything else that `ConversationVectorEnv` takes.
    """
    return _made(ConversationVectorEnv, conversations, num_envs=num_envs, **options)


class TokenEmbeddings:
    """Mean token embeddings of a model, for rewards: rows of ids -> `[batch, dim]`. Follows the model while it is trained.

    Attributes:
        model: The model; may be set later than a reward is made with this, so that a wrong reward shows before a model is read.
    """

    def __init__(self, model: ReactiveTransformer | None = None) -> None:
        self.model = model

    def __call__(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Mean embeddings of the rows' tokens; zeros for an empty row."""
        assert self.model is not None, "the model is set before anything is scored"
        return mean_embeddings(self.model.embedding.weight, rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> TokenEmbeddings:
        return self


def _made(
    kind: Callable[..., E], conversations: Any, *, memory: Any = None, reward: Any = None, tokenizer: Any = None, **options: Any
) -> E:
    given = {name: options.pop(name) for name in _SCENARIO_OPTIONS if name in options}
    if unknown := [name for name in options if name not in _options_of(kind)]:
        raise ConfigError(unknown_name("option of the environment", unknown[0], [*_HANDED, *_options_of(kind)]))
    rows = _playable(unwrap(conversations), given)
    backend, model, own_tokenizer = _memory(unwrap(memory))
    codec = _codec(unwrap(tokenizer), own_tokenizer, model, rows)
    handed_in: dict[str, Any] = {} if model is None else {"embed": TokenEmbeddings(model)}
    function = load_reward(unwrap(reward) or default_reward(not has_references(each) for each in rows), **handed_in)
    return build_env(rows, memory=backend, reward=function, codec=codec, kind=kind, **options)


def build_env(
    conversations: Sequence[Scenario],
    *,
    memory: MemoryBackend | ReactiveTransformer | None,
    reward: RewardFunction,
    codec: TextCodec,
    kind: Callable[..., E] = ConversationVectorEnv,  # type: ignore[assignment]
    known_values: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> E:
    """The one place where environments are made of their parts: for training, evaluation, play and Gymnasium.

    Args:
        conversations: What is played.
        memory: What holds the conversation; the token limits follow that of a model.
        reward: What scores the answers.
        codec: Text to ids and back.
        kind: Class of the environment, or a function that takes the arguments of `ConversationVectorEnv`.
        known_values: Values of each attribute besides those of `conversations`, for questions about unseen values.
        options: Everything else that the environment takes; these win over what is chosen here.

    Raises:
        ConfigError: An option makes no sense, or `kind` is somebody else's and gives no environment.
    """
    if isinstance(memory, ReactiveTransformer):
        memory = StmBackend(memory)
    behind = getattr(memory, "model", None)
    chosen: dict[str, Any] = token_limits(behind.config.max_length) if isinstance(behind, ReactiveTransformer) else {}
    if known_values is not None:
        own = scenario_values(conversations)
        chosen["values"] = {name: tuple(sorted({*known_values.get(name, ()), *own.get(name, ())})) for name in {*known_values, *own}}
    given = {"memory": memory, "reward": reward, "codec": codec, **chosen, **options}
    if kind in _OURS:
        return kind(conversations, **given)
    name = getattr(kind, "__qualname__", repr(kind))
    made: E = called("environment", name, "the arguments of ConversationVectorEnv", kind, conversations, **given)
    if not isinstance(made, ConversationVectorEnv):
        raise ConfigError(f"The environment {name!r} must give a ConversationVectorEnv, but gave a {type(made).__name__}.")
    return made


def token_limits(max_length: int) -> dict[str, int]:
    """Limits of an environment whose memory is that of a model of `max_length` tokens."""
    return {"max_query_tokens": longest_query(max_length), "max_answer_tokens": ANSWER_TOKENS, "max_interaction_tokens": max_length}


_OURS = (ConversationEnv, ConversationTokensEnv, ConversationVectorEnv)
_HANDED = ("conversations", "memory", "reward", "tokenizer")


def _options_of(kind: Callable[..., Any]) -> list[str]:
    """What an environment takes besides what is made for it here; one of a single row hands the rest to the batched one."""
    names = [name for each in (kind, OneRowEnv, ConversationVectorEnv) for name in inspect.signature(each).parameters]
    single = kind is not ConversationVectorEnv
    return [name for name in dict.fromkeys(names) if name not in {"options", "codec", *_HANDED, *(["num_envs"] * single)}]


def _playable(given: Any, options: Mapping[str, Any]) -> Sequence[Scenario]:
    if _is_named(given):
        mix = mix_of(given)
        if len(mix) > 1 or any(map(generated, mix)):
            return load_mix(mix, **options)
        given = next(iter(mix))
    if options:
        raise ConfigError(f"{', '.join(options)} are options of scenarios: give conversations='{SCENARIO}NAME', or leave them out.")
    reacting = isinstance(given, Sequence) and any(is_scenario(each) and not isinstance(each, Conversation) for each in given)
    return given if reacting else _conversations(given)


def _is_named(given: Any) -> TypeGuard[Named]:
    """Whether data is given by name: a text, a mapping of weights, or a list of texts."""
    return isinstance(given, (str, Mapping)) or (isinstance(given, (list, tuple)) and {type(each) for each in given} == {str})


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
    tokenizer = None
    if isinstance(given, (str, Path)):
        given, tokenizer = _named_memory(given)
    if isinstance(given, ReactiveTransformer):
        return StmBackend(given), given, tokenizer
    behind = getattr(given, "model", None)
    return given, behind if isinstance(behind, ReactiveTransformer) else None, tokenizer


def _named_memory(name: str | Path) -> tuple[Any, Tokenizer | None]:
    """What a name stands for: a backend, a model with its tokenizer, or None."""
    text = str(name)
    kind, _, last = text.partition(":")
    if kind == "transcript" and last:
        if not last.isdigit():
            raise ConfigError(f"A transcript of the last interactions is named like 'transcript:4', got {text!r}.")
        return TranscriptMemory(int(last)), None
    if text in MEMORIES or (":" in text and not Path(text).exists()):
        found = MEMORIES.find(text)
        return called("memory", text, "no arguments", found) if isinstance(found, type) else found, None
    return load_checkpoint(text)


def _codec(given: Any, own: Tokenizer | None, model: ReactiveTransformer | None, conversations: Sequence[Scenario]) -> TextCodec:
    if isinstance(given, (str, Path)):
        given = Tokenizer.load(given)
    codec: TextCodec = given if given is not None else own if own is not None else _trained(model, conversations)
    if not (callable(getattr(codec, "encode", None)) and callable(getattr(codec, "decode", None))):
        raise ConfigError(f"tokenizer is the path of a trained one or has encode and decode, got {type(codec).__name__}.")
    size = getattr(codec, "vocab_size", None)
    if model is not None and is_whole(size) and size > model.config.vocab_size:
        raise ConfigError(
            f"The tokenizer has {size} tokens, but the model knows {model.config.vocab_size}: give the tokenizer that it was trained with."
        )
    return codec


def _trained(model: ReactiveTransformer | None, conversations: Sequence[Scenario]) -> Tokenizer:
    if model is not None:
        _note_missing_tokenizer()
    size = DEFAULT_VOCABULARY if model is None else model.config.vocab_size
    told = (interaction for each in conversations if isinstance(each, Conversation) for interaction in each.interactions)
    template = any(map(segments, told)) if model is None else model.config.template
    return Tokenizer.train([text for each in conversations for text in scenarios.texts_of(each)], size, template=template)


@cache
def _note_missing_tokenizer() -> None:
    """Says it once: environments are made again and again from their spec."""
    _logger.warning("A live model came without its tokenizer, so one is trained on the conversations: give `tokenizer` if it has one.")

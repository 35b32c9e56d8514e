"""Who answers, by name, together with the environment that suits them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from rxrl.data.splits import SCENARIO
from rxrl.data.tokenizer import Tokenizer
from rxrl.endpoint import ChatEndpoint
from rxrl.envs import ConversationVectorEnv, has_references, scenario_values
from rxrl.envs.scenarios import Game, Player
from rxrl.errors import ConfigError, RxrlError
from rxrl.factory import TokenEmbeddings, build_env, checkpoint_folder, load_checkpoint, make_vector_env
from rxrl.models import ReactiveTransformer
from rxrl.models.files import CONFIG_FILE
from rxrl.policies import POLICIES, EndpointPolicy, HuggingFacePolicy, ModelPolicy, Oracle, Parrot, RereadingPolicy, rereads
from rxrl.policies.text import Dialogue, TextPolicy
from rxrl.reading import OBJECT, hash_of, read_json
from rxrl.registry import called
from rxrl.seeding import Draws
from rxrl.types import ANSWER_TOKENS, Policy, RewardFunction, Scenario, TextCodec

EVALUATION_ROWS = 100
"""Most conversations that an evaluation plays at once."""
GAME_PLAYERS = {"best": "transcript", "blind": "none"}
"""Players that scenarios bring along, and what holds the conversation for them."""
ADDRESSES = ("http://", "https://")
"""Beginnings of the address of a chat endpoint."""
MODEL_FILES = (".json", ".safetensors", ".bin", ".jinja", ".model")
"""Endings of files in the folder of a model that its answers depend on."""
LONGEST_QUERY = 4096
"""Most tokens of a query for players without a limit of their own."""
HUB = "hf:"
"""Begins the name of a Hugging Face model that is no folder."""
KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key of chat endpoints."""


def make_play(
    policy: str, conversations: Any, *, memory: Any = None, num_envs: int = 1, device: torch.device | str = "cpu", **options: Any
) -> Play:
    """Builds a policy and an environment that suits it.

    Args:
        policy: "oracle", "parrot", "person", "best" or "blind" (the players of a scenario), the path of a checkpoint, the folder
            of a Hugging Face causal model (or "hf:NAME"),
            the address of a chat endpoint, or a name that a package registers, "package.module:name" or "path/file.py:name", called
            with the codec of the environment.
        conversations: As in `make_env`.
        memory: As in `make_env`; None is what the player needs: its own STM for a checkpoint, a transcript for a language
            model or an endpoint, nothing for the others.
        num_envs: Rows.
        device: Where a player computes that is a model of its own.
        options: As in `make_vector_env`; also `temperature` for players that sample, `system` for those that take a system prompt,
            and `model` for endpoints; `chat_template_kwargs` for language models.

    Raises:
        RxrlError: Something is missing or does not fit together.
    """
    given = {name: options.pop(name, None) for name in ("temperature", "system", "model", "chat_template_kwargs")}
    own = {name: value for name, value in given.items() if value is not None}
    if policy in GAME_PLAYERS:
        _check_player_options(policy, own, ())
        envs = make_vector_env(num_envs, conversations=conversations, memory=GAME_PLAYERS[policy] if memory is None else memory, **options)
        return Play(envs, _game_player(policy, envs))
    if policy in POLICIES.built_in:
        _check_player_options(policy, own, ())
        envs = make_vector_env(num_envs, conversations=conversations, memory=memory, **options)
        return Play(envs, _named_player(policy, envs))
    if policy not in POLICIES and _is_reactive(policy):
        return _reactive_play(policy, conversations, memory, num_envs, device, own, options)
    make = _text_player(policy, device, own)
    envs = make_vector_env(num_envs, conversations=conversations, memory="transcript" if memory is None else memory, **options)
    return Play(envs, make(envs))


def model_play(
    model: ReactiveTransformer,
    tokenizer: TextCodec,
    conversations: Sequence[Scenario],
    *,
    reward: RewardFunction,
    known: Sequence[Scenario] = (),
    memory: Any = None,
    **options: Any,
) -> Play:
    """A model that is to be evaluated, and its environment: as many rows as there are conversations, up to `EVALUATION_ROWS`.

    Args:
        model: Plays, and holds the conversation in its memory.
        tokenizer: Belongs to the model.
        conversations: Held-out conversations.
        reward: What scores the answers.
        known: Other conversations, which show the values that there are of each attribute.
        memory: Of a model that re-reads: None is the whole transcript; others as in `make_env`.
        options: As in `build_env`.
    """
    rows = min(EVALUATION_ROWS, len(conversations))
    if rereads(model.config):
        given = {"values": scenario_values([*known, *conversations]), "num_envs": rows, "max_answer_tokens": ANSWER_TOKENS, **options}
        return _rereading_play(model.eval(), tokenizer, conversations, memory, {"reward": reward, **given})
    values = scenario_values(known)
    envs: ConversationVectorEnv = build_env(
        conversations, memory=model.eval(), reward=reward, codec=tokenizer, known_values=values, num_envs=rows, **options
    )
    return Play(envs, ModelPolicy(model, envs.limits.said))


def is_language_model(name: str) -> bool:
    """Whether a name is that of a causal language model of Hugging Face, whose folders name the type of their model."""
    return name.startswith(HUB) or _is_hugging_face(Path(name))


def is_checkpoint(name: str) -> bool:
    """Whether a name is that of a Reactive Transformer: a folder, or `owner/name` on the Hub."""
    others = name in GAME_PLAYERS or name in POLICIES or is_language_model(name) or name.startswith(ADDRESSES)
    return not others and _is_reactive(name)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whatever is evaluated, by name.

    Attributes:
        name: As `make_play` takes it.
        memory: What holds the conversation, as `make_env` takes it; None is what the player needs.
        device: Where a player computes that is a model of its own.
        loaded: Model and tokenizer of a checkpoint; None for other players.
    """

    name: str
    memory: str | None = None
    device: torch.device | str = "cpu"
    loaded: tuple[ReactiveTransformer, Tokenizer] | None = None

    @classmethod
    def open(cls, name: str, memory: str | None = None, device: torch.device | str = "cpu") -> Subject:
        """Finds the player of a name, and reads it where it is a checkpoint.

        Raises:
            RxrlError: There is no such player, or it cannot be read.
        """
        if not is_checkpoint(name):
            if name not in GAME_PLAYERS and not is_language_model(name) and not name.startswith(ADDRESSES):
                POLICIES.find(name)
            return cls(name, memory, device)
        model, tokenizer = load_checkpoint(name)
        if not rereads(model.config):
            _check_own_memory(name, memory)
        return cls(name, memory, device, (model.to(device), tokenizer))

    def play(
        self, conversations: Sequence[Scenario], *, known: Sequence[Scenario] = (), embed: TokenEmbeddings | None = None, **options: Any
    ) -> Play:
        """The player and an environment of as many rows as there are conversations, up to `EVALUATION_ROWS`.

        Args:
            conversations: Held-out conversations and scenarios.
            known: Others, which show the values that there are of each attribute.
            embed: What a reward embeds answers with; it gets the model of a checkpoint.
            options: As in `make_play`.
        """
        if self.loaded is not None:
            if embed is not None:
                embed.model = self.loaded[0]
            return model_play(*self.loaded, conversations, known=known, memory=self.memory, **options)
        values, rows = scenario_values([*known, *conversations]), min(EVALUATION_ROWS, len(conversations))
        given: dict[str, Any] = {"max_query_tokens": LONGEST_QUERY, "values": values, "num_envs": rows, **options}
        return make_play(self.name, conversations, memory=self.memory, device=self.device, **given)

    @property
    def identity(self) -> dict[str, Any]:
        """What its answers depend on: its name, its memory, and the hashes of its files."""
        where, _, attribute = self.name.rpartition(":")
        code = Path(where) if attribute and where.endswith(".py") else Path(self.name)
        folder = checkpoint_folder(self.name) if self.loaded is not None else code
        files = [code] if code.is_file() else sorted(file for file in folder.glob("*") if file.suffix in MODEL_FILES)
        return {
            "name": self.name,
            "memory": self.memory,
            "files": {file.name: _hash_of(file, *_stamp(file)) for file in files if file.is_file()},
        }


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


@cache
def _hash_of(file: Path, changed: int, size: int) -> str:
    """The hash of a file, computed once for each of its versions: every part of an evaluation asks for it."""
    return hash_of(file)


class Play(NamedTuple):
    """An environment and the policy that plays it."""

    envs: ConversationVectorEnv
    policy: Policy


class GamePlayer(TextPolicy):
    """A player of a game as a policy: it reads the query, and the transcript where memory is one.

    Args:
        codec: That of the environment.
        player: `best` or `blind` of a game.
        level: Of the game.
    """

    def __init__(self, codec: TextCodec, player: Player, level: int) -> None:
        super().__init__(codec)
        self.player, self.level = player, level

    def answer(self, dialogues: Sequence[Dialogue], generators: Sequence[torch.Generator] | None) -> list[str]:
        """One answer for each dialogue; what it draws depends on the dialogue alone."""
        return [self.player(self.level, each.query, each.history, _draws_of(each)) for each in dialogues]


def _draws_of(dialogue: Dialogue) -> Draws:
    return Draws("player", dialogue.query, *(text for pair in dialogue.history for text in pair))


def _is_reactive(name: str) -> bool:
    """Whether a player's name is that of a Reactive Transformer; folders of Hugging Face models name their type."""
    folder = Path(name)
    return (folder.is_dir() or ("/" in name and ":" not in name)) and not _is_hugging_face(folder)


def _is_hugging_face(folder: Path) -> bool:
    try:
        return "model_type" in read_json(folder / CONFIG_FILE, OBJECT)
    except RxrlError:
        return False


def _reactive_play(
    name: str, conversations: Any, memory: Any, num_envs: int, device: torch.device | str, own: dict[str, Any], options: dict[str, Any]
) -> Play:
    _check_player_options(name, own, ("temperature",))
    model, tokenizer = load_checkpoint(name)
    model.to(device).eval()
    if rereads(model.config):
        return _rereading_play(model, tokenizer, conversations, memory, {"num_envs": num_envs, **options}, **own)
    _check_own_memory(name, memory)
    envs = make_vector_env(num_envs, conversations=conversations, memory=model, **{"tokenizer": tokenizer, **options})
    return Play(envs, ModelPolicy(model, envs.limits.said, **own))


def _rereading_play(
    model: ReactiveTransformer, tokenizer: TextCodec, conversations: Any, memory: Any, options: Mapping[str, Any], **own: Any
) -> Play:
    """A decoder alone, with the transcript or another memory in front of the query."""
    given = {"tokenizer": tokenizer, "memory": "transcript" if memory is None else memory, "max_answer_tokens": ANSWER_TOKENS, **options}
    envs = make_vector_env(conversations=conversations, **given)
    return Play(envs, RereadingPolicy(model, envs.limits.answer + 1, **own))


def _check_own_memory(name: str, memory: Any) -> None:
    if memory is not None and not (isinstance(memory, (str, Path)) and Path(memory).resolve() == Path(name).resolve()):
        raise ConfigError(f"The player {name} reads a Short-Term Memory of its own, not {memory!r}: leave the memory out.")


def _text_player(name: str, device: torch.device | str, own: dict[str, Any]) -> Callable[[ConversationVectorEnv], Policy]:
    """What makes a player that answers with text, once the environment is there."""
    if name.startswith(ADDRESSES):
        endpoint = ChatEndpoint(name, own.pop("model", None), os.environ.get(KEY_VARIABLE))
        return lambda envs: EndpointPolicy(endpoint, envs.codec, max_tokens=envs.limits.answer, **own)
    if is_language_model(name):
        _check_player_options(name, own, ("temperature", "system", "chat_template_kwargs"))
        source = name.removeprefix(HUB)
        return lambda envs: HuggingFacePolicy.load(source, envs.codec, device=device, max_new_tokens=envs.limits.answer, **own)
    POLICIES.find(name)  # refuses an unknown name before anything is made
    _check_player_options(name, own, ())
    return lambda envs: _named_player(name, envs)


def _named_player(name: str, envs: ConversationVectorEnv) -> Policy:
    """A player of the registry, called with the codec; the oracle looks at the environment itself, and the parrot needs nothing."""
    make = POLICIES.find(name)
    without = next((each for each in envs.conversations if not has_references(each)), None) if make is Oracle else None
    if without is not None:
        raise ConfigError(f"The oracle answers with references, and scenario {without.id!r} has none: choose another policy.")
    arguments = (envs,) if make is Oracle else () if make is Parrot else (envs.codec,)
    policy = called("policy", name, "the codec", make, *arguments)
    if not callable(getattr(policy, "act", None)):
        raise ConfigError(f"{name} must give a policy (it has `act(observation, memory, generators)`), but gave a {type(policy).__name__}.")
    found: Policy = policy
    return found


def _game_player(name: str, envs: ConversationVectorEnv) -> GamePlayer:
    games = {(type(each), each.level) for each in envs.conversations if isinstance(each, Game)}
    if len(games) != 1 or not all(isinstance(each, Game) for each in envs.conversations):
        raise ConfigError(f"The player {name!r} belongs to a scenario: give conversations='{SCENARIO}NAME', or choose another policy.")
    [(game, level)] = games
    return GamePlayer(envs.codec, game.best if name == "best" else game.blind, level)


def _check_player_options(name: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    for option in given:
        if option not in known:
            raise ConfigError(f"The player {name} takes no {option}: leave it out.")

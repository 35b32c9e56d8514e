"""From a name, a path or a mapping to a reward function.

- `"retention"`: a built-in reward, or one that an installed package registers
- `"package.module:function"`: anything that can be imported
- `"path/to/file.py:function"`: a function of a file
- `{"use": "classic", "decay": 0.3}`: one of these with options; `time_limit` (seconds for a batch) goes with any
- `{"retention": 0.8, "length": 0.2}`: a weighted sum by name
- `{"mine": {"use": "file.py:fn", "weight": 1}}`: the same with other functions and options
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from rxrl.errors import ConfigError, RewardError, sentence, unknown_name
from rxrl.reading import parse_yaml, read_yaml
from rxrl.registry import Registry, absolute, called
from rxrl.rewards.classic import Classic
from rxrl.rewards.embedding import HashedEmbedding
from rxrl.rewards.judge import Judge
from rxrl.rewards.limits import TimeLimited
from rxrl.rewards.outcome import Outcome
from rxrl.rewards.retention import Retention
from rxrl.rewards.similarity import Cosine, Semantic
from rxrl.rewards.simple import Bleu, Exact, Format, Length, Repetition, TokenF1
from rxrl.rewards.trl import FromTRL
from rxrl.rewards.weighted import Weighted
from rxrl.types import RewardFunction
from rxrl.validation import refusal

_logger = logging.getLogger(__name__)

BUILT_IN: Mapping[str, Callable[..., RewardFunction]] = {
    reward.name: reward
    for reward in (Retention, Outcome, Classic, Bleu, Cosine, Semantic, Exact, TokenF1, Length, Repetition, Format, Judge, FromTRL)
}
REWARDS = Registry("reward", "rewards", BUILT_IN)
"""Rewards by name: classes, functions or objects, before options are bound to them."""
RewardSpec = str | Mapping[str, Any] | Callable[..., Any]


def read_spec(text: str) -> RewardSpec:
    """Parses a reward from the command line: a YAML file (or its key `reward`), a mapping such as `{retention: 1, length: 0}`, or a name.

    Raises:
        ConfigError: The file is missing, or it or the mapping is no reward.
    """
    if not text.endswith((".yaml", ".yml")) and not text.lstrip().startswith("{"):
        return text
    given = (parse_yaml(text, f"The reward {text}") if text.lstrip().startswith("{") else read_yaml(text)).data
    spec = given["reward"] if isinstance(given, dict) and "reward" in given else given
    if not isinstance(spec, str | dict):
        raise ConfigError(f"{text} must hold a reward, a name or a mapping, got {type(spec).__name__}.")
    return spec


def load_reward(spec: RewardSpec, time_limit: float | None = None, **handed_in: Any) -> RewardFunction:
    """Makes the reward that `spec` describes.

    Args:
        spec: A name, `package.module:function`, `path/file.py:function`, a mapping (see the page's beginning) or a callable.
        time_limit: Most seconds for one batch of turns; None: no limit.
        handed_in: What the caller can supply, for example `embed` (rows of ids -> mean embeddings `[batch, dim]`;
            without it, `HashedEmbedding()` where a reward needs some) or `notify` (takes one sentence; without it, a warning in the
            log); each reward takes what it has a parameter for.

    Returns:
        A reward function.

    Raises:
        ConfigError: The name is unknown or cannot be imported, or an option or weight is wrong.
        RewardError: What is named is no function.
    """
    reward = _loaded(spec, {"notify": _notify, **handed_in})
    return reward if time_limit is None else TimeLimited(reward, time_limit)


def _notify(sentence: str) -> None:
    """What a reward says to the user where nobody else listens."""
    _logger.warning("%s", sentence)


def _loaded(spec: RewardSpec, handed_in: Mapping[str, Any]) -> RewardFunction:
    if isinstance(spec, str):
        return _made(spec, REWARDS.find(spec), {}, handed_in)
    if isinstance(spec, Mapping):
        return _from_mapping(spec, handed_in)
    if isinstance(spec, type):
        return _made(spec.__qualname__, spec, {}, handed_in)
    if callable(spec):
        usable = any(key == "embed" or key in handed_in for key in parameters(spec))
        return _made(getattr(spec, "__qualname__", repr(spec)), spec, {}, handed_in) if usable else spec
    raise ConfigError(f"A reward is a name, a mapping or a function, got {type(spec).__name__}; names: {', '.join(REWARDS.names())}.")


def _from_mapping(spec: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    if not spec:
        raise ConfigError(f"A mapping of rewards must not be empty; names: {', '.join(REWARDS.names())}.")
    if "use" in spec:
        return _with_options(spec, handed_in)
    terms: dict[str, tuple[float, RewardFunction]] = {}
    for name, entry in spec.items():
        if not isinstance(entry, Mapping):
            terms[name] = (entry, load_reward(name, **handed_in))
            continue
        options = dict(entry)
        weight = options.pop("weight", 1.0)
        terms[name] = (weight, _with_options({"use": name, **options}, handed_in))
    return Weighted(terms)


def _with_options(spec: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    options = dict(spec)
    use, time_limit = options.pop("use"), options.pop("time_limit", None)
    if isinstance(use, str):
        reward = _made(use, REWARDS.find(use), options, handed_in)
    elif isinstance(use, Mapping) and not options:
        reward = load_reward(use, **handed_in)
    elif callable(use):
        reward = _made(getattr(use, "__qualname__", repr(use)), use, options, handed_in)
    else:
        raise ConfigError(f"`use` is the name of a reward, got {use!r}; names: {', '.join(REWARDS.names())}.")
    return reward if time_limit is None else TimeLimited(reward, time_limit)


def _made(name: str, target: Any, options: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    """The reward function of a target: a class is made with options and what it can use, a function gets them bound."""
    if not callable(target):
        raise RewardError(f"Reward {name!r} must be a function or a class, but is {type(target).__name__}.")
    accepted = parameters(target)
    takes_any = None in accepted and isinstance(target, type)
    usable = {key: value for key, value in handed_in.items() if key in accepted or takes_any}
    # What needs embeddings can be tried without a model, as `classic` and `cosine` can.
    if "embed" in _required(target) and "embed" not in {**usable, **options}:
        usable["embed"] = HashedEmbedding()
    if isinstance(target, type):
        built = _built(name, target, {**usable, **options})
        return built if name in BUILT_IN or target.__module__ in ("__main__", "builtins") else _Named(name, built, options, usable)
    for option in options:
        if option not in accepted and None not in accepted:
            raise ConfigError(f"Reward {name!r}: {unknown_name('option', option, [key for key in list(accepted)[1:] if key])}")
    bound = {**usable, **options}
    if missing := [each for each in _required(target)[1:] if each not in bound]:
        raise ConfigError(f"Reward {name!r} needs the option {missing[0]!r}: {{use: {name}, {missing[0]}: ...}}.")
    return _Named(name, partial(target, **bound) if bound else target, options, usable)


def parameters(target: Any) -> dict[str | None, None]:
    """Names of the parameters that a reward's class or function accepts; None among them where it accepts any name."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return dict.fromkeys(target.model_fields)
    try:
        found = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = [each for each in found if each.kind is not each.VAR_POSITIONAL]
    return dict.fromkeys(None if each.kind is each.VAR_KEYWORD else each.name for each in named)


def _required(function: Any) -> list[str]:
    """Parameters without a default, the batch of turns among them; a decorator may supply those of what it wraps."""
    try:
        found = inspect.signature(function, follow_wrapped=False).parameters.values()
    except (TypeError, ValueError):
        return []
    return [each.name for each in found if each.default is each.empty and each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]


def _built(name: str, target: type[Any], options: Mapping[str, Any]) -> RewardFunction:
    takes = f"the options {', '.join(sorted(options))}" if options else "no options"
    try:
        built: RewardFunction = called("reward", name, takes, target, **options)
    except ConfigError as error:
        if isinstance(error.__cause__, ValidationError):
            raise ConfigError(_wrong_option(name, target, error.__cause__)) from None
        raise
    if not callable(built):
        raise RewardError(f"Reward {name!r} must be callable with a batch of turns; its class {target.__name__} has no __call__.")
    return built


def _wrong_option(name: str, target: type[Any], error: ValidationError) -> str:
    """What pydantic found wrong with the options of a reward, as one sentence."""
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "options"
    if first["type"] == "extra_forbidden":
        return f"Reward {name!r}: {unknown_name('option', where, [str(key) for key in parameters(target) if key])}"
    if first["type"] == "missing":
        return f"Reward {name!r} needs the option {where!r}: {{use: {name}, {where}: ...}}."
    return sentence(f"Reward {name!r}, option {where!r}: {refusal([first], target)}")


class _Named:
    """A plug-in under the name by which the user asked for it: errors name it so, and other processes load it anew."""

    def __init__(self, name: str, reward: Callable[..., Any], options: Mapping[str, Any], handed_in: Mapping[str, Any]) -> None:
        self.name, self.reward = name, reward
        self._options, self._handed_in = dict(options), dict(handed_in)

    def __call__(self, turns: Any) -> Any:
        return self.reward(turns)

    def __reduce__(self) -> tuple[Any, ...]:
        if ":" not in self.name and self.name not in REWARDS:
            return _Named, (self.name, self.reward, self._options, self._handed_in)
        return _again, (self.name, absolute(self.name), self._options, self._handed_in)

    def __repr__(self) -> str:
        return f"reward {self.name!r}"


def _again(name: str, found: str, options: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    return _made(name, REWARDS.find(found), options, handed_in)

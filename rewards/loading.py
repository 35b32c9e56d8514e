"""From a name, a path or a mapping to a reward function.

- `"retention"`: a built-in reward, or one that an installed package registers
- `"package.module:function"`: anything that can be imported
- `"path/to/file.py:function"`: a function of a file
- `{"use": "classic", "decay": 0.3}`: one of these with options
- `{"retention": 0.8, "length": 0.2}`: a weighted sum by name
- `{"mine": {"use": "file.py:fn", "weight": 1}}`: the same with other functions and options
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from rxrl.errors import ConfigError, RewardError, unknown_name
from rxrl.rewards.classic import Classic
from rxrl.rewards.retention import Retention
from rxrl.rewards.simple import Bleu, Exact, Length, Repetition, TokenF1
from rxrl.rewards.weighted import Weighted
from rxrl.types import RewardFunction

ENTRY_POINT_GROUP = "rxrl.rewards"
BUILT_IN: Mapping[str, Callable[..., RewardFunction]] = {
    reward.name: reward for reward in (Retention, Classic, Bleu, Exact, TokenF1, Length, Repetition)
}
RewardSpec = str | Mapping[str, Any] | Callable[..., Any]


def reward_names() -> list[str]:
    """Names that `load_reward` knows: the built-in ones and those of installed packages."""
    return sorted({*BUILT_IN, *(entry.name for entry in entry_points(group=ENTRY_POINT_GROUP))})


def load_reward(spec: RewardSpec, **handed_in: Any) -> RewardFunction:
    """Makes the reward that `spec` describes.

    Args:
        spec: A name, `package.module:function`, `path/file.py:function`, a mapping (see the page's beginning) or a callable.
        handed_in: What the surroundings can supply, for example `embed` (rows of ids -> mean embeddings
            `[batch, dim]`); each reward takes what it has a parameter for.

    Returns:
        A reward function.

    Raises:
        ConfigError: The name is unknown, or an option or weight is wrong.
        RewardError: A plug-in cannot be imported or is no function.
    """
    if isinstance(spec, str):
        return _made(spec, _resolved(spec), {}, handed_in)
    if isinstance(spec, Mapping):
        return _from_mapping(spec, handed_in)
    if isinstance(spec, type):
        return _made(spec.__qualname__, spec, {}, handed_in)
    if callable(spec):
        return spec
    raise ConfigError(f"A reward is a name, a mapping or a function, got {type(spec).__name__}; names: {', '.join(reward_names())}.")


def _from_mapping(spec: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    if not spec:
        raise ConfigError(f"A mapping of rewards must not be empty; names: {', '.join(reward_names())}.")
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
    use = options.pop("use")
    if isinstance(use, str):
        return _made(use, _resolved(use), options, handed_in)
    if isinstance(use, Mapping) and not options:
        return load_reward(use, **handed_in)
    if callable(use):
        return _made(getattr(use, "__qualname__", repr(use)), use, options, handed_in)
    raise ConfigError(f"`use` is the name of a reward, got {use!r}; names: {', '.join(reward_names())}.")


def _resolved(name: str) -> Any:
    """The built-in class, the registered object, or the imported function behind a name."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            return _guarded(name, entry.load)
    place, colon, attribute = name.rpartition(":")
    if not colon:
        own = "A function of your own is named 'package.module:function' or 'path/file.py:function'."
        raise ConfigError(f"{unknown_name('reward', name, reward_names())} {own}")
    module = _guarded(name, lambda: _file_module(place) if place.endswith(".py") else importlib.import_module(place))
    if not hasattr(module, attribute):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigError(f"{place!r} has no such reward. {unknown_name('function', attribute, functions)}")
    return getattr(module, attribute)


def _file_module(place: str) -> Any:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    name = f"rxrl_reward_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{place} is no Python file")
    module = importlib.util.module_from_spec(found)
    # Registered under its name so that its functions can be pickled and dataclasses in it work.
    sys.modules[name] = module
    found.loader.exec_module(module)
    return module


def _guarded(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:
        raise RewardError(f"Reward {name!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _made(name: str, target: Any, options: Mapping[str, Any], handed_in: Mapping[str, Any]) -> RewardFunction:
    """The reward function of a target: a class is made with options and what it can use, a function gets them bound."""
    if not callable(target):
        raise RewardError(f"Reward {name!r} must be a function or a class, but is {type(target).__name__}.")
    accepted = _parameters(target)
    if isinstance(target, type):
        usable = {key: value for key, value in handed_in.items() if key in accepted or None in accepted}
        return _built(name, target, {**usable, **options})
    usable = {key: value for key, value in handed_in.items() if key in accepted}
    for option in options:
        if option not in accepted and None not in accepted:
            raise ConfigError(f"Reward {name!r}: {unknown_name('option', option, [key for key in list(accepted)[1:] if key])}")
    bound = {**usable, **options}
    return _Bound(name, partial(target, **bound) if bound else target)


def _parameters(target: Any) -> dict[str | None, None]:
    """Names of the parameters that `target` accepts; None among them where it accepts any name."""
    if isinstance(target, type) and issubclass(target, BaseModel):
        return dict.fromkeys(target.model_fields)
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    named = [each for each in parameters if each.kind is not each.VAR_POSITIONAL]
    return dict.fromkeys(None if each.kind is each.VAR_KEYWORD else each.name for each in named)


def _built(name: str, target: type[Any], options: Mapping[str, Any]) -> RewardFunction:
    try:
        built: RewardFunction = target(**options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "options"
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"Reward {name!r}: {unknown_name('option', where, _described(target))}") from None
        raise ConfigError(f"Reward {name!r}, option {where!r}: {first['msg']} (got {first['input']!r}).") from None
    except TypeError as error:
        raise ConfigError(f"Reward {name!r} cannot be made with {sorted(options)}: {error}.") from error
    if not callable(built):
        raise RewardError(f"Reward {name!r} must be callable with a batch of turns; its class {target.__name__} has no __call__.")
    return built


def _described(target: type[Any]) -> list[str]:
    return [str(key) for key in _parameters(target) if key]


class _Bound:
    """A plug-in function under the name by which the user asked for it, so that errors name it."""

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function

    def __call__(self, turns: Any) -> Any:
        return self.function(turns)

    def __repr__(self) -> str:
        return f"reward {self.name!r}"

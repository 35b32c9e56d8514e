"""Live objects (a model, a backend) in environments that Gymnasium copies: they survive as themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

from gymnasium.envs.registration import EnvSpec

T = TypeVar("T")


class Live(Generic[T]):
    """A handle that deep copies share: the live object in it is never copied.

    Gymnasium deep-copies the keyword arguments of an environment into its spec and again when it makes it; a model
    must stay the one that is being trained.

    Attributes:
        value: The object.
    """

    __slots__ = ("value",)

    def __init__(self, value: T) -> None:
        self.value = value

    def __copy__(self) -> Live[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Live[T]:
        return self

    def __repr__(self) -> str:
        return f"Live({type(self.value).__name__})"


def unwrap(value: Any) -> Any:
    """Returns what a `Live` handle carries; any other value as it is."""
    return value.value if isinstance(value, Live) else value


class LiveSpec:
    """Gives an environment a `spec` that carries live arguments as handles, so that it can be copied and made again."""

    @property
    def spec(self) -> EnvSpec | None:
        """How the registry made this environment; None where it was made by hand."""
        return self.__dict__.get("_spec")

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self.__dict__["_spec"] = None if spec is None else _copyable(spec)


def _copyable(spec: EnvSpec) -> EnvSpec:
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

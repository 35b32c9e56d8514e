"""Configuration as data: pydantic models that refuse unknown keys, read from YAML with errors that name file and line.

Defaults of a nested block are those of its class: a block that a file or an override mentions is built from what is
given there and the class's own defaults.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from rxrl.errors import ConfigError, sentence, unknown_name
from rxrl.reading import YamlDocument, parse_yaml, read_yaml
from rxrl.reading.settings import plain_copy
from rxrl.secrets import redacted_data
from rxrl.validation import Location, known_keys, models_at, refusal, shown
from rxrl.writing import write_text


class BaseConfig(BaseModel):
    """Base of all configurations: unknown keys are errors, nothing is converted, values are frozen, descriptions are the help text."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: Any, info: ValidationInfo) -> Any:
        """A list for a tuple, since YAML and JSON have no other, and numbers of numpy as Python's."""
        if isinstance(value, list) and tuple in _origins(cls, str(info.field_name)):
            return tuple(value)
        return value.item() if isinstance(value, np.generic) else value

    def saved(self) -> dict[str, Any]:
        """Plain data for files, trackers and reports, and for telling two runs apart: keys and passwords in it are `***`."""
        plain: dict[str, Any] = redacted_data(self.model_dump(mode="json"))
        return plain


@cache
def _origins(model: type[BaseModel], field: str) -> frozenset[Any]:
    """What the declared type of a field is made of: `tuple` for `tuple[int, ...] | None`."""
    annotation = model.model_fields[field].annotation
    return frozenset(get_origin(each) for each in (annotation, *get_args(annotation)))


class WrongValueError(ValueError):
    """For validators that look at several fields: says which one is to blame, so that the message names its line.

    Args:
        message: The reason, one sentence.
        location: Keys and indices from the validated value to the wrong one, for example `"stages", 2, "steps"`.
    """

    def __init__(self, message: str, *location: str | int) -> None:
        super().__init__(message)
        self.location: Location = location


ModelT = TypeVar("ModelT", bound=BaseModel)


def load_config(path: str | Path | None, model: type[ModelT], overrides: Sequence[str] = ()) -> ModelT:
    """Reads a configuration from a YAML file and dotted overrides.

    Args:
        path: YAML file whose top level is a mapping; None starts from an empty one, so from the model's defaults.
        model: The pydantic model to build.
        overrides: Assignments such as `optimizer.learning_rate=1e-4` or `stages.0.steps=4`; values are read as YAML; later ones win.

    Returns:
        The validated configuration.

    Raises:
        ConfigError: The file is missing or not YAML, or a key or value is wrong; the message names file, line and reason.
    """
    document = _Document() if path is None else _read_document(Path(path))
    return _build(document, model, overrides)


def parse_config(data: Mapping[str, Any], model: type[ModelT], overrides: Sequence[str] = (), source: str = "configuration") -> ModelT:
    """Builds a configuration from a mapping, with the same errors as `load_config`; `source` stands for the file.

    Raises:
        ConfigError: A key or value is wrong.
    """
    return _build(_Document(plain_copy(data), source=source), model, overrides)


def dump_config(config: BaseConfig, path: str | Path | None = None) -> str:
    """Writes a configuration as YAML that `load_config` reads back to an equal one; keys and passwords in it become `***`.

    Args:
        config: The configuration.
        path: Where to write it as well; None writes nothing.

    Returns:
        The YAML text, keys in the order of the model's fields.
    """
    text: str = yaml.safe_dump(config.saved(), sort_keys=False, allow_unicode=True, width=120)
    if path is not None:
        write_text(path, text)
    return text


def field_help(model: type[BaseModel], dotted: str) -> str:
    """Description of a field, for `--help`; `dotted` may lead into nested configurations (`optimizer.learning_rate`).

    Raises:
        ConfigError: There is no such field.
    """
    *parents, name = dotted.split(".")
    for candidate in models_at(model, tuple(parents)):
        if name in candidate.model_fields:
            return candidate.model_fields[name].description or ""
    raise ConfigError(unknown_name("setting", dotted, known_keys(model, tuple(parents))))


@dataclass
class _Document:
    """Plain data with the means to say where in its source a value stands."""

    data: dict[str, Any] = field(default_factory=dict)
    source: str = "configuration"
    text: YamlDocument | None = None
    assigned: dict[Location, str] = field(default_factory=dict)

    def place(self, location: Location) -> str:
        """Names the place of a value: the override that set it, or file and line."""
        for length in range(len(location), 0, -1):
            if (override := self.assigned.get(location[:length])) is not None:
                return f"override {override!r}"
        return self.source if self.text is None else f"{self.source}, line {self.text.line(location)}"


def _read_document(path: Path) -> _Document:
    found = read_yaml(path)
    data = {} if found.data is None else found.data
    if not isinstance(data, dict):
        raise ConfigError(f"{path}, line 1: expected a mapping of settings (`key: value`), got {shown(data)}.")
    return _Document(data, str(path), found)


def _build(document: _Document, model: type[ModelT], overrides: Iterable[str]) -> ModelT:
    for override in overrides:
        document.assigned[_assign(document.data, override)] = override
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise ConfigError(_explain(document, model, error)) from None


def _assign(data: dict[str, Any], override: str) -> Location:
    """Sets one dotted override in `data` and returns its location."""
    dotted, equals, text = override.partition("=")
    names = [name.strip() for name in dotted.split(".")]
    if not equals or not all(names):
        raise ConfigError(f"Override {override!r}: expected `key=value` with a dotted key, such as `optimizer.learning_rate=1e-4`.")
    try:
        value = parse_yaml(text, "override").data
    except ConfigError:
        raise ConfigError(
            f"Override {shown(override)}: {shown(text)} is not a YAML value; put quotes around text with special characters."
        ) from None
    location: list[str | int] = []
    here: Any = data
    for position, name in enumerate(names):
        parent = ".".join(names[:position])
        key: str | int = name
        if isinstance(here, list):
            if not name.isdecimal() or int(name) >= len(here):
                raise ConfigError(f"Override {override!r}: {parent} is a list of {len(here)}; {name!r} is no index of it.")
            key = int(name)
        elif not isinstance(here, dict):
            raise ConfigError(f"Override {override!r}: {parent} is {shown(here)}, so it has no key {name!r}.")
        location.append(key)
        if position == len(names) - 1:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
            here = here[key]
    return tuple(location)


def _explain(document: _Document, model: type[BaseModel], error: ValidationError) -> str:
    """One sentence for the most telling of the errors: an unknown key often explains a missing one; the deepest is the most exact."""

    def where(each: ErrorDetails) -> Location:
        return _real(document.data, each["loc"] + getattr(each.get("ctx", {}).get("error"), "location", ()))

    errors = sorted(error.errors(include_url=False), key=lambda each: (each["type"] != "extra_forbidden", -len(where(each))))
    first = errors[0]
    location = where(first)
    same_place = [each for each in errors if where(each) == location and each["type"] not in {"missing", "extra_forbidden"}]
    unknown = first["type"] == "extra_forbidden"
    path = ".".join(str(part) for part in (location[:-1] if unknown else location))
    reason = refusal([first, *same_place], model)
    place = document.place(location)
    return sentence(
        ": ".join(part for part in (place[0].upper() + place[1:] if place.startswith("override") else place, path, reason) if part)
    )


def _real(data: Any, location: Location) -> Location:
    """The part of a pydantic location that exists in the data (it also names members of unions and missing keys)."""
    found: list[str | int] = []
    for part in location:
        if isinstance(data, dict):
            key = part if part in data else next((each for each in data if str(each) == str(part)), None)
            if key is None:
                continue
            data = data[key]
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        found.append(part)
    return tuple(found)

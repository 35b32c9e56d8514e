"""What pydantic refuses, in our words: sentences made of its structured errors, never of its English."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, TypeGuard, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from rxrl.errors import unknown_name

Location = tuple[str | int, ...]

SHOWN = 80
"""Most characters of a wrong value in a message."""

_EXPECTED: Mapping[str, str] = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float", "int_parsing_size"), "a valid integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a valid number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type", "mapping_type", "dataclass_type"), "a mapping"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"), "a list"),
    **dict.fromkeys(("string_type", "string_sub_type", "string_unicode"), "text"),
    **dict.fromkeys(("literal_error", "enum"), "{expected}"),
    "finite_number": "a finite number",
    "none_required": "null",
    "path_type": "a path",
    "callable_type": "a function",
    "is_instance_of": "an object of the class {class}",
    "is_subclass_of": "a subclass of {class}",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number greater than or equal to {ge}",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number less than or equal to {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "string_too_short": "text of at least {min_length} characters",
    "string_too_long": "text of at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
    "too_short": "at least {min_length}",
    "too_long": "at most {max_length}",
}
"""What each kind of error would have accepted; names in braces stand in the error's context."""


def is_whole(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, of Python or numpy; True and False are none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as messages quote it: cut where it is long."""
    text = "nothing (null)" if value is None else repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def expectation(error: ErrorDetails) -> str:
    """What would have been right in place of the value."""
    context = error.get("ctx", {})
    pattern = _EXPECTED.get(error["type"])
    if pattern is None:
        return f"a valid value ({error['type'].replace('_', ' ')})"
    text = pattern.format_map({name: f"{value:g}" if isinstance(value, float) else value for name, value in context.items()})
    if error["type"] in {"too_short", "too_long"}:
        text += " item" if text.endswith(" 1") else " items"
    return text


def refusal(errors: Iterable[ErrorDetails], model: type[Any]) -> str:
    """Why a value was refused, as a sentence without a full stop.

    Args:
        errors: What pydantic says of one value, at least one; several where it could have been of several types.
        model: What was validated: names the keys that are known.
    """
    found = list(errors)
    first = found[0]
    if first["type"] == "missing":
        return f"{str(first['loc'][-1])!r} is missing; it has no default, so give a value"
    if first["type"] == "extra_forbidden":
        return unknown_name("key", str(first["loc"][-1]), known_keys(model, first["loc"][:-1]))
    if first["type"] == "invalid_key":
        return f"keys are text; put quotes around {first['loc'][-1]}"
    if first["type"] in {"value_error", "assertion_error"}:
        return str(first.get("ctx", {}).get("error", first["type"]))
    expected = dict.fromkeys(expectation(each) for each in found if each["type"] not in {"value_error", "missing", "extra_forbidden"})
    return f"expected {' or '.join(expected)}, got {shown(first['input'])}"


def first_refusal(error: ValidationError, model: type[Any], whole: str = "its values") -> str:
    """Where the first wrong value stands and why it was refused, as a sentence without a full stop.

    Args:
        error: What pydantic raised.
        model: What was validated.
        whole: What to call the place where no single value is to blame.
    """
    errors = error.errors(include_url=False)
    location = errors[0]["loc"]
    where = location[:-1] if errors[0]["type"] in {"missing", "extra_forbidden"} else location
    same_place = [each for each in errors if each["loc"] == location]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).lstrip(".")
    return ": ".join(part for part in (place or (whole if where == location else ""), refusal(same_place, model)) if part)


def models_at(model: type[Any], location: Location) -> list[type[Any]]:
    """Models that may stand at a location; unions, lists and mappings on the way are looked through."""
    models = [model]
    for part in location:
        known = [getattr(each, "model_fields", {}) for each in models]
        annotations = [fields[part].annotation for fields in known if isinstance(part, str) and part in fields]
        if annotations:
            models = [inner for annotation in annotations for inner in _models_in(annotation)]
        elif named := [each for each in models if each.__name__ == part]:
            models = named
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is None and inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)


def known_keys(model: type[Any], location: Location) -> list[str]:
    """Keys that are known at a location."""
    return [name for each in models_at(model, location) for name in fields_of(each)]


def fields_of(model: type[Any]) -> Mapping[str, Any]:
    """Fields of a pydantic model or of a dataclass; none of another type."""
    found: Mapping[str, Any] = getattr(model, "model_fields", None) or getattr(model, "__dataclass_fields__", {})
    return found

"""Lets the reference show settings as readers set them: `name: type = default` with the field's description below."""

from __future__ import annotations

import ast
from importlib import import_module
from typing import Any

import griffe


class FieldDescriptions(griffe.Extension):
    """Takes default and description of a setting out of `Field(default, ..., description="...")`."""

    def on_attribute_instance(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Called for each attribute that griffe finds in the sources."""
        value = attr.value
        if not isinstance(value, griffe.ExprCall) or value.canonical_path.rpartition(".")[2] != "Field":
            return
        given = {each.name: each.value for each in value.arguments if isinstance(each, griffe.ExprKeyword)}
        default = next((each for each in value.arguments if not isinstance(each, griffe.ExprKeyword)), given.get("default_factory"))
        attr.value = None if str(default) == "..." else default
        if "description" in given:
            attr.docstring = griffe.Docstring(_description(attr, str(given["description"])), parent=attr)


def _description(attr: griffe.Attribute, source: str) -> str:
    try:
        return str(ast.literal_eval(source))
    except ValueError:  # an f-string: only the class itself knows what it says
        assert attr.parent is not None, f"{attr.path} is a field outside of a class"
        owner = getattr(import_module(attr.module.path), attr.parent.name)
        return str(owner.model_fields[attr.name].description)

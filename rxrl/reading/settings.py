"""YAML as settings are written in: words stay words, a key stands once, aliases and nesting are bounded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rxrl.errors import ConfigError
from rxrl.reading.guard import Refusal, reason_of
from rxrl.reading.plain import read_text

DEPTH = 50
"""Most levels of lists and mappings, aliases written out."""
NODES = 100_000
"""Most keys and values of a document, aliases written out."""
_BYTES = 4 << 20
_REFUSAL = Refusal(ConfigError, "give a UTF-8 text file")

Location = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """Plain data of a YAML text (None for an empty one), and where in it each part stands."""

    data: Any
    root: yaml.Node | None = None

    def line(self, location: Location) -> int:
        """Line (from 1) of the deepest part of `location` that the document holds."""
        if self.root is None:
            return 1
        node, line = self.root, self.root.start_mark.line
        for part in location:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if str(pair[0].value) == str(part)), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def read_yaml(path: str | Path) -> YamlDocument:
    """The document of a YAML file.

    Raises:
        ConfigError: The file is missing, or `parse_yaml` refuses what it holds.
    """
    missing = f"There is no file {str(path)!r}; give the path of an existing YAML file."
    text = read_text(path, Refusal(ConfigError, "give a YAML file", missing), what="a UTF-8 text file", most=_BYTES)
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> YamlDocument:
    """The document of a YAML text.

    Raises:
        ConfigError: It is not YAML, gives a key twice, is nested too deeply, or its aliases come to too much; the message names
            `source` and line.
    """
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        # What an alias repeats becomes a thing of its own, so that an override changes one place.
        return YamlDocument(None) if root is None else YamlDocument(plain_copy(loader.construct_document(root)), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ConfigError(f"{source}, line {mark.line + 1 if mark else 1}: not valid YAML: {error.problem or error.context}.") from None
    except Exception as error:  # a wrong value of a tagged scalar raises many kinds
        raise ConfigError(f"{source}: not valid YAML: {reason_of(error)}.") from None
    finally:
        if loader is not None:
            loader.dispose()


def plain_copy(value: Any) -> Any:
    """Deep copy of mappings and sequences as dicts and lists, so that overrides never reach into the caller's data.

    Numbers of numpy become those of Python.
    """
    if isinstance(value, Mapping):
        return {key: plain_copy(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain_copy(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value


class _Loader(yaml.SafeLoader):
    """YAML loader that refuses a key given twice, counts what it composes, reads `1e-4` as a number and `no` as a word."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._extents: dict[int, tuple[int, int]] = {}
        self._open = 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Composes a node and notes how many nodes and levels it comes to once all aliases are written out."""
        event = self.peek_event()  # type: ignore[no-untyped-call]
        mark = event.start_mark
        self._open += 1
        if self._open > DEPTH:
            raise _refused(f"it is nested in more than {DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        assert node is not None, "the end of a document is no node"
        self._open -= 1
        if not isinstance(event, yaml.AliasEvent):
            self._extents[id(node)] = self._extent(node, mark)
        elif id(node) not in self._extents:
            raise _refused("an alias stands within what it repeats; write it out", mark)
        return node

    def _extent(self, node: yaml.Node, mark: Any) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 0
        inner = [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        extents = [self._extents[id(each)] for each in inner]
        nodes, depth = 1 + sum(nodes for nodes, _ in extents), 1 + max((depth for _, depth in extents), default=0)
        if nodes > NODES:
            raise _refused(f"its aliases come to more than {NODES} values; write out what is needed", mark)
        if depth > DEPTH:
            raise _refused(f"its aliases are nested in more than {DEPTH} levels; write out what is needed", mark)
        return nodes, depth

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen and key.value != "<<":
                    raise _refused(f"key {key.value!r} is given twice; keep one of the two", key.start_mark)
                seen.add(key.value)
        return node


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


# As in YAML 1.2, `yes`, `no`, `on` and `off` are words.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))

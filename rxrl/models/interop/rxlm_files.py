"""Files of the published checkpoint layout: reading a folder into parts, and writing parts into a folder.

A part is the encoder, the decoder, the memory attention or the MLM head; a whole model holds the first three in one file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from rxrl.errors import CheckpointError
from rxrl.models.files import CONFIG_FILE, WEIGHTS_FILE, listed, refusal
from rxrl.models.interop.hub import local_folder
from rxrl.reading import OBJECT, json_value, read_json
from rxrl.reading.tensors import read_tensors
from rxrl.writing import write_bytes, write_text

PARTS = ("encoder", "decoder", "memory_attention", "mlm_head")
WHOLE = PARTS[:3]
"""Parts of a whole-model file, which has no place for the MLM head: it lies in a folder of its own, `mlm_head`, beside that file."""
PREFIX = "model."
_IGNORED = re.compile(r"(^|\.)rope\.(inv_freq|cache)$")
_MEMORY = "stm.memory"
_LAYOUT = "published checkpoint"


@dataclass(frozen=True, slots=True)
class PartFile:
    """One part as a file holds it.

    Attributes:
        kind: One of `PARTS`.
        path: The weights file, for messages.
        prefix: What stands before the part's keys in the file.
        config: Its configuration, as published.
        tensors: Its weights by key without the prefix; rotary caches and the memory left out.
        memory: The memory stored beside the weights, `[layers, batch, slots, dim]`, or None.
        marks: What `export_rxlm` noted in the file's metadata.
    """

    kind: str
    path: Path
    prefix: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    memory: Tensor | None = None
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RxlmFolder:
    """What one folder holds.

    Attributes:
        parts: By kind; one of them, or those of a whole model and perhaps its MLM head.
        shared: Configuration keys of a whole model that belong to no part.
        folder: Where it lies on this machine.
    """

    parts: dict[str, PartFile]
    shared: Mapping[str, Any]
    folder: Path


def read_folder(source: str | Path) -> RxlmFolder:
    """Reads a whole model or a separate part from a local folder or a Hub id.

    Raises:
        CheckpointError: It is not there, cannot be read, or is not in this layout.
    """
    folder = local_folder(source)
    config_file, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    config, (tensors, metadata) = read_json(config_file, OBJECT, refusal(config_file, _LAYOUT)), _read_weights(path)
    if not any(f"{part}_config" in config for part in WHOLE):
        part = _part(_kind_of(path, tensors), path, config, tensors, metadata)
        return RxlmFolder({part.kind: part}, {}, folder)
    named = {f"{part}.{PREFIX}": part for part in WHOLE}
    strangers = sorted(key for key in tensors if not key.startswith(tuple(named)))
    if strangers:
        raise CheckpointError(f"{path} should hold keys of {', '.join(named)} only, not {listed(strangers)}: use an intact file.")
    missing = [part for part in WHOLE if not isinstance(config.get(f"{part}_config"), dict)]
    if missing:
        raise CheckpointError(f"{config_file} has no {listed([f'{part}_config' for part in missing])}: use an intact file.")
    parts = {
        part: _part(part, path, config[f"{part}_config"], {k: t for k, t in tensors.items() if k.startswith(prefix)}, metadata, prefix)
        for prefix, part in named.items()
    }
    if (folder / "mlm_head" / WEIGHTS_FILE).exists():
        parts |= read_folder(folder / "mlm_head").parts
    shared = {key: value for key, value in config.items() if key not in {f"{part}_config" for part in WHOLE}}
    return RxlmFolder(parts, shared, folder)


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes configuration and weights; each file is whole or absent."""
    weights = save({key: value.contiguous() for key, value in tensors.items()}, dict(metadata))
    write_bytes(folder / WEIGHTS_FILE, _with_sorted_metadata(weights))
    write_text(folder / CONFIG_FILE, json.dumps(config, indent=2, sort_keys=True) + "\n")


def _with_sorted_metadata(weights: bytes) -> bytes:
    """The bytes of a safetensors file, with its metadata in the order of their names.

    safetensors writes them in an order that differs from process to process, so that two exports of one model would differ.
    """
    length = int.from_bytes(weights[:8], "little")
    header = json_value(weights[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
    if len(text) > length:
        raise AssertionError(f"a header in another order takes {len(text)} bytes, not {length}")
    return b"".join((weights[:8], text, memoryview(weights)[8 + length :]))


def _part(
    kind: str, path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], metadata: Mapping[str, str], prefix: str | None = None
) -> PartFile:
    if prefix is None:
        prefix = PREFIX if kind != "mlm_head" else ""
    inner = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    memory = inner.pop(_MEMORY, None)
    return PartFile(
        kind,
        path,
        prefix,
        config,
        {key: tensor for key, tensor in inner.items() if not _IGNORED.search(key)},
        memory,
        {key: value for key, value in metadata.items() if key.startswith("rxrl.")},
    )


def _kind_of(path: Path, tensors: Mapping[str, Tensor]) -> str:
    keys = {key.removeprefix(PREFIX) for key in tensors}
    if "dense.weight" in keys:
        return "mlm_head"
    if any(key.startswith("attention_layers.") for key in keys):
        return "memory_attention"
    if any(key.startswith("layers.") for key in keys):
        return "decoder" if keys & {"head.weight", "head.bias"} else "encoder"
    raise CheckpointError(f"{path} is no part of a published Reactive Transformer; its keys are {listed(sorted(keys)) or 'none'}.")


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata; tensors that the metadata lists as aliases of stored ones are followed."""
    tensors, metadata = read_tensors(file, refusal(file, _LAYOUT))
    for alias, stored_name in metadata.items():
        if stored_name in tensors:
            tensors.setdefault(alias, tensors[stored_name])
    return tensors, metadata

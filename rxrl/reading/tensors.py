"""Tensors: safetensors files, whose header is checked before any weight is read, and archives of torch."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from safetensors import safe_open
from torch import Tensor

from rxrl.reading.documents import json_value
from rxrl.reading.guard import Refusal, guarded

Shapes = Mapping[str, tuple[int, ...]]
_HEADER_BYTES = 32 << 20
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8, "BOOL": 8}
_Whole = Annotated[int, Field(ge=0, lt=1 << 48)]


class _Entry(BaseModel):
    """What the header says of a tensor."""

    model_config = ConfigDict(extra="forbid", strict=True)
    dtype: Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
    shape: Annotated[list[_Whole], Field(max_length=16)]
    data_offsets: Annotated[list[_Whole], Field(min_length=2, max_length=2)]


_ENTRIES = TypeAdapter(dict[str, _Entry])
_METADATA = TypeAdapter(dict[str, str])


def read_tensors(
    path: str | Path, refusal: Refusal | None = None, *, check: Callable[[Shapes], None] | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; the tensors do not depend on the file any more.

    Args:
        path: The file.
        refusal: How it is refused.
        check: Is handed the declared shapes by name before a tensor is read, to refuse what does not fit.

    Raises:
        RxrlError: The file is missing or broken, or holds another kind of number than weights and ids are.
    """
    refusal = refusal or Refusal()
    with guarded(path, "safetensors", refusal):
        shapes, metadata = _header(Path(path))
    if check is not None:
        check(shapes)
    with guarded(path, "safetensors", refusal), safe_open(path, framework="pt") as file:
        # Cloned, because they are views of the file: saving over it would pull them away.
        return {name: file.get_tensor(name).clone() for name in shapes}, metadata


def _header(path: Path) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_HEADER_BYTES, size - 8):
            raise ValueError(f"its header should be {length} bytes long, but the file has {size}")
        header: Any = json_value(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    metadata = _METADATA.validate_python(header.pop("__metadata__", None) or {}, strict=True)
    entries = _ENTRIES.validate_python(header)
    for name, entry in entries.items():
        begin, end = entry.data_offsets
        needed = math.prod(entry.shape) * _BITS[entry.dtype] // 8
        if end - begin != needed or end > size - 8 - length:
            raise ValueError(f"{name!r} of shape {entry.shape} needs {needed} bytes, but the file gives it {max(0, end - begin)}")
    return {name: tuple(entry.shape) for name, entry in entries.items()}, metadata


def read_archive(path: str | Path, refusal: Refusal | None = None) -> dict[str, Any]:
    """The mapping that `torch.save` wrote, of tensors and plain values; nothing in it is run.

    Raises:
        RxrlError: The file is missing or broken, is packed more tightly than `torch.save` does, or holds something else.
    """
    refusal = refusal or Refusal()
    with guarded(path, "an archive of tensors", refusal):
        size = Path(path).stat().st_size
        with zipfile.ZipFile(path) as archive:
            if sum(each.file_size for each in archive.infolist()) > size:
                raise ValueError("it unpacks to more than its own size")
        found: Any = torch.load(path, weights_only=True, map_location="cpu")
        if not isinstance(found, dict):
            raise ValueError(f"it holds {type(found).__name__}, not a mapping")
        return found

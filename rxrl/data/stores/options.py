"""How a source becomes a store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Options:
    """How a source becomes a store.

    Attributes:
        column: Column of the text, in rows of texts.
        keep_whitespace: Keep line ends and runs of spaces of texts; otherwise they become single spaces, as elsewhere in rxrl.
        skip_bad: Leave out rows and files that cannot be read, instead of ending at the first one.
    """

    column: str = "text"
    keep_whitespace: bool = False
    skip_bad: bool = False


class ArrayFiles:
    """Arrays that grow at their end, each in a file of its own.

    Args:
        files: Open files by name.
    """

    def __init__(self, files: Mapping[str, IO[bytes]]) -> None:
        self._files, self._digest = files, hashlib.sha256()

    def append(self, name: str, values: NDArray[Any]) -> None:
        """Writes values behind what is there."""
        content = values.tobytes()
        self._files[name].write(content)
        if name == "keys":
            self._digest.update(content)

    @property
    def content(self) -> str:
        """Hash of what has been written: of the keys, which stand for all texts."""
        return self._digest.hexdigest()

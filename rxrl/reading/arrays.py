"""Arrays of numbers in files of their own, mapped into memory as they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rxrl.reading.guard import Refusal, guarded


def mapped(path: Path, dtype: DTypeLike, shape: tuple[int, ...], refusal: Refusal | None = None) -> NDArray[Any]:
    """The numbers of a file, without a header, as a read-only array that is mapped into memory.

    Args:
        path: The file.
        dtype: Type of its numbers.
        shape: Shape that it must have.
        refusal: How it is refused.

    Raises:
        RxrlError: The file is missing or of another size.
    """
    refusal = refusal or Refusal()
    wanted = int(np.prod(shape)) * np.dtype(dtype).itemsize
    with guarded(path, "an array", refusal):
        if (size := path.stat().st_size) != wanted:
            raise ValueError(f"it should have {wanted} bytes, but has {size}")
        return np.memmap(path, dtype, "r", shape=shape) if wanted else np.zeros(shape, dtype)

"""Arrays of numbers in files of their own, mapped into memory as they are used."""

from __future__ import annotations

import mmap
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


def let_go(*arrays: NDArray[Any]) -> None:
    """Gives the memory of mapped arrays back to the system; what is read of them again comes from its cache of files.

    Without it, a process that reads a large file here and there holds more and more of it.
    """
    for array in arrays:
        owner: Any = array
        while owner is not None and not isinstance(owner, mmap.mmap):
            owner = getattr(owner, "base", None)
        if owner is not None and hasattr(mmap, "MADV_DONTNEED"):
            owner.madvise(mmap.MADV_DONTNEED)

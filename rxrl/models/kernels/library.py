"""The compiled library, found beside this module and called through ctypes."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.utils._python_dispatch import _get_current_dispatch_mode

from rxrl.errors import ModelError

InstructionSet = Literal["avx512", "avx2"]

_VERSION = 1
"""`VERSION` of kernels.h: that of what they are called with. A library of another one, built from older sources, is as good as none."""
_NUMBERS: dict[InstructionSet, int] = {"avx2": 1, "avx512": 2}


class Library:
    """The loaded library, which computes with one set of instructions at a time.

    Args:
        loaded: As ctypes loads it.
        instructions: The widest set that this CPU has.
    """

    def __init__(self, loaded: ctypes.CDLL, instructions: InstructionSet) -> None:
        self._loaded = loaded
        self.use(instructions)

    def use(self, instructions: InstructionSet) -> None:
        """Computes with these from now on, in the whole process."""
        self._loaded.rxrl_use_instruction_set(_NUMBERS[instructions])
        self.instructions = instructions

    def call(self, name: str, arguments: ctypes.Structure, threads: int) -> None:
        """Calls a kernel; a `MemoryError` where there was not enough for the threads' scratch."""
        if getattr(self._loaded, name)(ctypes.byref(arguments), threads):
            raise MemoryError(f"no memory left for the scratch of {name}")


@functools.cache
def library() -> Library | None:
    """The library, set to the widest instructions that this CPU has; None where there is none that it can run."""
    built = [path for suffix in EXTENSION_SUFFIXES if (path := Path(__file__).with_name("_kernels" + suffix)).is_file()]
    try:
        loaded = ctypes.CDLL(str(built[0]))
        version, widest = loaded.rxrl_version(), loaded.rxrl_instruction_set()
    except (IndexError, OSError, AttributeError):
        return None
    names = [name for name, number in _NUMBERS.items() if number == widest]
    return Library(loaded, names[0]) if version == _VERSION and names else None


def instruction_set() -> InstructionSet | None:
    """What the kernels compute with on this machine; None where they were not built or the CPU is of another kind."""
    found = library()
    return None if found is None else found.instructions


@contextmanager
def narrower(name: InstructionSet) -> Iterator[None]:
    """Computes with instructions that are not this CPU's widest ones; for tests.

    Raises:
        ModelError: They are wider than those that are used, or there are no kernels.
    """
    found = library()
    if found is None or _NUMBERS[name] > _NUMBERS[found.instructions]:
        raise ModelError(f"These kernels cannot compute with {name} here: they have {instruction_set() or 'not been built'}.")
    before = found.instructions
    found.use(name)
    try:
        yield
    finally:
        found.use(before)


def run(name: str, arguments: ctypes.Structure, threads: int | None = None) -> None:
    """Calls a kernel, with torch's number of threads if none is given.

    Raises:
        MemoryError: There was not enough for the threads' scratch.
    """
    found = library()
    assert found is not None, "kernels are only called where instruction_set() is not None"
    found.call(name, arguments, torch.get_num_threads() if threads is None else threads)


def fits(*tensors: Tensor) -> bool:
    """Whether kernels can read tensors where they are: plain float32 in a CPU's memory, with contiguous rows, that nobody traces."""
    return _get_current_dispatch_mode() is None and all(
        type(each) in (Tensor, Parameter) and each.dtype == torch.float32 and each.device.type == "cpu" and each.stride(-1) == 1
        for each in tensors
    )

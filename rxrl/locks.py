"""Locks on open files, which end with the process that holds them."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import weakref
from functools import partial
from pathlib import Path

from rxrl.reading import json_value


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process, without waiting; False where another one holds it.

    Where the file system has no locks, nobody is kept out.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EAGAIN, errno.EACCES)
    return True


class FileLock:
    """A file that one process at a time holds, and that names it; the system takes it from a process that ends, however it ends.

    Args:
        path: The file; its folder must exist. It is removed when the lock is given back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        # A child of a fork would otherwise keep the lock of a parent that is killed.
        os.register_at_fork(after_in_child=partial(_close, weakref.ref(self)))

    def take(self) -> str | None:
        """Takes the lock; where another process holds it, returns who: `process 1234 on host`.

        Raises:
            OSError: The file cannot be written.
        """
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not try_lock(descriptor):
                    return _holder(descriptor)
                # Whoever held it before may have removed the file meanwhile.
                if self.path.exists() and os.path.samestat(os.fstat(descriptor), self.path.stat()):
                    os.ftruncate(descriptor, 0)
                    os.write(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
                    self._descriptor, descriptor = descriptor, -1
                    return None
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def give_back(self) -> None:
        """Removes the file and gives the lock back, where this process holds it."""
        if self._descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def _holder(descriptor: int) -> str:
    try:
        noted = json_value(os.pread(descriptor, 4096, 0))
        pid, host = int(noted["pid"]), str(noted["host"])
    except (ValueError, KeyError, TypeError):
        return "another process"
    return "this process itself" if (pid, host) == (os.getpid(), socket.gethostname()) else f"process {pid} on {host}"


def _close(reference: weakref.ref[FileLock]) -> None:
    """In the child of a fork: lets go of the parent's lock, which the parent keeps."""
    lock = reference()
    if lock is not None and lock._descriptor is not None:
        os.close(lock._descriptor)
        lock._descriptor = None

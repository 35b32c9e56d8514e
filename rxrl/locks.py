"""Locks on open files, which end with the process that holds them."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import errno
    import fcntl

    _HELD = (errno.EAGAIN, errno.EACCES)


def try_lock(descriptor: int) -> bool:
    """Locks an open file for this process, without waiting; False where another one holds it.

    Where the system or the file system has no locks, nobody is kept out.
    """
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in _HELD
    return True

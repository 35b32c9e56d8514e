"""The one way in which rxrl writes files: whole or absent, on the disk, UTF-8, and a failure is one sentence.

A file or folder is written in or as a temporary folder beside its place (`.NAME.new`), flushed to the disk and renamed. The one that a
killed process leaves is unlocked, so the next writer of the same name takes it over, and `sweep` removes it.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from rxrl.errors import WriteError
from rxrl.locks import try_lock

NEW, OLD = "new", "old"
PATIENCE = 10.0
"""Seconds to wait for another writer of the same file."""
_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "choose a place that you may write to",
    errno.EPERM: "choose a place that you may write to",
    errno.EROFS: "choose a place that you may write to",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "a part of the path is a file; choose another path",
    errno.EEXIST: "a part of the path is a file; choose another path",
}


def write_bytes(path: str | Path, content: bytes, **words: str) -> Path:
    """Writes `content` to `path`, whole or not at all; folders are made.

    Args:
        path: The file; one that exists is replaced and keeps its permissions, a link stays a link.
        content: What it holds.
        words: For the message of a failure, see `failures_told`.

    Raises:
        WriteError: It could not be written; what stood there is untouched.
    """
    with replacing(path, **words) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def write_text(path: str | Path, text: str, **words: str) -> Path:
    """As `write_bytes`, in UTF-8; half of a surrogate pair, for which UTF-8 has no form, is escaped."""
    return write_bytes(path, text.encode(errors="backslashreplace"), **words)


def write_json(path: str | Path, content: Mapping[str, Any], exact: bool = False, **words: str) -> Path:
    """As `write_text`, as indented JSON; see `json_text`."""
    return write_text(path, json_text(content, indent=2, exact=exact) + "\n", **words)


def json_text(content: Any, indent: int | None = None, exact: bool = False) -> str:
    """`content` as JSON; what JSON does not know at all (dates, say) becomes text.

    Args:
        content: Plain values.
        indent: Spaces of each level; None writes one line.
        exact: Numbers that are not finite become objects such as `{"number": "NaN"}`, which `exact_numbers` turns back; otherwise null.
    """
    return json.dumps(_finite(content, exact), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def exact_numbers(value: Any) -> Any:
    """Plain values as they were before `json_text` wrote them with `exact`."""
    if isinstance(value, dict):
        return float(value["number"]) if value.keys() == {"number"} else {key: exact_numbers(item) for key, item in value.items()}
    return [exact_numbers(item) for item in value] if isinstance(value, list) else value


def append_line(path: str | Path, line: str, **words: str) -> None:
    """Appends one line to a file; where it does not fit, the file keeps its length.

    Raises:
        WriteError: It could not be written.
    """
    with failures_told(Path(path), **words), Path(path).open("ab", buffering=0) as file:
        size, rest = os.fstat(file.fileno()).st_size, (line + "\n").encode(errors="backslashreplace")
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError:
            with suppress(OSError):
                file.truncate(size)
            raise


def cut(path: str | Path, size: int, **words: str) -> None:
    """Shortens a file to `size` bytes; a shorter one stays as it is.

    Raises:
        WriteError: It could not be done.
    """
    with failures_told(Path(path), **words), Path(path).open("rb+") as file:
        if size < os.fstat(file.fileno()).st_size:
            file.truncate(size)
        os.fsync(file.fileno())


@contextmanager
def replacing(path: str | Path, **words: str) -> Iterator[Path]:
    """Yields a temporary path; the file that is written there takes its place at `path` at the end, or is removed.

    Raises:
        WriteError: It could not be written; what stood at `path` is untouched.
    """
    target = Path(os.path.realpath(path))
    with failures_told(Path(path), **words):
        if Path(path).exists() and not target.is_file() and not target.is_dir():
            # A pipe or a device, /dev/stdout say, has no place that could be taken.
            yield Path(path)
            return
        check_writable(path, folder=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        with _held(beside(target, NEW)) as folder:
            # In a folder of its own, because some writers put temporary files of theirs beside it.
            temporary = folder / target.name
            yield temporary
            # They may also have made a file that nobody else may read.
            temporary.chmod(stat.S_IMODE((target if target.exists() else folder).stat().st_mode) & (0o7777 if target.exists() else 0o666))
            flush(temporary)
            os.replace(temporary, target)
            _remove(folder)
        flush(target.parent)


@contextmanager
def replacing_folder(path: str | Path, **words: str) -> Iterator[Path]:
    """Yields an empty temporary folder beside `path`, which takes its place at the end, or is removed.

    A process that is killed while one folder makes room for the other leaves the old one under another name: see `bring_back`.

    Raises:
        WriteError: It could not be written; what stood at `path` is untouched.
    """
    target = Path(os.path.realpath(path))
    with failures_told(Path(path), **words):
        target.parent.mkdir(parents=True, exist_ok=True)
        bring_back(target)
        with _held(beside(target, NEW)) as temporary:
            yield temporary
            for file in temporary.rglob("*"):
                flush(file)
            flush(temporary)
            if target.exists():
                shutil.copymode(target, temporary)
                target.rename(beside(target, OLD))
            try:
                temporary.rename(target)
            except OSError:
                bring_back(target)
                raise
        flush(target.parent)
    shutil.rmtree(beside(target, OLD), ignore_errors=True)


def check_writable(path: str | Path, folder: bool) -> None:
    """Looks, without writing anything, whether a file or folder could be written at a place: before long work, not after it.

    Args:
        path: The place.
        folder: Whether it is to be a folder.

    Raises:
        WriteError: Something of the other kind is there, a part of the path is a file, or it is closed to this user.
    """
    target = Path(os.path.realpath(path))
    with failures_told(Path(path), kept="nothing has been done yet"):
        if target.exists() and target.is_dir() != folder and not (target.is_char_device() or target.is_fifo()):
            raise _refused(errno.ENOTDIR if folder else errno.EISDIR)
        if not target.is_dir() and target.exists() and not os.access(target, os.W_OK):
            raise _refused(errno.EACCES)
        nearest = next(each for each in (target if folder else target.parent, *target.parents) if each.exists())
        if not nearest.is_dir():
            raise _refused(errno.ENOTDIR)
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise _refused(errno.EACCES)


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@contextmanager
def failures_told(path: Path, kept: str = "what stood there is untouched", then: str = "") -> Iterator[None]:
    """Turns what the system says about a write into one sentence.

    Args:
        path: What was to be written.
        kept: What the failure has left as it was.
        then: What to do after the reason is removed, such as `, then go on with --resume`.

    Raises:
        WriteError: Something was refused inside.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch and safetensors report a full disk as an error of their own.
        number, words = getattr(error, "errno", None), getattr(error, "strerror", None)
        reason = words or next(iter(str(error).splitlines()), type(error).__name__)
        advice = _ADVICE.get(number or 0, "check the path and the room there, or choose another one")
        raise WriteError(f"{path} could not be written ({reason}); {kept}: {advice}{then}.") from error


def path_text(path: Path) -> str:
    """The path as UTF-8 has it, whatever encoding the locale gives to the names of files."""
    return os.fsencode(path).decode(errors="replace")


def move(path: Path, target: Path, **words: str) -> Path:
    """Gives a file or folder another name in the same file system.

    Raises:
        WriteError: It could not be done.
    """
    with failures_told(path, **words):
        path.rename(target)
        flush(target.parent)
    return target


def beside(path: Path, kind: str) -> Path:
    """The hidden name beside `path` that a replacement has while it is written (`new`), or the replaced one until it is removed (`old`)."""
    return path.with_name(f".{path.name}.{kind}")


def bring_back(path: Path) -> None:
    """Restores a folder that was set aside for a replacement that never came, because the process was killed in between."""
    old = beside(path, OLD)
    if old.exists() and not path.exists():
        old.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def sweep(folder: str | Path) -> None:
    """Removes what killed writes have left in a folder, and brings back what they had set aside; running ones are left alone."""
    for old in Path(folder).glob(f".*.{OLD}/"):
        bring_back(old.with_name(old.name[1 : -len(OLD) - 1]))
    for new in Path(folder).glob(f".*.{NEW}/"):
        descriptor = _opened(new)
        if descriptor is not None:
            _remove(new)
            os.close(descriptor)


@contextmanager
def _held(temporary: Path) -> Iterator[Path]:
    """An empty folder that is locked while something is written in it; removed where it is not renamed."""
    until = time.monotonic() + PATIENCE
    while (descriptor := _opened(temporary, make=True)) is None:
        if time.monotonic() > until:
            raise BlockingIOError(errno.EAGAIN, "another process is writing it")
        time.sleep(0.02)
    try:
        for left in temporary.iterdir():
            _remove(left)
        yield temporary
    except BaseException:
        _remove(temporary)
        raise
    finally:
        os.close(descriptor)


def _opened(path: Path, make: bool = False) -> int | None:
    """A descriptor of a temporary folder with the lock on it; None where there is none, or another process writes in it."""
    if make:
        path.mkdir(exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    # Whoever held the lock before may have renamed or removed the path meanwhile.
    with suppress(FileNotFoundError):
        if try_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    os.close(descriptor)
    return None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def flush(path: Path) -> int:
    """Makes sure that a file, or the names in a folder, are on the disk, where the file system has such a call; returns its bytes."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        size = os.fstat(descriptor).st_size
        os.close(descriptor)
    return size


def _finite(value: Any, exact: bool) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item, exact) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item, exact) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(value)} if exact else None
    return value

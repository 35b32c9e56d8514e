"""Objects of other packages and files by name: an entry point, `package.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from rxrl.errors import ConfigError, RxrlError, reason, unknown_name

_stamps: dict[str, tuple[int, int]] = {}
"""Time of change and size of the files behind the modules that were made of them, by the module's name."""


def load_object(place: str, kind: str) -> Any:
    """Imports what a name stands for.

    Args:
        place: `package.module:name` or `path/to/file.py:name`.
        kind: What it is meant to be, for messages.

    Raises:
        ConfigError: The name has another form, the module cannot be imported, or it has no such object.
    """
    where, colon, attribute = place.rpartition(":")
    if not colon or not where or not attribute:
        raise ConfigError(f"A {kind} of your own is named 'package.module:name' or 'path/file.py:name', got {place!r}.")
    try:
        module = load_file(where) if where.endswith(".py") else _load_module(where)
    # What exits while it is imported (a script without a guard) must not take rxrl with it.
    except (Exception, SystemExit) as error:
        raise ConfigError(f"The {kind} {place!r} cannot be loaded: {reason(error)}") from error
    if not hasattr(module, attribute):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"{where!r} has no such {kind}. {unknown_name('name', attribute, names)}")
    return getattr(module, attribute)


def load_file(place: str) -> ModuleType:
    """Imports a Python file under a name of its own, so that what it defines can be pickled.

    It is executed once, and again only after it was changed, so that what it defines is the same thing wherever it is named.
    The other modules of its folder can be imported at its top.

    Raises:
        OSError: There is no such file.
        ImportError: It is no Python file.
    """
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {place}")
    name = f"rxrl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{place} is no Python file")
    status, before = path.stat(), sys.modules.get(name)
    stamp = (status.st_mtime_ns, status.st_size)
    if before is not None and _stamps.get(name) == stamp:
        return before
    module = importlib.util.module_from_spec(found)
    # Registered under its name so that its functions can be pickled and dataclasses in it work.
    sys.modules[name], _stamps[name] = module, stamp
    try:
        with _importable(path.parent):
            found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name], _stamps[name]
        raise
    return module


def _load_module(name: str) -> ModuleType:
    """Imports a module by its name, in the working folder too: it is not on the path of the `rxrl` command."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
    with _importable(Path.cwd()):
        return importlib.import_module(name)


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets the modules of a folder be imported meanwhile, before others of the same name."""
    place = str(folder)
    sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # What was imported may have taken it out of the path already.
        with suppress(ValueError):
            sys.path.remove(place)


def installed(group: str) -> dict[str, list[EntryPoint]]:
    """Entry points that installed packages register in `group`, by name; several where packages register the same name."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return found


def package_of(entry: EntryPoint) -> str:
    """Name of the distribution that registers an entry point; the object's place where that is not known."""
    return entry.dist.name if entry.dist else entry.value


def resolve(kind: str, name: str, *, group: str | None = None, built_in: Mapping[str, Any] | None = None) -> Any:
    """The object behind a name: a built-in one, one that an installed package registers, or one of your own.

    Args:
        kind: What it is meant to be ("reward", "environment"), for messages.
        name: A built-in name, a name of the group, `package.module:name` or `path/file.py:name`.
        group: Entry-point group; None where packages register none of this kind.
        built_in: Objects by name; they win over those of packages.

    Raises:
        ConfigError: Nothing has that name, several packages have it, or what has it cannot be imported.
    """
    known, packages = built_in or {}, installed(group) if group else {}
    if name in known:
        return known[name]
    if name in packages:
        return _registered(kind, name, packages[name])
    if ":" not in name:
        own = "One of your own is named 'package.module:name' or 'path/file.py:name'."
        raise ConfigError(f"{unknown_name(kind, name, {*known, *packages})} {own}")
    return load_object(name, kind)


def _registered(kind: str, name: str, entries: Sequence[EntryPoint]) -> Any:
    """What the one package that registers a name has under it; with two, the order of installation would decide."""
    if len(entries) > 1:
        packages, places = (" and ".join(sorted(map(part, entries))) for part in (package_of, lambda entry: entry.value))
        raise ConfigError(
            f"The {kind} {name!r} is registered by several installed packages, {packages}: "
            f"uninstall all but one, or name the object itself, {places}."
        )
    try:
        return entries[0].load()
    except (Exception, SystemExit) as error:
        raise ConfigError(f"The {kind} {name!r} of an installed package cannot be loaded: {reason(error)}") from error


def called(kind: str, name: str, takes: str, target: Any, /, *arguments: Any, **options: Any) -> Any:
    """What a class or function of somebody else's makes of its arguments.

    Args:
        kind: What is to be made ("policy", "memory"), for messages.
        name: What the user called it.
        takes: What it is called with, in words ("the codec", "no arguments").
        target: The class or function.
        arguments: Handed to it.
        options: Handed to it by name.

    Raises:
        ConfigError: It cannot be called, or raises.
    """
    if not callable(target):
        raise ConfigError(f"The {kind} {name!r} must be a class or a function, but is {type(target).__name__}.")
    try:
        return target(*arguments, **options)
    except RxrlError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"The {kind} {name!r} cannot be made, called with {takes}: {reason(error)}") from error


def absolute(name: str) -> str:
    """The same name with the path of its file made absolute, so that it is found from any folder; other names as they are."""
    where, colon, attribute = name.rpartition(":")
    return f"{Path(where).expanduser().resolve()}:{attribute}" if colon and where.endswith(".py") else name

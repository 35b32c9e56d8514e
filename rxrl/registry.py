"""The one place that turns a name into an object: built in, of an installed package, `package.module:name` or `path/file.py:name`."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from rxrl.errors import ConfigError, RxrlError, reason, unknown_name
from rxrl.reading import hash_of_text

_STAMP = "__rxrl_stamp__"
"""Attribute of a module that was made of a file: when the file was last changed, and its size."""
_OWN = "One of your own is named 'package.module:name' or 'path/file.py:name'."


class Listed(NamedTuple):
    """A line of `rxrl list KIND`.

    Attributes:
        name: What it is called in commands and YAML.
        origin: "built in", or the packages that register it.
        summary: What it does, or why it cannot be used.
    """

    name: str
    origin: str
    summary: str


def first_paragraph(found: Any) -> str:
    """The first paragraph of an object's docstring, on one line."""
    return " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())


class Registry:
    """The names of one kind of thing.

    Args:
        kind: One word for messages, such as "reward".
        plural: What `rxrl list` calls them; packages register theirs in the entry-point group `rxrl.PLURAL`.
        built_in: Objects by name; a package cannot take one of these names over.
        check: Called with a name and what was found under it; returns what is handed out, raises `ConfigError` where it does not fit.
        describe: One line about what was found, for `rxrl list`.
        others: Sentence on other forms that a name may take, for the message about an unknown name.
    """

    def __init__(
        self,
        kind: str,
        plural: str,
        built_in: Mapping[str, Any],
        *,
        check: Callable[[str, Any], Any] = lambda name, found: found,
        describe: Callable[[Any], str] = first_paragraph,
        others: str = "",
    ) -> None:
        self.kind, self.plural, self.built_in = kind, plural, built_in
        self._check, self._describe, self._others = check, describe, others

    def packages(self) -> dict[str, list[EntryPoint]]:
        """Entry points by name; several where packages register the same name."""
        found: dict[str, list[EntryPoint]] = {}
        for entry in entry_points(group=f"rxrl.{self.plural}"):
            found.setdefault(entry.name, []).append(entry)
        return found

    def names(self) -> list[str]:
        """All names, those that packages register included."""
        return sorted({*self.built_in, *self.packages()})

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.packages()

    def find(self, name: str) -> Any:
        """Returns the object that a name stands for.

        Args:
            name: A built-in name, one that an installed package registers, `package.module:name` or `path/file.py:name`.

        Raises:
            ConfigError: Nothing has that name, several packages have it, or what has it cannot be loaded or is of another kind.
        """
        return self._check(name, self._load(name))

    def listing(self) -> list[Listed]:
        """Every name with its origin and one line; a thing that cannot be loaded says why and hides no other."""
        packages = self.packages()
        lines = [Listed(name, "built in", self._describe(found)) for name, found in self.built_in.items()]
        for name, entries in sorted(packages.items()):
            origin = ", ".join(sorted(map(_package, entries)))
            if name in self.built_in:
                lines.append(Listed(name, origin, f"Not used: {name!r} is the name of a built-in {self.kind}."))
            else:
                lines.append(Listed(name, origin, self._summary(name)))
        return lines

    def _summary(self, name: str) -> str:
        try:
            return self._describe(self.find(name))
        except ConfigError as error:
            return str(error)

    def _load(self, name: str) -> Any:
        if name in self.built_in:
            return self.built_in[name]
        if entries := self.packages().get(name):
            return self._registered(name, entries)
        if ":" in name:
            return load_object(name, self.kind)
        raise ConfigError(" ".join(part for part in (unknown_name(self.kind, name, self.names()), self._others, _OWN) if part))

    def _registered(self, name: str, entries: list[EntryPoint]) -> Any:
        """What the one package that registers a name has under it; with two, the order of installation would decide."""
        if len(entries) > 1:
            packages, places = (" and ".join(sorted(map(part, entries))) for part in (_package, lambda entry: entry.value))
            raise ConfigError(
                f"The {self.kind} {name!r} is registered by several installed packages, {packages}: "
                f"uninstall all but one, or name the object itself, {places}."
            )
        try:
            return entries[0].load()
        except (Exception, SystemExit) as error:
            raise ConfigError(f"The {self.kind} {name!r} of an installed package cannot be loaded: {reason(error)}") from error


def _package(entry: EntryPoint) -> str:
    """Name of the distribution that registers an entry point; the object's place where that is not known."""
    return entry.dist.name if entry.dist else entry.value


def load_object(place: str, kind: str) -> Any:
    """Imports the object that a name stands for.

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
    name = f"rxrl_plugin_{path.stem}_{hash_of_text(str(path))[:8]}"
    found = importlib.util.spec_from_file_location(name, path)
    if found is None or found.loader is None:
        raise ImportError(f"{place} is no Python file")
    status, before = path.stat(), sys.modules.get(name)
    stamp = (status.st_mtime_ns, status.st_size)
    if before is not None and getattr(before, _STAMP, None) == stamp:
        return before
    module = importlib.util.module_from_spec(found)
    setattr(module, _STAMP, stamp)
    # Registered under its name so that its functions can be pickled and dataclasses in it work.
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
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


def called(kind: str, name: str, takes: str, target: Any, /, *arguments: Any, **options: Any) -> Any:
    """Calls a user's class or function and returns the result.

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

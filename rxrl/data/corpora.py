"""Data by name: what `NAME`, `NAME:SPLIT` and `NAME:SUBSET:SPLIT` stand for, and which split a purpose takes.

A name is a file, a folder of files, a folder that `datasets` saved, or a data set on the Hub. Splits are never mixed: training takes
`train`, validation `validation` (else `test`), a test `test` (else `validation`); where that does not decide, the splits are named.
"""

from __future__ import annotations

import difflib
import logging
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from rxrl.data.tables import is_saved, load_splits
from rxrl.errors import DataError, reason
from rxrl.reading import arrow_rows, compression_of, csv_stream, json_value, parquet_rows, read_json_rows, read_text
from rxrl.writing import path_text

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")
ROW_ENDINGS = (*JSON_ENDINGS, ".parquet", ".arrow", ".csv")
ENDINGS = (*ROW_ENDINGS, ".txt")
READ = (
    "JSON (.jsonl, .ndjson, .json), Parquet (.parquet), Arrow (.arrow), CSV (.csv) and text (.txt); JSON, CSV and text also as .gz or .zst"
)
DOCUMENT_BORDER = "<|endoftext|>"

Purpose = Literal["train", "validation", "test", "any"]
Say = Callable[[str], None]
_PREFERRED: Mapping[Purpose, tuple[str, ...]] = {
    "train": ("train",),
    "validation": ("validation", "test"),
    "test": ("test", "validation"),
    "any": (),
}
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_CANONICAL = {word: split for split, words in _WORDS.items() for word in words}
_SHARD = re.compile(r"[-_.]\d+(-of-\d+)?$")
# Files that tools leave beside the data.
_NO_DATA = frozenset({"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_READERS: Mapping[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {".parquet": parquet_rows, ".arrow": arrow_rows, ".csv": csv_stream}
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it was found.

    Attributes:
        source: File or `name:split` that it comes from, as a command takes it.
        number: Its number there, from 1 (the line of a text file).
        content: Bytes of a JSON line, or a value.
        default_id: What the conversation is called where the row has no `id`.
    """

    source: str
    number: int
    content: Any
    default_id: str

    def value(self) -> Any:
        """The row as a value.

        Raises:
            ValueError: It is not JSON.
        """
        return json_value(self.content, halves=True) if isinstance(self.content, bytes) else self.content


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a split, or a data set as a whole.

    Attributes:
        name: As a message names it.
        rows: Opens it and yields its rows.
        file: The file; None where the rows come from `datasets`.
        version: What tells the rows of a data set from those of another version of it.
        size: Bytes of it, about; 0 where that is not known.
    """

    name: str
    rows: Callable[[], Iterator[Row]]
    file: Path | None = None
    version: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Split:
    """One split of a corpus, or all of one that has no splits.

    Attributes:
        name: As a command takes it: `data.jsonl`, `data:train`.
        shards: What it consists of, in order.
    """

    name: str
    shards: tuple[Shard, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        """Its files; none where the rows come from `datasets`."""
        return tuple(shard.file for shard in self.shards if shard.file is not None)

    @property
    def size(self) -> int:
        """Bytes of all shards, as they lie there."""
        return sum(shard.size for shard in self.shards)

    def rows(self) -> Iterator[Row]:
        """The rows of all shards, one after the other."""
        return (row for shard in self.shards for row in shard.rows())

    def holds_texts(self) -> bool:
        """Whether it holds plain texts: text files, or rows with `text` and no `interactions`."""
        if self.files and ending(self.files[0]) not in ROW_ENDINGS:
            return True
        try:
            first = next(self.rows(), None)
            row = None if first is None else first.value()
        except ValueError:
            return False
        return isinstance(row, Mapping) and "text" in row and row.get("interactions") is None

    def documents(self) -> Iterator[str]:
        """The texts, as they are.

        Raises:
            DataError: A row has no `text`.
        """
        for row in self.rows():
            try:
                found = row.value()
            except ValueError as error:
                raise DataError(f"{row.source}, row {row.number}: {error}.") from error
            if not isinstance(found, Mapping) or not isinstance(found.get("text"), str):
                raise DataError(f'{row.source}, row {row.number}: expected {{"text": "..."}}.')
            yield found["text"]


@dataclass(frozen=True, slots=True)
class Corpus:
    """The splits of a data set.

    Attributes:
        name: As it was given, without a split.
        splits: By name, in the order train, validation, test, others.
        asked: The split that was asked for.
    """

    name: str
    splits: Mapping[str, Split]
    asked: str | None = None

    def choose(self, purpose: Purpose, say: Say | None = None) -> Split:
        """The split for a purpose: the one that was asked for, else the only one, else the one that the purpose takes.

        Args:
            purpose: `any` takes no split where there are several.
            say: Is told in one sentence which one was taken, where there were several.

        Raises:
            DataError: There is no such split, or none was asked for and the purpose does not decide.
        """
        names = list(self.splits)
        if self.asked is not None:
            found = self._named(self.asked)
            if found is None:
                raise DataError(f"The data set {self.name!r} has no split {self.asked!r}; it has {', '.join(names)}.")
            return self.splits[found]
        if len(names) == 1:
            return self.splits[names[0]]
        chosen = next((name for name in _PREFERRED[purpose] if name in names), None)
        if chosen is None:
            example = shlex.quote(f"{self.name}:{names[0]}")
            raise DataError(f"{self.name} has the splits {', '.join(names)}: name the one that is meant, for example {example}.")
        rest = ", ".join(name for name in names if name != chosen)
        (say or _logger.info)(f"{self.splits[chosen].name} is used for {purpose}; {self.name} also has {rest}, which are left alone.")
        return self.splits[chosen]

    def other(self, *names: str) -> Split | None:
        """The first of the named splits that the corpus has beside the one asked for."""
        own = None if self.asked is None else self._named(self.asked)
        return next((self.splits[name] for name in names if name in self.splits and name != own), None)

    def _named(self, asked: str) -> str | None:
        return next((name for name in (asked, _CANONICAL.get(asked.lower(), asked)) if name in self.splits), None)


def open_corpus(source: str | Path, *, subset: str | None = None, split: str | None = None, stream: bool = False) -> Corpus:
    """Finds the data set that a name stands for, without reading its rows.

    Args:
        source: A file, a folder, or a name on the Hub; a split or `SUBSET:SPLIT` may follow behind a colon.
        subset: Configuration of a data set, for example `steps-4`.
        split: The split that is asked for, where `source` names none.
        stream: Read a data set of the Hub while it is used, instead of downloading it first.

    Raises:
        DataError: There is no such file, folder or data set, or it holds nothing that can be read.
    """
    name = str(source)
    if not Path(name).exists() and ":" in name:
        name, *parts = name.split(":")
        if len(parts) > 2 or not all((name, *parts)):
            raise DataError(f"{str(source)!r} is no name of a data set: expected NAME, NAME:SPLIT or NAME:SUBSET:SPLIT.")
        split = parts[-1]
        subset = parts[0] if len(parts) == 2 else subset
    path = Path(name)
    if path.is_dir() and (saved := _saved_folder(path, name, subset, split)) is not None:
        return saved
    if path.is_file():
        if split is not None:
            raise DataError(f"{name} is a file, so it has no split {split!r}: leave it out.")
        return Corpus(name, {"all": Split(name, (_shard(path, stem(path)),))})
    _check_on_hub(path, name)
    return _data_set(name, subset, split, stream)


def ending(path: Path) -> str:
    """Ending of a file in lower case, that of the compression left out."""
    return (path.with_suffix("") if compression_of(path) else path).suffix.lower()


def stem(path: Path) -> str:
    """Name of a file without its folder and endings."""
    return path_text(Path((path.with_suffix("") if compression_of(path) else path).stem))


def _saved_folder(path: Path, name: str, subset: str | None, split: str | None) -> Corpus | None:
    if subset is not None or is_saved(path):
        return _data_set(name, subset, split)
    files = sorted(file for file in path.rglob("*") if _is_data(file, path))
    if not files:
        raise DataError(f"{name} holds no data: expected files of {READ}.")
    found: dict[str, list[Path]] = {}
    for file in files:
        found.setdefault(split_of(file.relative_to(path)), []).append(file)
    order = [*(each for each in _WORDS if each in found), *(each for each in found if each not in _WORDS)]
    many = len(order) > 1
    return Corpus(name, {each: _files_split(f"{name}:{each}" if many else name, path, found[each]) for each in order}, split)


def split_of(file: Path) -> str:
    """The split that a file of a folder belongs to by its name or that of a folder on the way; `train` where none says so.

    `train.jsonl`, `test/0.parquet`, `mine.dev.json`, `validation-00000-of-00002.parquet` and `train_v2.jsonl` name their split.
    """
    for part in reversed(file.parts[:-1]):
        if part.lower() in _CANONICAL:
            return _CANONICAL[part.lower()]
    words = re.split(r"[-_.]", _SHARD.sub("", stem(file).lower()))
    # A story may be called "test of courage", a table hardly.
    ends = (words[-1], words[0]) if ending(file) in ROW_ENDINGS else (words[-1],)
    return next((_CANONICAL[word] for word in ends if word in _CANONICAL), "train")


def _files_split(name: str, folder: Path, files: list[Path]) -> Split:
    return Split(name, tuple(_shard(file, (file.relative_to(folder).parent / stem(file)).as_posix()) for file in files))


def _shard(file: Path, called: str) -> Shard:
    return Shard(str(file), partial(_rows_of_file, file, called), file, size=file.stat().st_size)


def _is_data(file: Path, folder: Path) -> bool:
    parts = file.relative_to(folder).parts
    hidden = any(part.startswith((".", "_")) for part in parts)
    return not hidden and ending(file) in ENDINGS and file.name not in _NO_DATA and file.is_file()


def _rows_of_file(file: Path, called: str) -> Iterator[Row]:
    kind = ending(file)
    if kind not in ROW_ENDINGS:
        documents: str = read_text(file)
        rows: Iterator[tuple[int, Any]] = enumerate(({"text": text} for text in documents.split(DOCUMENT_BORDER)), start=1)
    else:
        rows = _READERS[kind](file) if kind in _READERS else read_json_rows(file)
    for number, content in rows:
        yield Row(str(file), number, content, f"{called}-{number}")


def _check_on_hub(path: Path, name: str) -> None:
    """Refuses what cannot be the name of a data set, or stands beside local files that are rather meant."""
    known = ending(path) in ENDINGS or compression_of(path) is not None
    beside = path.parent if path.parent.is_dir() else Path()
    siblings = [each.name for each in beside.iterdir()] if path.parent.is_dir() else []
    alike = [each for each in siblings if stem(Path(each)) == path.name and ending(Path(each)) in ENDINGS]
    alike += difflib.get_close_matches(path.name, siblings, n=1, cutoff=0.75)
    local = len(path.parts) > 1 and Path(path.parts[0]).exists()
    if known or alike or local or not _HUB_NAME.fullmatch(name):
        guess = f" Did you mean {shlex.quote(str(path.with_name(alike[0])))}?" if alike else ""
        raise DataError(f"There is no file {name}: check the path.{guess}")


def _data_set(name: str, subset: str | None, split: str | None, stream: bool = False) -> Corpus:
    label = f"{name}:{subset}" if subset else name
    try:
        loaded = load_splits(name, subset, stream)
    except Exception as error:  # the library raises many kinds, down to its HTTP client's
        words = reason(error)
        raise DataError(f"{name!r} is neither a file nor a data set that can be loaded ({words[:300].rstrip('.')}).") from error
    order = [*(each for each in _WORDS if each in loaded), *(each for each in loaded if each not in _WORDS)]
    many = len(order) > 1
    splits = {}
    for each in order:
        called = f"{label}:{each}" if many or subset else label
        rows = partial(_rows_of_data_set, loaded[each], called, f"{name}:{each}")
        version = str(getattr(loaded[each], "_fingerprint", ""))
        splits[each] = Split(called, (Shard(called, rows, version=version, size=_bytes_of(loaded[each])),))
    return Corpus(label, splits, split)


def _bytes_of(rows: Any) -> int:
    """Bytes of a table of `datasets`; 0 where its rows come as they are used."""
    return int(getattr(getattr(rows, "data", None), "nbytes", 0))


def _rows_of_data_set(rows: Any, source: str, called: str) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(rows, start=1):
            yield Row(source, number, row, f"{called}-{number}")
    except Exception as error:
        raise DataError(f"{source} cannot be read after row {number} ({reason(error).rstrip('.')}): load it anew.") from error

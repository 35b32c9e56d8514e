"""From whatever a parser raises to one sentence: what could not be read, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rxrl.errors import DataError, RxrlError
from rxrl.validation import first_refusal


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a file that cannot be read is refused.

    Attributes:
        error: Kind of the error.
        advice: What to do, the end of the sentence.
        missing: The whole sentence where there is no such file; None: "There is no file ...".
        expected: What the file should hold, as a noun: "a turn record".
    """

    error: type[RxrlError] = DataError
    advice: str = "check the file"
    missing: str | None = None
    expected: str = "what it should be"

    def absent(self, path: str | Path) -> RxrlError:
        """The error for a file that is not there."""
        return self.error(self.missing or f"There is no file {path}: check the path.")

    def unreadable(self, source: str | Path, what: str, reason: str) -> RxrlError:
        """The error for a file that is not `what` (JSON, UTF-8 text, ...)."""
        return self.error(f"{source} cannot be read as {what} ({reason}): {self.advice}.")

    def unexpected(self, source: str | Path, reason: str) -> RxrlError:
        """The error for a file whose format is right and whose content is not."""
        return self.error(f"{source} is not {self.expected}: {reason}; {self.advice}.")


@contextmanager
def guarded(source: str | Path, what: str, refusal: Refusal, schema: type[Any] = object) -> Iterator[None]:
    """Turns every failure of a parser inside into the error of `refusal`, those of memory and of nesting included.

    Args:
        source: What is read.
        what: What it should be: JSON, UTF-8 text.
        refusal: How it is refused.
        schema: What is validated inside, to name the keys that it knows.
    """
    try:
        yield
    except RxrlError:
        raise
    except (FileNotFoundError, NotADirectoryError):
        raise refusal.absent(source) from None
    except ValidationError as error:
        raise refusal.unexpected(source, first_refusal(error, schema)) from None
    except UnicodeDecodeError as error:
        raise refusal.error(f"{source} is not UTF-8 text ({error.reason} at byte {error.start}): {refusal.advice}.") from None
    except Exception as error:
        raise refusal.unreadable(source, what, reason_of(error)) from None
    except BaseException as error:
        # Libraries in Rust end with a panic where they meet what their author took to be impossible.
        if type(error).__name__ != "PanicException":
            raise
        raise refusal.unreadable(source, what, reason_of(error)) from None


def reason_of(error: BaseException) -> str:
    """Why something could not be read, in a few words on one line."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason} at byte {error.start}"
    if isinstance(error, UnicodeEncodeError):
        return "it holds half of a surrogate pair, which is no character"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return (words if len(words) <= 240 else words[:237] + "...").rstrip(".") or type(error).__name__

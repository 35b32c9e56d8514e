"""One small tree of errors. Every message says what was expected, what came, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from rxrl.secrets import redacted

LONGEST = 1200
"""Most characters of a message: what it quotes from a file may be as long as the file."""


class RxrlError(Exception):
    """Base of all errors that a user can cause; the command line prints it as one sentence, without a traceback.

    Its message never holds a key or password that rxrl knows of, whoever wrote the text, and is cut in the middle where it is too long.
    """

    def __init__(self, *message: object) -> None:
        super().__init__(*(_bounded(redacted(each)) if isinstance(each, str) else each for each in message))


def _bounded(text: str) -> str:
    # Its beginning names the file, its end says what to do.
    return text if len(text) <= LONGEST else f"{text[: LONGEST * 2 // 3]} [...] {text[-LONGEST // 4 :]}"


class ConfigError(RxrlError):
    """A configuration, curriculum or command-line value is wrong."""


class DataError(RxrlError):
    """A data file or a row of it is wrong; the message names file and row."""


class CheckpointError(RxrlError):
    """A checkpoint is missing, incomplete or does not fit."""


class WriteError(RxrlError):
    """A file or folder cannot be written; the message names it, the reason and what to do."""


class RunInUse(RxrlError):
    """The folder of a run is held by another process, which the message names."""


class ModelError(RxrlError):
    """A model configuration or an input to the model makes no sense."""


class PolicyError(RxrlError):
    """A policy cannot answer (for example because its logits are not finite)."""


class EpisodeError(RxrlError):
    """The environment was used against its contract (for example stepped before it was reset)."""


class PlayError(RxrlError):
    """Somebody else's code failed while conversations were played.

    Attributes:
        turns: The turns so far, so that nothing that was said is lost.
    """

    turns: Sequence[Any] = ()


class RewardError(PlayError):
    """A reward function failed or returned something that is not a score; the message names the function."""


class ScenarioError(PlayError):
    """A scenario failed, or broke its contract; the message names scenario, turn and reason."""


class EndpointError(RxrlError):
    """A chat endpoint cannot be reached, refuses, or returns something that is no answer."""


class TrainingError(RxrlError):
    """Training cannot continue (for example because a loss is not finite)."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the training after a checkpoint was written.

    Args:
        message: What was saved and how to continue.
        number: Number of the signal.
    """

    def __init__(self, message: str, number: int = 2) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class MissingExtraError(RxrlError):
    """An optional dependency is asked for, but not installed."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs an optional dependency: install it with `pip install 'rxrl[{extra}]'`.")


def sentence(text: str) -> str:
    """The text with a full stop, where it does not end as a sentence."""
    return text if text.endswith((".", "?", "!")) else f"{text}."


def reason(error: BaseException) -> str:
    """Class and words of an exception that somebody else's code has raised, as one sentence on one line."""
    text = " ".join(str(error).split())
    return sentence(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def some_of(names: Sequence[str], most: int = 5) -> str:
    """Names in a row; of many, the first ones and how many more there are."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """Message for a name that does not exist: lists the known ones and guesses the one that was meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    guess = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {kind} {name!r}; known: {', '.join(names) or 'none'}.{guess}"

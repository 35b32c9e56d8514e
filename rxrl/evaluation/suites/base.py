"""What a suite is: conversations in groups, each scored by itself, and what is known of other systems."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rxrl.data.rows import LengthLimit
from rxrl.errors import ConfigError, DataError, unknown_name
from rxrl.evaluation.play import SWAPPED
from rxrl.types import Scenario

WORDS = LengthLimit(60)
"""Longest interaction of players that have no limit of their own."""


@dataclass(frozen=True, slots=True)
class Group:
    """Conversations that give one score.

    Attributes:
        name: Name in tables.
        scenarios: What is played; a scenario may belong to several groups.
        kind: Only questions of this kind count; None: all of them.
        note: What a reader has to know, such as what was left out.
    """

    name: str
    scenarios: tuple[Scenario, ...]
    kind: str | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Published:
    """A score that others have published.

    Attributes:
        system: What was measured.
        score: As published, with its unit.
        source: Where.
        matches: Whether the protocol is that of this suite, so that the numbers can be compared.
        note: What differs.
    """

    system: str
    score: str
    source: str
    matches: bool
    note: str


@dataclass(frozen=True, slots=True)
class Setting:
    """What a suite is made of.

    Attributes:
        data: File or folder of its data; None where none was given.
        count: Conversations of each group at most; None: as many as the suite takes by default.
        seed: Keys every draw.
        limit: Longest interaction that the player reads.
        options: Options of the suite by name.
    """

    data: Path | None = None
    count: int | None = None
    seed: int = 0
    limit: LengthLimit = WORDS
    options: Mapping[str, Any] = field(default_factory=dict)


class Suite(ABC):
    """A benchmark with a name.

    Attributes:
        name: Name in commands.
        measures: What the score is.
        published: Scores of known systems.
        unpublished: Why there are none, in one sentence.
        where: How to get the data; empty where the suite generates them.
        count: Conversations of each group by default.
        answer_tokens: Longest answer that it needs, in tokens.
        attributes: Whether the attributes of its facts tell kinds of questions apart; elsewhere a group asks questions of one kind.
        controls: Controls of an evaluation that are played; the oracle is always.
        options: Options with their defaults.
    """

    name: ClassVar[str]
    measures: ClassVar[str] = "share of questions answered exactly right"
    published: ClassVar[tuple[Published, ...]] = ()
    unpublished: ClassVar[str] = ""
    where: ClassVar[str] = ""
    count: ClassVar[int] = 100
    answer_tokens: ClassVar[int] = 0
    attributes: ClassVar[bool] = True
    controls: ClassVar[tuple[str, ...]] = (SWAPPED,)
    options: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def groups(self, setting: Setting) -> Sequence[Group]:
        """The groups that are played.

        Raises:
            RxrlError: The data are missing or wrong.
        """

    def chosen(self, setting: Setting) -> dict[str, Any]:
        """Options, with defaults.

        Raises:
            ConfigError: One is unknown or has another type than its default, or data were given that nobody reads.
        """
        if setting.data is not None and not self.where:
            raise ConfigError(f"The suite {self.name} generates its conversations: leave --data out.")
        for name, value in setting.options.items():
            if name not in self.options:
                raise ConfigError(unknown_name(f"option of the suite {self.name}", name, self.options))
            default = self.options[name]
            if default is not None and not isinstance(value, type(default)):
                raise ConfigError(f"The option {name} of the suite {self.name} is like {default!r}, got {value!r}.")
        return {**self.options, **setting.options}

    def source(self, setting: Setting) -> Path:
        """Where its data are.

        Raises:
            DataError: None were given, or nothing is there.
        """
        if setting.data is None:
            raise DataError(f"The suite {self.name} needs data, --data PATH: {self.where}")
        if not setting.data.exists():
            raise DataError(f"There is nothing at {setting.data}. The suite {self.name} needs data: {self.where}")
        return setting.data

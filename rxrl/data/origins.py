"""Where the data of a run come from, with a hash that tells them from other data: what its report says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from rxrl.data.corpora import Shard, Split
from rxrl.data.sources import ConversationSource
from rxrl.reading import hash_of, hash_of_text
from rxrl.terminal import as_named
from rxrl.types import Conversation, Scenario

FIRST, STEPS = 16, 4
"""Conversations that stand for an endless source, and their turns."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Data of one part of a run.

    Attributes:
        use: `training`, `validation` or `test`.
        name: Files by name, `world` or `scenario:NAME`.
        sha256: Hash, in hexadecimal digits. That of a single file is what `sha256sum` prints. None: the settings say it all.
        hashed: What it is the hash of.
        settings: What else decides which data these are: level, split, seed and version of what is generated.
    """

    use: str
    name: str
    sha256: str | None
    hashed: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_split(cls, use: str, split: Split) -> Origin:
        """The origin of data from files, or from a data set on the Hub."""
        hashes = [_shard_hash(each) for each in split.shards]
        whole = hashes[0] if len(hashes) == 1 else hash_of_text("\n".join(hashes))
        files = len(split.files)
        return cls(use, split.name, whole, f"{files} file{'s' * (files > 1)}" if files else "the version of the data set")

    @classmethod
    def of_generated(cls, name: str, *, level: int, split: str, seed: int, source: ConversationSource | None = None) -> Origin:
        """The origin of a split that is made as it is needed; scenarios have no `source`, because their users may be asked outside."""
        settings = {"level": level, "split": split, "seed": seed, "rxrl": version("rxrl")}
        use = {"train": "training"}.get(split, split)
        if source is None:
            return cls(use, name, None, "", settings)
        return cls(
            use,
            name,
            hash_of_conversations(source.take(steps=STEPS, strategy="multi-step", start=0, count=FIRST)),
            f"the first {FIRST} conversations of {STEPS} turns",
            settings,
        )

    @classmethod
    def of_played(cls, name: str, played: Sequence[Scenario]) -> Origin:
        """The origin of what an evaluation plays."""
        return cls("evaluation", name, hash_of_conversations(played), f"{len(played):,} conversations, as they are played")

    def saved(self) -> dict[str, Any]:
        """Plain values, for report.json."""
        return asdict(self) | {"name": as_named(self.name)}


def _shard_hash(shard: Shard) -> str:
    return hash_of_text(f"{shard.name} {shard.version}") if shard.file is None else hash_of(shard.file)


def hash_of_conversations(conversations: Sequence[Scenario]) -> str:
    """What tells one choice of conversations from another: what is said, and what is asked for."""
    return hash_of_text(*(f"{each.id}\n{each.steps}\n{_said(each)}\n" for each in conversations))


def _said(scenario: Scenario) -> str:
    return repr((scenario.first, scenario.follow_ups)) if isinstance(scenario, Conversation) else ""

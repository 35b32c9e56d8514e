"""A fifth of the references is wrong, rewards are right: MRL beside SMAT continued for the same tokens.

Both go on from one supervised checkpoint that was trained on right references. A wrong one names another value of the attribute that
is asked for: that of somebody else in the conversation, if there is one. Two kinds: any question may have it (`at random`), or all
questions for some facts of some people do (`by fact`), as when whoever wrote them down misunderstood.
`python scripts/results.py wrong-references` runs what is missing, and prints the table.
"""

import copy
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rxrl.config import load_config
from rxrl.data.sources import ConversationSource
from rxrl.data.splits import open_sources
from rxrl.evaluation.metrics import compare
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.factory import load_checkpoint
from rxrl.lexicon import VALUES
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig
from rxrl.seeding import Draws
from rxrl.types import Conversation, Interaction
from rxrl.writing import write_text

KINDS = ("by fact", "at random")
SHARE = 0.2
DEFAULT = "MRL, as by default"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    # The rate is the one that was chosen on the main job for a reward of weight 1.
    "MRL, reward": {"signals": {"reward": 1}, "small_talk": {"share": 0}, "optimizer": {"learning_rate": 0.0015}},
}
"""What MRL has other than the main job."""
START, SMAT = "start", "SMAT continued"


@dataclass(frozen=True)
class WrongReferences:
    """Conversations of another source, some of whose reference answers name a wrong value.

    Attributes:
        source: Where they come from.
        kind: Which references are wrong, of `KINDS`.
        seed: Key of the draws.
    """

    source: ConversationSource
    kind: str
    seed: int

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Conversations of the source, by index."""
        found = self.source.take(steps=steps, strategy=strategy, start=start, count=count)
        return [self.changed(each) for each in found]

    def changed(self, conversation: Conversation) -> Conversation:
        """The conversation with the wrong references in place of right ones."""
        told: dict[str, str] = {}
        answers = []
        for turn, each in enumerate(conversation.interactions):
            told |= dict(each.facts)
            answers.append(self._answer(conversation.id, turn, each, told))
        first, *others = (replace(each, answer=answer) for each, answer in zip(conversation.interactions, answers, strict=True))
        return replace(conversation, first=first, follow_ups=tuple(others))

    def _answer(self, name: str, turn: int, asked: Interaction, told: dict[str, str]) -> str:
        """The answer, with another value where it is to be wrong."""
        if not asked.asks or asked.unknown or asked.asks[0] not in told:
            return asked.answer
        key = asked.asks[0]
        if not Draws(self.seed, "wrong", *((name, turn) if self.kind == "at random" else (key,))).chance(SHARE):
            return asked.answer
        right, attribute = told[key], key.rpartition(".")[2]
        rivals = [value for each, value in told.items() if each.endswith(f".{attribute}") and value != right]
        other = Draws(self.seed, "named instead", name, turn).choice(rivals or [value for value in VALUES[attribute] if value != right])
        return re.sub(rf"\b{right}\b", lambda found: other.title() if found[0].istitle() else other, asked.answer, flags=re.IGNORECASE)


def run_wrong_references(starts: Sequence[Path], out: Path, say: Callable[[str], None]) -> None:
    """Trains and evaluates what is missing.

    Args:
        starts: Supervised checkpoints of the default budget, of seeds 0, 1, ...
        out: Folder of the runs.
        say: Is told each step.
    """
    for kind in KINDS:
        for seed, start in enumerate(starts):
            _run(kind, seed, start, out, say)


def _run(kind: str, seed: int, start: Path, out: Path, say: Callable[[str], None]) -> None:
    """The rows of one kind and seed."""
    config = load_config(BUDGETS["default"], PipelineConfig, [f"seed={seed}", "interactive=null", "stress_conversations=0"])
    clean = open_sources(config.data, seed)
    model, tokenizer = load_checkpoint(start)
    if not evaluation_of(out, "", seed, START).exists():
        Pipeline(config, folder_of(out, "", seed, START), say=say).measure(copy.deepcopy(model), tokenizer, clean, "start", ())
    sources = replace(clean, train=WrongReferences(clean.train, kind, seed))
    for name, settings in SETTINGS.items():
        folder = folder_of(out, kind, seed, name)
        if (folder / "tokens").exists():
            continue
        say(f"--- {folder}")
        mrl = config.mrl.model_dump()
        mrl |= settings | {"optimizer": mrl["optimizer"] | settings.get("optimizer", {})}
        changed = config.model_copy(update={"mrl": type(config.mrl).model_validate(mrl)})
        pipeline = Pipeline(changed, folder, say=say)
        trained = copy.deepcopy(model)
        trainer = pipeline.reinforce(trained, tokenizer, sources)
        pipeline.measure(trained, tokenizer, clean, "mrl", ())
        write_text(folder / "tokens", str(trainer.state.tokens))
    if not evaluation_of(out, kind, seed, SMAT).exists():
        folder = folder_of(out, kind, seed, SMAT)
        say(f"--- {folder}")
        tokens = int((folder_of(out, kind, seed, DEFAULT) / "tokens").read_text(encoding="utf-8"))
        Pipeline(config, folder, say=say).continue_smat(copy.deepcopy(model), tokenizer, sources, tokens)


def folder_of(out: Path, kind: str, seed: int, name: str) -> Path:
    """Where the run of one row is."""
    return out / f"seed{seed}" / kind.replace(" ", "-") / name.replace(",", "").replace(" ", "-")


def evaluation_of(out: Path, kind: str, seed: int, name: str) -> Path:
    """Answers of one row on the test conversations."""
    evaluation = {START: "start", SMAT: "smat-continued"}.get(name, "mrl")
    return folder_of(out, kind, seed, name) / "evaluation" / evaluation / "transcripts.jsonl"


def wrong_references_table(out: Path, seeds: Sequence[int]) -> list[str]:
    """Markdown rows: retention by seed, and the paired difference to SMAT continued over all seeds."""
    rows = [
        f"| wrong | | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | minus SMAT continued, paired |",
        "|---" * (len(seeds) + 4) + "|",
    ]
    rows += _row("", START, {seed: _records(out, "", seed, START) for seed in seeds}, {})
    for kind in KINDS:
        smat = {seed: _records(out, kind, seed, SMAT) for seed in seeds}
        rows += _row(kind, SMAT, smat, {})
        for name in SETTINGS:
            rows += _row(kind, name, {seed: _records(out, kind, seed, name) for seed in seeds}, smat)
    return rows


def _records(out: Path, kind: str, seed: int, name: str) -> list[TurnRecord]:
    path = evaluation_of(out, kind, seed, name)
    return read_records(path) if path.exists() else []


def _row(kind: str, name: str, found: dict[int, list[TurnRecord]], base: dict[int, list[TurnRecord]]) -> list[str]:
    """One row of the table; nothing where no seed has it."""
    kept = {seed: [each.retention for each in records if each.retention is not None] for seed, records in found.items()}
    means = {seed: sum(each) / len(each) for seed, each in kept.items() if each}
    if not means:
        return []
    shared = [seed for seed in means if base.get(seed)]
    paired = compare([r for seed in shared for r in found[seed]], [r for seed in shared for r in base[seed]]) if shared else None
    difference = "{difference:+.3f} [{low:+.3f}, {high:+.3f}]".format(**paired) if paired else ""
    shown = [f"{means[seed]:.3f}" if seed in means else "" for seed in found]
    return [f"| {kind} | {name} | {' | '.join(shown)} | {sum(means.values()) / len(means):.3f} | {difference} |"]

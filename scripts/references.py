"""MRL beside SMAT continued for the same tokens where references are wrong or few, from the supervised checkpoints of the main job.

Rewards, told facts and test conversations are always right. Wrong references: a fifth names another value of the attribute that is asked
for, that of somebody else in the conversation if there is one. Any question may have it (`at random`), or all questions for some facts of
some people do (`by fact`), as when whoever wrote them down misunderstood. Few references: only a share of the conversations has answers
written down. Supervised training repeats these; MRL plays the others too.
`python scripts/results.py wrong-references` and `few-references` run what is missing, and print the tables.
"""

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rxrl.config import load_config
from rxrl.curricula import load_curriculum
from rxrl.data.sources import ConversationSource, RowsSource
from rxrl.data.splits import Sources, open_sources
from rxrl.data.tokenizer import Tokenizer
from rxrl.errors import DataError
from rxrl.evaluation.records import TurnRecord, read_records
from rxrl.factory import load_checkpoint
from rxrl.lexicon import VALUES
from rxrl.models import ReactiveTransformer
from rxrl.pipeline import BUDGETS, Pipeline, PipelineConfig
from rxrl.runs.checkpoints import newest_position
from rxrl.runs.tracking import MetricsLog, read_metrics
from rxrl.seeding import Draws
from rxrl.types import Conversation, Interaction
from tables import paired_row

WRONG = ("by fact", "at random")
SHARE = 0.2
"""Of the references that are wrong."""
FEW = {"20 %": 0.2, "5 %": 0.05, "1 %": 0.01}
ALL = "100 %"
DEFAULT, REWARD = "MRL, as by default", "MRL, reward"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    # The rate is the one that was chosen on the main job for a reward of weight 1.
    REWARD: {"signals": {"reward": 1}, "small_talk": {"share": 0}, "optimizer": {"learning_rate": 0.0015}},
}
"""What MRL has other than the main job."""
START, SMAT = "start", "SMAT continued"


@dataclass(frozen=True)
class Changed:
    """Conversations of another source after a change that depends on nothing but the conversation."""

    source: ConversationSource
    change: Callable[[Conversation], Conversation]

    def take(self, *, steps: int, strategy: str, start: int, count: int) -> list[Conversation]:
        """Conversations of the source, by index."""
        return [self.change(each) for each in self.source.take(steps=steps, strategy=strategy, start=start, count=count)]


@dataclass(frozen=True)
class WrongReferences:
    """Makes some of the reference answers of a conversation name a wrong value.

    Attributes:
        kind: Which, of `WRONG`.
        seed: Key of the draws.
    """

    kind: str
    seed: int

    def __call__(self, conversation: Conversation) -> Conversation:
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


@dataclass(frozen=True)
class FewReferences:
    """Leaves a share of the conversations as they are, and takes the answers of all follow-ups from the others.

    Attributes:
        share: Of the conversations that keep them.
        seed: Key of the draws.
    """

    share: float
    seed: int

    def __call__(self, conversation: Conversation) -> Conversation:
        """The conversation, or its queries alone; the first interaction is told to the model, not answered by it."""
        if self.keeps(conversation):
            return conversation
        return replace(conversation, follow_ups=tuple(replace(each, answer="") for each in conversation.follow_ups))

    def keeps(self, conversation: Conversation) -> bool:
        """Whether its answers are written down."""
        return Draws(self.seed, "written", conversation.id).chance(self.share)


@dataclass(frozen=True)
class Bench:
    """One seed of an experiment: where it starts from and what it is tested on.

    Attributes:
        out: Folder of all runs.
        run: The finished run of the default budget whose supervised checkpoint it starts from.
        config: Settings of that run.
        clean: Its data.
        model, tokenizer: Its supervised checkpoint.
        say: Is told each step.
    """

    out: Path
    run: Path
    config: PipelineConfig
    clean: Sources
    model: ReactiveTransformer
    tokenizer: Tokenizer
    say: Callable[[str], None]

    @classmethod
    def of(cls, run: Path, seed: int, out: Path, say: Callable[[str], None]) -> "Bench":
        """Reads what a run left.

        Raises:
            RxrlError: It is not there, or has another seed.
        """
        model, tokenizer = load_checkpoint(run / "checkpoints" / "smat")
        if (own := load_config(run / "config.yaml", PipelineConfig).seed) != seed:
            raise DataError(f"{run} has seed {own} where that of seed {seed} is expected: give the runs of seeds 0, 1, ... in this order.")
        config = load_config(BUDGETS["default"], PipelineConfig, [f"seed={seed}", "interactive=null", "stress_conversations=0"])
        return cls(out, run, config, open_sources(config.data, seed), model, tokenizer, say)

    def train(self, kind: str, name: str, sources: Sources, settings: Mapping[str, Any], parts: int = 1) -> None:
        """One row of MRL, unless it is finished.

        Args:
            kind: Of the data.
            name: Of the row.
            sources: What it plays.
            settings: What MRL has other than the main job.
            parts: How many such runs have as many iterations as the main job.
        """
        folder = folder_of(self.out, kind, self.config.seed, name)
        if transcripts(folder, name).exists():
            return
        self.say(f"--- {folder}")
        mrl = self.config.mrl.model_dump()
        mrl |= {**settings, "optimizer": mrl["optimizer"] | settings.get("optimizer", {})}
        changed = self.config.model_copy(update={"mrl": type(self.config.mrl).model_validate(mrl)})
        pipeline, model = going_on(changed, folder, self.say), copy.deepcopy(self.model)
        stages = tuple(stage.model_copy(update={"iterations": math.ceil(stage.iterations / parts)}) for stage in pipeline.curriculum.stages)
        pipeline.curriculum = pipeline.curriculum.model_copy(update={"stages": stages})
        pipeline.reinforce(model, self.tokenizer, sources)
        pipeline.measure(model, self.tokenizer, self.clean, "mrl", ())

    def supervise(self, kind: str, sources: Sources, tokens: int) -> None:
        """SMAT continued for so many tokens, unless it is finished."""
        folder = folder_of(self.out, kind, self.config.seed, SMAT)
        if transcripts(folder, SMAT).exists():
            return
        self.say(f"--- {folder}")
        going_on(self.config, folder, self.say).continue_smat(copy.deepcopy(self.model), self.tokenizer, sources, tokens)

    def measure_start(self) -> None:
        """The supervised checkpoint itself, unless it is finished."""
        folder = folder_of(self.out, "", self.config.seed, START)
        if not transcripts(folder, START).exists():
            Pipeline(self.config, folder, say=self.say).measure(copy.deepcopy(self.model), self.tokenizer, self.clean, "start", ())

    @property
    def played(self) -> int:
        """Conversations that MRL plays."""
        return self.config.mrl.episodes * sum(stage.iterations for stage in load_curriculum(self.config.curriculum).stages)


def going_on(config: PipelineConfig, folder: Path, say: Callable[[str], None]) -> Pipeline:
    """A job in a folder, which goes on where it was stopped."""
    job = Pipeline(config, folder, say=say)
    if folder.exists():
        MetricsLog(folder).rewind(newest_position(folder / "checkpoints"))
        job.resumes = True
    return job


def run_references(runs: Sequence[Path], out: Path, kinds: Sequence[str], seeds: Sequence[int], say: Callable[[str], None]) -> None:
    """Trains and evaluates what is missing.

    Args:
        runs: Finished runs of the default budget with seeds 0, 1, ...
        out: Folder of the new runs.
        kinds: Of `WRONG` or `FEW`.
        seeds: Which of the seeds to run; none: all.
        say: Is told each step.
    """
    torch.set_num_threads(1)
    benches = [Bench.of(run, seed, out, say) for seed, run in enumerate(runs) if not seeds or seed in seeds]
    for bench in benches:
        bench.measure_start()
        # The reward alone reads no reference, so that it does not matter which of them are wrong or missing.
        bench.train("", REWARD, bench.clean, SETTINGS[REWARD])
    for kind in kinds:
        for bench in benches:
            bench.supervise(kind, changed_sources(kind, bench)[1], spent_by_mrl(bench.run))
    for kind in kinds:
        for bench in benches:
            bench.train(kind, DEFAULT, changed_sources(kind, bench)[0], SETTINGS[DEFAULT])


def spent_by_mrl(run: Path) -> int:
    """Tokens that MRL used in a run.

    Raises:
        DataError: It has had none.
    """
    spent = [int(line["tokens"]) for line in read_metrics(run) if line.get("phase") == "mrl"]
    if not spent:
        raise DataError(f"{run} holds no MRL (metrics.jsonl): give the folder of a finished `rxrl quickstart`.")
    return max(spent)


def changed_sources(kind: str, bench: Bench) -> tuple[Sources, Sources]:
    """The data with which MRL and SMAT go on.

    Where references are few, MRL plays all conversations, and SMAT repeats those of as many that have them.
    """
    clean, seed = bench.clean, bench.config.seed
    if kind in WRONG:
        wrong = replace(clean, train=Changed(clean.train, WrongReferences(kind, seed)))
        return wrong, wrong
    few = FewReferences(FEW[kind], seed)
    offered = clean.train.take(steps=16, strategy="multi-step", start=0, count=bench.played)
    written = RowsSource([each for each in offered if few.keeps(each)], seed)
    return replace(clean, train=Changed(clean.train, few)), replace(clean, train=written)


def folder_of(out: Path, kind: str, seed: int, name: str) -> Path:
    """Where the run of one row is; the start and the reward alone belong to no kind."""
    return out / f"seed{seed}" / (kind.replace(" %", "-percent").replace(" ", "-") or "any") / name.replace(",", "").replace(" ", "-")


def transcripts(folder: Path, name: str) -> Path:
    """Answers of one row on the test conversations."""
    return folder / "evaluation" / {START: "start", SMAT: "smat-continued"}.get(name, "mrl") / "transcripts.jsonl"


def wrong_references_table(runs: Sequence[Path], out: Path) -> list[str]:
    """Markdown rows: retention by seed, and the paired difference to SMAT continued over all seeds."""
    return _table("wrong", WRONG, runs, out)


def few_references_table(runs: Sequence[Path], out: Path) -> list[str]:
    """The same for shares of references, with all of them as in the runs themselves; then where MRL and SMAT continued cross."""
    kinds = (*reversed(FEW), ALL)
    rows = _table("references", kinds, runs, out)
    found = {name: {kind: _records(runs, out, kind, name) for kind in kinds} for name in (SMAT, *SETTINGS)}
    for name in SETTINGS:
        both = {kind: (_all(found[name][kind]), _all(found[SMAT][kind])) for kind in kinds}
        shares = {(FEW | {ALL: 1.0})[kind]: pair for kind, pair in both.items() if all(pair)}
        if len(shares) > 1:
            at, low, high = (_percent(each, min(shares)) for each in crossing(shares))
            rows += ["", f"{name} and SMAT continued cross at {at} of the references [{low}, {high}]."]
    return rows


def _table(title: str, kinds: Sequence[str], runs: Sequence[Path], out: Path) -> list[str]:
    seeds = range(len(runs))
    rows = [
        f"| {title} | | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | minus SMAT continued, paired |",
        "|---" * (len(seeds) + 4) + "|",
        *paired_row(["", START], _records(runs, out, "", START), {}),
    ]
    for kind in kinds:
        smat = _records(runs, out, kind, SMAT)
        rows += paired_row([kind, SMAT], smat, {})
        for name in SETTINGS:
            rows += paired_row([kind, name], _records(runs, out, kind, name), smat)
    return rows


def _records(runs: Sequence[Path], out: Path, kind: str, name: str) -> dict[int, list[TurnRecord]]:
    """Records of one row by seed; empty where it is not finished."""
    found = {}
    for seed, run in enumerate(runs):
        folder = folder_of(out, "" if name == REWARD else kind, seed, name)
        path = transcripts(run if kind == ALL and name != REWARD else folder, name)
        found[seed] = read_records(path) if path.exists() else []
    return found


def _all(found: Mapping[int, Sequence[TurnRecord]]) -> list[TurnRecord]:
    """Records of all seeds; nothing where one lacks them."""
    return [each for records in found.values() for each in records] if all(found.values()) else []


def crossing(
    shares: Mapping[float, tuple[Sequence[TurnRecord], Sequence[TurnRecord]]], *, seed: int = 0, resamples: int = 2000
) -> tuple[float, float, float]:
    """The share from which on the second is not below the first: between shares on a line over their logarithms.

    Args:
        shares: Records of both by share; conversations that all of them have count.
        seed: Seed of the resampling.
        resamples: Bootstrap samples over conversations.

    Returns:
        The share and its 95 % interval; 0 where the second is ahead everywhere, infinity where the first is.
    """
    order = sorted(shares)
    # A run may have been tested on more conversations than the others.
    names = sorted(set.intersection(*({each.turn.conversation_id for each in side} for pair in shares.values() for side in pair)))
    # Sums and counts of each conversation, so that a sample is weighted by turns as a mean over turns is.
    totals = np.array([_gaps(*shares[share], names) for share in order])
    draws = np.random.default_rng(seed).integers(len(names), size=(resamples, len(names)))
    sampled = [_zero(order, totals[:, picked].sum(1)) for picked in draws]
    low, high = np.quantile(sampled, [0.025, 0.975], method="nearest")
    return _zero(order, totals.sum(1)), float(low), float(high)


def _gaps(ours: Sequence[TurnRecord], theirs: Sequence[TurnRecord], names: Sequence[str]) -> list[tuple[float, int]]:
    """For each conversation how much more the first retains, summed over its asking turns, and the number of these."""
    sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    for sign, records in ((1, ours), (-1, theirs)):
        for each in records:
            if each.retention is not None and each.turn.conversation_id in sums:
                sums[each.turn.conversation_id] += sign * each.retention
                counts[each.turn.conversation_id] += sign > 0
    return [(sums[name], counts[name]) for name in names]


def _zero(order: Sequence[float], totals: Any) -> float:
    """Where differences, given as sums and counts by share, fall to 0."""
    differences = totals[:, 0] / totals[:, 1]
    if differences[0] <= 0:
        return 0.0
    for number in range(1, len(order)):
        left, right = differences[number - 1 : number + 1]
        if right <= 0:
            at = math.log(order[number - 1]) + left / (left - right) * math.log(order[number] / order[number - 1])
            return math.exp(at)
    return math.inf


def _percent(share: float, least: float) -> str:
    if share == 0:
        return f"less than {100 * least:.0f} %"
    return "more than 100 %" if math.isinf(share) else f"{100 * share:.1f} %"

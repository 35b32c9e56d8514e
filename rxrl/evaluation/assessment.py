"""Evaluation of whatever has a name: on conversations, on a suite, and under stress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rxrl import __version__
from rxrl.data.origins import Origin, hash_of_conversations
from rxrl.data.rows import LengthLimit
from rxrl.envs import ConversationVectorEnv
from rxrl.evaluation.axes import Course, Point, curves, points_of
from rxrl.evaluation.evaluate import Evaluation, evaluate
from rxrl.evaluation.metrics import interval
from rxrl.evaluation.play import play, play_parts
from rxrl.evaluation.records import TurnRecord, keeping_transcripts, write_records
from rxrl.evaluation.resuming import TRUE, KeptBatches, Watch
from rxrl.evaluation.suites import Group, Suite, played_of, suite_summary
from rxrl.evaluation.suites.base import WORDS
from rxrl.factory import TokenEmbeddings, build_env
from rxrl.players import Play, Subject
from rxrl.policies import Oracle
from rxrl.types import RewardFunction, Scenario

STRESS = "stress"
"""Folder of the transcripts under stress, below that of the evaluation."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """A player with the settings under which it is evaluated.

    Attributes:
        subject: The player.
        reward: Scores the answers.
        seed: Keys every draw.
        greedy: Likeliest tokens; sampled answers otherwise.
        folder: Where unfinished work and transcripts are kept; None keeps nothing.
        settings: Plain values that describe the evaluation; they are saved with it, and what was kept under others is not used.
        behind: Plain values that answers and rewards also depend on, such as the weights of the reward and the hashes of code files; they
            are not saved, but what was kept under others is not used either.
        options: Options of the environment.
        embed: What the reward embeds answers with; it gets the model of a checkpoint.
        progress: Called with turns played and turns in all.
    """

    subject: Subject
    reward: RewardFunction
    seed: int = 0
    greedy: bool = True
    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    behind: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    embed: TokenEmbeddings | None = None
    progress: Callable[[int, int], None] | None = None

    @property
    def limit(self) -> LengthLimit:
        """Longest interaction that the player reads."""
        if self.subject.loaded is None:
            return WORDS
        model, tokenizer = self.subject.loaded
        return LengthLimit.in_tokens(model.config.max_length, tokenizer)

    def conversations(self, chosen: Sequence[Scenario], known: Sequence[Scenario], controls: Sequence[str]) -> Evaluation:
        """Plays conversations and scenarios, with controls.

        Args:
            chosen: What is played.
            known: Other conversations, which show the values that there are of each attribute.
            controls: As in `evaluate`.
        """
        env, policy = self._game(chosen, known)
        watch = self._watch(chosen)
        with self._transcripts():
            found = evaluate(env, policy, chosen, seed=self.seed, greedy=self.greedy, controls=controls, watch=watch)
        name = self.settings.get("suite") or ", ".join(self.settings.get("data") or ())
        return replace(found, about={**self.settings, "played": Origin.of_played(name, chosen).saved()})

    def suite(self, suite: Suite, groups: Sequence[Group], controls: Sequence[str]) -> Evaluation:
        """Plays the groups of a suite, with controls; `suite` of the result holds their scores."""
        chosen = played_of(groups)
        found = self.conversations(chosen, (), controls)
        told = [each for each in chosen if getattr(each, "references", False)]
        summary = suite_summary(suite, groups, found.records, self._oracle(told), found.scenarios, seed=self.seed)
        return replace(found, suite=summary)

    def stress(self, axis: str, course: Course) -> dict[str, Any]:
        """Plays the points of an axis; see `rxrl.evaluation.axes.curves`."""
        return curves(axis, [(point, interval(self._point(axis, point), seed=self.seed)) for point in points_of(axis, course)])

    def _point(self, axis: str, point: Point) -> Sequence[TurnRecord]:
        name = f"{axis}-{point.curve}-{point.x}".replace(" ", "-")
        watch = self._watch(point.conversations, name)
        with self._transcripts():
            env, policy = self._game(point.conversations, ())
            records = play_parts(env, policy, point.conversations, seed=self.seed, greedy=self.greedy, watch=watch)[TRUE]
        if self.folder is not None:
            write_records(self.folder / STRESS / f"{name}.jsonl", records)
        return records

    def _oracle(self, chosen: Sequence[Scenario]) -> Sequence[TurnRecord]:
        """The references as answers, within the same limits; no memory is needed for that."""
        if not chosen:
            return ()
        env = self._game(chosen, ()).envs
        limits: dict[str, Any] = {"max_answer_tokens": env.limits.answer, "max_query_tokens": env.limits.query}
        blank: ConversationVectorEnv = build_env(chosen, memory=None, reward=self.reward, codec=env.codec, num_envs=env.num_envs, **limits)
        return play(blank, Oracle(blank), chosen, seed=self.seed)

    def _game(self, chosen: Sequence[Scenario], known: Sequence[Scenario]) -> Play:
        return self.subject.play(chosen, known=known, embed=self.embed, reward=self.reward, **self.options)

    def _watch(self, chosen: Sequence[Scenario], part: str = "") -> Watch:
        if self.folder is None:
            return Watch(self.progress)
        played = hash_of_conversations(chosen)
        identity = {
            "version": __version__, "settings": self.settings, "behind": self.behind, "subject": self.subject.identity, "played": played,
            "part": part,
        }  # fmt: skip
        return Watch(self.progress, KeptBatches(self.folder, identity))

    def _transcripts(self) -> Any:
        return keeping_transcripts(None if self.folder is None else self.folder / "transcripts.unscored.jsonl")

    def forget(self) -> None:
        """Removes what was kept for a start that goes on."""
        if self.folder is not None:
            KeptBatches(self.folder, {}).clear()

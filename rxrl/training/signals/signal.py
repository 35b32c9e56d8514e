"""What a signal is: a loss over the turns of a rollout, which reads the one memory that the model's own answers have written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rxrl.config import BaseConfig
from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import answer_hidden
from rxrl.training.lessons import Lesson
from rxrl.training.rollout import Rollout, draw_keys
from rxrl.training.signals.questions import Phrasing
from rxrl.training.token_statistics import LazyLogits, token_log_probs
from rxrl.types import Scenario, TextCodec, TokenBatch, Turn

REWARD = "reward"
"""The signal that is the loss of the algorithm."""


@dataclass(frozen=True, slots=True)
class Material:
    """What lessons are made of, once a rollout is collected.

    Attributes:
        rollout: What was collected.
        turns: The turns by number and row, None past the end of an episode.
        scenarios: What each row has played.
        codec: Text to ids and back.
        max_length: Longest interaction in tokens.
        seed: Of the run; with the iteration of the rollout the key of every draw.
        phrasings: Gives questions for single facts as the data asks them, by key.
        options: Of the signal, as its `Signal.options` describes them; a mapping where that is None.
    """

    rollout: Rollout
    turns: Sequence[Sequence[Turn | None]]
    scenarios: Sequence[Scenario]
    codec: TextCodec
    max_length: int
    seed: int
    phrasings: Callable[[], Mapping[str, Sequence[Phrasing]]] = dict
    options: Any = None

    def row_keys(self) -> list[tuple[str, int]]:
        """What the draws of each row depend on: its scenario, and the rows of the same one before it."""
        return draw_keys(self.scenarios)


@dataclass(frozen=True, slots=True)
class SignalInputs:
    """What the loss of a signal sees of one minibatch, or of some turns or conversations of it.

    Attributes:
        model: Current weights.
        memory: Memory that each turn reads, `[layers, turns, batch, slots, dim]`, as the model's own answers have written it; gradients
            flow through the writes.
        before: Memory that the turn before each of them read, of the same shape; for the first turn its own.
        rollout: What was played.
        hidden: Hidden states of the policy at the sampled tokens, `[tokens, dim]`, in the order of `rollout.turns.ids[rollout.answer]`.
        lesson: What `Signal.prepare` made; without it nothing but weights.
        options: Of the signal, as its `Signal.options` describes them; a mapping where that is None.
        start: The frozen start, where there is one.
    """

    model: ReactiveTransformer
    memory: Tensor
    before: Tensor
    rollout: Rollout
    hidden: Tensor
    lesson: Lesson
    options: Any = None
    start: ReactiveTransformer | None = None

    def log_probs(self) -> Tensor:
        """Log-probability of each item of the lesson given the memory of its turn, summed over tokens, `[turns, batch, items]`."""
        return lesson_log_probs(self.model, self.memory, self.lesson)


def lesson_log_probs(model: ReactiveTransformer, memory: Tensor, lesson: Lesson) -> Tensor:
    """As `SignalInputs.log_probs`; items of turns that do not count are 0 and cost nothing.

    Args:
        model: Any model, with its own memory.
        memory: What each turn reads, `[layers, turns, batch, slots, dim]`.
        lesson: What is scored.
    """
    shape = lesson.answer.shape[:3]
    counts = (lesson.answer.any(-1) & (lesson.weights > 0).unsqueeze(-1)).flatten()
    chosen = counts.nonzero().squeeze(1)
    found = memory.new_zeros(counts.shape)
    if not len(chosen):
        return found.view(shape)
    ids, mask, answer = (each.flatten(0, 2)[chosen] for each in (lesson.tokens.ids, lesson.tokens.mask, lesson.answer))
    read = memory.flatten(1, 2)[:, chosen // shape[2]]
    hidden = answer_hidden(model, read.unsqueeze(1), TokenBatch(ids.unsqueeze(0), mask.unsqueeze(0)), answer.unsqueeze(0))
    logits = LazyLogits.of(model.decoder.head, hidden)
    each = token_log_probs(logits, ids[answer], 1.0, logits.thoughts(ids, answer))
    owner = chosen.repeat_interleave(answer.sum(-1))
    return found.to(each.dtype).index_add(0, owner, each).view(shape)


def mean_log_probs(model: ReactiveTransformer, memory: Tensor, lesson: Lesson) -> Tensor:
    """As `lesson_log_probs`, as a mean a token; 0 for items that are not there."""
    return lesson_log_probs(model, memory, lesson) / lesson.answer.sum(-1).clamp(min=1)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal; a package registers its own as an entry point of the group `rxrl.signals`: a `Signal`, or its `loss` alone.

    Attributes:
        name: Its name.
        loss: The loss of each turn, `[turns, batch]`; the trainer adds them up over the turns that count and divides by their weights.
        prepare: Makes what is taught from a rollout; None: nothing is, and every real turn counts 1.
        options: Describes the options; None: a mapping that is handed over as it is.
        compares: `Lesson.values` are to hold the mean log-probability a token of each item under the frozen start, with its own memory.
        lacks: What a scenario lacks, so that the signal has nothing to teach there (a sentence's end); None where it lacks nothing.
        summary: One line for `rxrl list signals`.
    """

    name: str
    loss: Callable[[SignalInputs], Tensor]
    prepare: Callable[[Material], Lesson] | None = None
    options: type[BaseConfig] | None = None
    lacks: Callable[[Scenario], str | None] = lambda scenario: None
    summary: str = ""
    compares: bool = False

    def lesson(self, material: Material) -> Lesson:
        """What is taught in each turn of a rollout."""
        if self.prepare is not None:
            return self.prepare(material)
        return Lesson.without_text(material.rollout.real.to(material.rollout.rewards.dtype))


@dataclass(frozen=True, slots=True)
class ActiveSignal:
    """A signal with its coefficient in an iteration, and its options."""

    signal: Signal
    coefficient: float
    options: Any = None

    @property
    def name(self) -> str:
        """Name in metrics."""
        return self.signal.name


@dataclass(frozen=True, slots=True)
class Signals:
    """What an update learns from.

    Attributes:
        reward: Coefficient of the algorithm's loss.
        others: The signals on the rollout itself whose coefficient is above 0.
        imitation: The one that replays earlier episodes, where it is on.
        start: The frozen start, for signals that ask it.
    """

    reward: float = 1.0
    others: tuple[ActiveSignal, ...] = ()
    imitation: ActiveSignal | None = None
    start: ReactiveTransformer | None = None

    def lessons(self, material: Material) -> Mapping[str, Lesson]:
        """What each signal teaches."""
        return {each.name: each.signal.lesson(replace(material, options=each.options)) for each in self.others}

    def compared(self, reference: ReactiveTransformer, memory: Callable[[], Tensor], rollout: Rollout) -> Rollout:
        """The rollout with what the frozen start makes of the lessons that are compared with it.

        Args:
            reference: The frozen start.
            memory: Gives its own memory before each turn, `[layers, turns, batch, slots, dim]`; only called where it is needed.
            rollout: With lessons.
        """
        names = [each.name for each in self.others if each.signal.compares]
        if not names:
            return rollout
        own = memory()
        lessons = {name: replace(rollout.lessons[name], values=mean_log_probs(reference, own, rollout.lessons[name])) for name in names}
        return replace(rollout, lessons={**rollout.lessons, **lessons})

    def weights(self, rollout: Rollout) -> dict[str, Tensor]:
        """What each turn counts in the mean of each signal, `[turns, batch]`."""
        return {each.name: rollout.lessons[each.name].weights * rollout.real for each in self.others}

    def losses(
        self, model: ReactiveTransformer, memory: Tensor, before: Tensor, rollout: Rollout, hidden: Tensor, totals: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Share of these turns in the loss of each signal, coefficients left out.

        Args:
            model: As in `SignalInputs`, like the next four.
            memory: `[layers, turns, batch, slots, dim]`.
            before: The same.
            rollout: With lessons.
            hidden: `[tokens, dim]`.
            totals: Sums of `weights` over the whole minibatch.
        """
        found = {}
        for each in self.others:
            lesson = rollout.lessons[each.name].where(rollout.real)
            inputs = SignalInputs(model, memory, before, rollout, hidden, lesson, each.options, self.start)
            total = totals[each.name]
            found[each.name] = each.signal.loss(inputs).masked_fill(lesson.weights == 0, 0).sum() / total.masked_fill(total == 0, 1)
        return found


REWARD_ONLY = Signals()

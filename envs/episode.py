"""One scenario as it is played: what was said and written, facts tracked as the conversation grows, one `Turn` at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from rxrl.envs.dialogue import CheckedDialogue
from rxrl.envs.speech import FRAME, Limits, Speech, Spoken
from rxrl.errors import ScenarioError
from rxrl.facts import Asked, FactTracker
from rxrl.seeding import derive_seed
from rxrl.template import THINK
from rxrl.types import ANSWER, BOS, EOS, MASK, PAD, QUERY, SavedInteraction, Scenario, Score, Turn, interaction_ids

_MARKERS = frozenset((PAD, BOS, EOS, MASK, QUERY, ANSWER))

SEED_RANGE = 2**63


@dataclass(frozen=True, slots=True)
class Forcing:
    """When the reference is written in place of the answer.

    Attributes:
        probability: Of each turn, from 0 (never) to 1 (always).
        turns: Turns up to which it holds; None = all.
    """

    probability: float
    turns: int | None = None

    def holds(self, episode: Episode) -> bool:
        """Whether the turn that `episode` stands at is forced; depends on its seed and turn alone."""
        if not self.probability or (self.turns is not None and episode.turn >= self.turns):
            return False
        return keyed_share(episode.seed, "teacher forcing", episode.turn) < self.probability


@dataclass(frozen=True, slots=True)
class Continuation:
    """How a truncated episode would have continued.

    Attributes:
        saved: Interactions that hold what the next query asks for; oldest first.
        history: All interactions so far; oldest first.
        prompt: Ids of the next prompt, markers included.
        last: The last interaction, with the answer that would go into memory.
    """

    saved: tuple[SavedInteraction, ...]
    history: tuple[SavedInteraction, ...]
    prompt: tuple[int, ...]
    last: SavedInteraction


class Episode:
    """One row of the environment: where a scenario stands.

    Args:
        scenario: What is played.
        strategy: One of `rxrl.types.STRATEGIES`; single-step plays the first turn only.
        values: Known values by attribute, for rivals.
        seed: Seed of the row's initial memory; also keys the row's own draws and what the scenario draws.
        speech: Makes tokens of what is said, and knows the limits.

    Raises:
        ScenarioError: The scenario cannot begin.
    """

    def __init__(self, scenario: Scenario, strategy: str, values: Mapping[str, tuple[str, ...]], seed: int, speech: Speech) -> None:
        self.scenario = scenario
        self.strategy = strategy
        self.seed = seed
        self.limits: Limits = speech.limits
        self._speech = speech
        self.steps = 1 if strategy == "single-step" else scenario.steps
        self.turn = 0
        self.tokens = 0
        self.terminated = False
        self.truncated = False
        self.asked: Asked | None = None
        self.saved: list[SavedInteraction] = []
        self.played: list[tuple[Turn, Score]] = []
        self.heard: tuple[Turn, ...] = ()
        self._values = values
        self._tracker = FactTracker(values)
        self._dialogue = CheckedDialogue(scenario, seed, speech)
        self._spoken: list[Spoken] = [self._dialogue.first]
        self._cut: Continuation | None = None

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def first(self) -> Spoken:
        """The first interaction."""
        return self._spoken[0]

    @property
    def waiting(self) -> Spoken | None:
        """The interaction whose query waits for an answer; None when the episode is over."""
        return None if self.done else self._spoken[-1]

    @property
    def told(self) -> dict[str, str]:
        """Values by key of the facts that stand in what was written so far."""
        return self._tracker.in_force

    @property
    def continuation(self) -> Continuation | None:
        """How an episode that was cut would have gone on; None where it was not cut."""
        return self._cut

    def begin(self) -> list[int]:
        """Notes the first interaction as written, lets the user speak, and returns the ids that were written.

        Raises:
            ScenarioError: The scenario has nothing to say, or broke its contract.
        """
        written = self._note(self.first, self.first.reference_ids, self.first.interaction.answer, reference=True)
        if not self._listen():
            raise ScenarioError(f"Scenario {self.scenario.id!r} says nothing before turn 1, so there is nothing to play.")
        return written

    def scored_turn(self, answer_ids: Sequence[int], text: str, thought: Sequence[int] = ()) -> Turn:
        """The turn that `answer_ids` answer behind a thought, with the outcome that the scenario gives it.

        Raises:
            ScenarioError: The scenario failed to judge it.
        """
        if self.asked is None:
            raise AssertionError("an episode asks only after its first interaction was written")
        asked, spoken = self.asked, self._spoken[-1]
        turn = Turn(
            conversation_id=self.scenario.id,
            index=self.turn + 1,
            steps=self.steps,
            strategy=self.strategy,
            query=spoken.query,
            answer=text,
            reference=spoken.interaction.answer,
            query_ids=spoken.query_ids,
            answer_ids=_without_markers(answer_ids),
            reference_ids=spoken.reference_ids,
            saved=tuple(self.saved[at] for at in self._saved_indices(asked)),
            asking=asked.asking,
            expected=asked.expected,
            aliases=asked.aliases,
            rivals=asked.rivals,
            told_rivals=asked.told_rivals,
            unknown=asked.unknown,
            distance=asked.distance,
            asks_known=asked.asks_known,
            kind=spoken.interaction.kind,
            extra=spoken.extra,
            history=tuple(self.saved),
            framed=() if spoken.framed is None and not self.limits.think else spoken.prompt,
            thought=self._speech.decode(_without_markers(thought)) if thought else "",
            thought_ids=_without_markers(thought),
            reference_thought_ids=spoken.thought_ids if self.limits.think else (),
        )
        return self._dialogue.judge(turn)

    def answered_with(self, turn: Turn, answer_ids: Sequence[int], text: str) -> Turn:
        """A turn of this episode as if it had been answered otherwise, for controls."""
        return self._dialogue.judge(replace(turn, answer=text, answer_ids=_without_markers(answer_ids), outcome=None))

    def advance(
        self, written_ids: Sequence[int], text: str, *, write_last: bool, forced: bool = False, thought: Sequence[int] = ()
    ) -> list[int] | None:
        """Ends the turn that was just scored: writes it, unless it was the last, and lets the user speak.

        Args:
            written_ids: Ids of the answer that goes into memory (the reference's under teacher forcing).
            text: The same as text.
            write_last: Whether the last interaction of an episode is written too.
            forced: Whether it is the reference's.
            thought: Ids of what was thought before the answer.

        Returns:
            The ids that were written; None where nothing was.

        Raises:
            ScenarioError: The scenario broke its contract.
        """
        answered = self._spoken[-1]
        self.turn += 1
        self.heard = (*self.heard, self.played[-1][0])
        tokens = self.tokens + len(answered.query_ids) + len(written_ids) + FRAME
        late = self.limits.turns is not None and self.turn >= self.limits.turns
        over = self.limits.episode is not None and tokens >= self.limits.episode
        # A reacting user may end the conversation: that is known only once the answer counts as written.
        written = self._note(answered, written_ids, text, reference=forced, thought=thought)
        self.terminated = self.turn >= self.steps or not self._listen()
        self.truncated = not self.terminated and (over or late)
        if self.truncated and self.asked is not None:
            holding = tuple(self.saved[at] for at in self.asked.saved)
            self._cut = Continuation(holding, tuple(self.saved), self._spoken[-1].prompt, self.saved[-1])
        if self.done and not write_last:
            self.saved.pop()
            return None
        return written

    def _listen(self) -> bool:
        """Lets the user speak; false where the conversation is over."""
        said = self._dialogue.say(self.heard, self._tracker)
        if said is None:
            return False
        self._spoken.append(said)
        self.asked = self._tracker.ask(said.interaction)
        return True

    def _note(
        self, spoken: Spoken, answer_ids: Sequence[int], text: str, *, reference: bool = False, thought: Sequence[int] = ()
    ) -> list[int]:
        """Notes an interaction as written with this answer; where it has to be cut, what is left of it is what was written."""
        if spoken.framed is not None or thought:
            return self._note_framed(spoken, answer_ids, text, reference, thought)
        query, answer = self.limits.fit(spoken.query_ids, answer_ids)
        text = text if len(answer) == len(answer_ids) else self._speech.decode(answer)
        self.saved.append(SavedInteraction(spoken.query, text, tuple(query), tuple(answer)))
        self.tokens += len(query) + len(answer) + FRAME
        self._tracker.write(spoken.interaction, text)
        return interaction_ids(query, answer)

    def _note_framed(self, spoken: Spoken, answer_ids: Sequence[int], text: str, reference: bool, thought: Sequence[int]) -> list[int]:
        """The same in the interaction template: what was thought, and the segments of a reference, are written too."""
        heard = spoken.prompt[:-1]
        if reference and spoken.framed is not None:
            said, answer, thought = list(spoken.framed.said), list(answer_ids), spoken.thought_ids
        else:
            said = [*((THINK, *thought) if thought else ()), ANSWER, *answer_ids]
            room = len(said) if self.limits.interaction is None else self.limits.interaction - 1 - len(heard)
            answer = list(answer_ids[: max(0, len(answer_ids) - max(0, len(said) - room))])
            said = said[:room]
        text = text if len(answer) == len(answer_ids) else self._speech.decode(answer)
        ids = [*heard, *said, EOS]
        self.saved.append(SavedInteraction(spoken.query, text, spoken.query_ids, tuple(answer), tuple(ids)))
        self.tokens += len(ids)
        self._tracker.write(spoken.interaction, text, self._speech.decode(thought) if thought else "")
        return ids

    def _saved_indices(self, asked: Asked) -> tuple[int, ...]:
        last = self.turn + 1 == self.steps
        if self.strategy == "long-range" and last and not asked.asks_known and not asked.asking:
            return (0,)
        return asked.saved


def _without_markers(ids: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids if _MARKERS.isdisjoint(ids) else [token for token in ids if token not in _MARKERS])


def keyed_share(*key: int | str) -> float:
    """A draw in [0, 1) that depends on `key` alone."""
    return derive_seed(*key) / SEED_RANGE

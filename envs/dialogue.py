"""What a scenario says, checked: every answer of somebody else's dialogue is a legal one, or one clear error."""

from __future__ import annotations

from collections.abc import Sequence

from rxrl.envs.speech import Speech, Spoken
from rxrl.errors import RewardError, RxrlError, ScenarioError, reason
from rxrl.facts import FactTracker
from rxrl.scoring import checked_score
from rxrl.seeding import derive_seed
from rxrl.template import heard
from rxrl.types import Dialogue, Interaction, Scenario, ScriptedDialogue, Turn

CHECKED = 16
"""One turn in so many is asked for twice, of a dialogue that is begun anew: it must say the same."""


class CheckedDialogue:
    """A dialogue that is being played.

    Args:
        scenario: What is played.
        seed: Seed of the episode; keys what the dialogue draws.
        speech: Makes tokens of what is said.

    Raises:
        ScenarioError: The scenario cannot begin, or its first interaction is none.
    """

    def __init__(self, scenario: Scenario, seed: int, speech: Speech) -> None:
        self.scenario, self.seed, self._speech = scenario, seed, speech
        self._checked = derive_seed("say twice", seed, scenario.id) % CHECKED
        self._dialogue = self._begin()
        self._scripted = isinstance(self._dialogue, ScriptedDialogue)
        try:
            first = self._dialogue.first
        except Exception as error:
            raise self._failed(0, "failed to give its first interaction", error) from error
        self.first = self._spoken(0, first)

    def say(self, heard: Sequence[Turn], tracker: FactTracker) -> Spoken | None:
        """What the user says after `heard`; None ends the conversation.

        Args:
            heard: Turns so far.
            tracker: Of what was written so far; says which facts there are to ask for.

        Raises:
            ScenarioError: The dialogue raised, or what it says is no interaction, too long, or asks for what was never told.
        """
        turn = len(heard) + 1
        said = self._ask(self._dialogue, turn, heard)
        if self._scripted:
            return None if said is None else self._speech.scripted(self.scenario, turn, said)
        if turn % CHECKED == self._checked and self._ask(self._begin(), turn, heard) != said:
            raise self._broke(turn, "said something else when it was asked again with the same seed and turns")
        if said is None:
            return None
        spoken = self._spoken(turn, said)
        if missing := [key for key in said.asks or () if not said.unknown and not tracker.told(key)]:
            raise self._broke(turn, f"asks for {missing[0]!r}, which no interaction before has told (and `unknown` is not set)")
        return spoken

    def judge(self, turn: Turn) -> Turn:
        """The turn with its outcome.

        Args:
            turn: One that nobody else holds yet: the outcome is set in place, since a copy costs as much as the rest of a step.

        Raises:
            ScenarioError: The dialogue raised, or the outcome is none.
        """
        if self._scripted:
            return turn
        try:
            outcome = self._dialogue.judge(turn)
        except Exception as error:
            raise self._failed(turn.index, "failed to judge an answer", error) from error
        if outcome is None:
            return turn
        try:
            object.__setattr__(turn, "outcome", checked_score(f"outcome of scenario {self.scenario.id!r}", outcome, turn))
        except RewardError as error:
            raise ScenarioError(str(error)) from None
        return turn

    def _begin(self) -> Dialogue:
        try:
            return self.scenario.begin(self.seed)
        except Exception as error:
            raise self._failed(0, "failed to begin", error) from error

    def _ask(self, dialogue: Dialogue, turn: int, heard: Sequence[Turn]) -> Interaction | None:
        try:
            return dialogue.say(heard)
        except Exception as error:
            raise self._failed(turn, "failed to say something", error) from error

    def _spoken(self, turn: int, said: Interaction) -> Spoken:
        if not isinstance(said, Interaction):
            raise self._broke(turn, f"must say an rxrl.types.Interaction or None, but gave {type(said).__name__}")
        if self._scripted:
            return self._speech.scripted(self.scenario, turn, said)
        if not isinstance(said.query, str) or not heard(said).strip():
            raise self._broke(turn, f"must say a text, but its query is {said.query!r}")
        if tokens := self._speech.too_long(turn, said):
            raise self._broke(turn, f"says a query of {tokens} tokens, but at most {self._speech.limits.query} fit")
        return self._speech.of(self.scenario, turn, said)

    def _failed(self, turn: int, what: str, error: Exception) -> ScenarioError:
        why = str(error) if isinstance(error, RxrlError) else reason(error)
        return ScenarioError(f"Scenario {self.scenario.id!r} {what} at turn {turn}: {why}")

    def _broke(self, turn: int, what: str) -> ScenarioError:
        return ScenarioError(f"Scenario {self.scenario.id!r}, turn {turn}: it {what}.")

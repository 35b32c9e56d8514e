"""`rxrl play --as user`: a person is the user and types the queries, a policy answers from its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from rxrl.cli.person import at_terminal, typed
from rxrl.cli.tally import Tally, memory_line
from rxrl.envs.batch import answer_rows
from rxrl.envs.render import ANSWER, BAD, GOOD, MARGIN, Line, print_lines
from rxrl.envs.scenarios import Game, GameDialogue, text_turn
from rxrl.errors import ConfigError
from rxrl.players import GamePlayer, Play
from rxrl.seeding import derive_seed, generator
from rxrl.types import Conversation, Interaction, SavedInteraction, Scenario, Score, TokenBatch, Turn, interaction_ids, prompt_ids

ENTER = "Enter says it, other words are your own, Ctrl-D ends."


class Talk:
    """A conversation whose user is a person.

    Args:
        game: The policy, and the environment whose memory, codec and limits it plays with.
        scenario: Gives the beginning, and the hints of what its own user would say.
        seed: Seed of the initial memory and of sampled answers.
        sampled: Whether answers are sampled.
    """

    def __init__(self, game: Play, scenario: Scenario, *, seed: int, sampled: bool) -> None:
        self.envs, self.policy = game
        self.scenario, self.sampled, self.seed = scenario, sampled, seed
        own = derive_seed(seed, "stm0", scenario.id)
        self.dialogue = scenario.begin(own)
        self.memory: Any = self.envs.backend.init([own])
        self.history: list[SavedInteraction] = []
        self.turns: list[Turn] = []
        self._known = ""

    def play(self, tally: Tally) -> None:
        """Talks until the scenario is over.

        Raises:
            EOFError: The person has ended the input.
        """
        first = self.dialogue.first
        print_lines([Line("", self.scenario.id, "bold underline"), Line("told:", first.query, "bold"), Line(ANSWER, first.answer)])
        self._write(first.query, self.envs.codec.encode(first.answer), first.answer)
        for proposed in self._proposals():
            asked = self._query(proposed)
            # The players of a scenario know the words of its own user alone: they hear those, which the outcome goes by, too.
            heard = proposed.query if proposed is not None and isinstance(self.policy, GamePlayer) else asked.query
            ids = self._answer(heard)
            turn = text_turn(self.scenario, len(self.turns) + 1, asked, self.envs.codec.decode(ids), tuple(self.history))
            outcome = self.dialogue.judge(turn)
            self.turns.append(replace(turn, outcome=outcome))
            print_lines([Line(ANSWER, turn.answer, "cyan"), *_verdict(asked, turn, outcome)])
            tally.note(outcome)
            self._write(heard, ids, turn.answer)

    def _proposals(self) -> Iterator[Interaction | None]:
        """What the user of the scenario would say, turn by turn; nothing where a conversation has no more queries."""
        while True:
            more = len(self.turns) < self.scenario.steps
            proposed = self.dialogue.say(self.turns) if more else None
            if proposed is None and not isinstance(self.scenario, Conversation):
                return
            yield proposed

    def _query(self, proposed: Interaction | None) -> Interaction:
        """What the person says: a line of its own, or what is proposed."""
        if (secret := self._secret()) != self._known:
            self._known = secret
            print_lines([Line("", f"you know: {secret}", "magenta")])
        if proposed is not None:
            print_lines([Line("hint:", proposed.query, "dim"), *([Line("", ENTER, "dim")] if not self.turns and at_terminal() else [])])
        number = f"{len(self.turns) + 1} Q:"
        while True:
            text = typed(f"{number:>{MARGIN}} ").strip()
            if not text and proposed is None:
                continue
            asked = proposed if proposed is not None and text in ("", proposed.query) else Interaction(text)
            tokens, most = len(self.envs.codec.encode(asked.query)), self.envs.limits.query
            if tokens <= most:
                break
            print_lines([Line("", f"That is {tokens} tokens long, but at most {most} fit: say it in fewer words.", "red")])
        # A person sees the own words already.
        if not (text and at_terminal()):
            print_lines([Line(number, asked.query, "bold")])
        return asked

    def _answer(self, heard: str) -> list[int]:
        """Ids of what the policy answers to a query."""
        draws = [generator(self.seed, "answer", self.scenario.id, len(self.turns) + 1)] if self.sampled else None
        prompt = TokenBatch.pad([prompt_ids(self.envs.codec.encode(heard))])
        return answer_rows(self.policy.act(prompt, self.memory, draws), 1)[0][: self.envs.limits.answer]

    def _write(self, query: str, answer_ids: Sequence[int], answer: str) -> None:
        """Writes an interaction into memory, and says what that did."""
        before = self.memory
        ids = interaction_ids(*self.envs.limits.fit(self.envs.codec.encode(query), answer_ids))
        self.memory = self.envs.backend.write(before, TokenBatch.pad([ids]), torch.tensor([True]))
        self.history.append(SavedInteraction(query, answer, (), ()))
        if (line := memory_line(before, self.memory)) is not None:
            print_lines([line])

    def _secret(self) -> str:
        """What the user of a game knows now."""
        if isinstance(self.scenario, Game) and isinstance(self.dialogue, GameDialogue):
            return self.scenario.secret(self.dialogue.state([turn.answer for turn in self.turns]))
        return ""


def check_answering(policy: str | None, reward: str | None, forced: bool) -> str:
    """Who answers a person.

    Raises:
        ConfigError: Nobody does, or an option goes with conversations that are scored.
    """
    if policy is None or policy in ("person", "oracle"):
        raise ConfigError("With --as user you ask and another answers: add --policy with a checkpoint, best, blind, or another player.")
    if reward is not None or forced:
        name = "--reward" if reward is not None else "--teacher-forcing"
        raise ConfigError(f"{name} is for conversations that are scored: with --as user the scenario judges the answers, so leave it out.")
    return policy


def _verdict(asked: Interaction, turn: Turn, outcome: Score | None) -> list[Line]:
    """What the scenario says of an answer, and the right one where it is written down."""
    if outcome is not None and outcome.value is not None:
        terms = [f"{name} {'-' if value is None else f'{value:.1f}'}" for name, value in outcome.terms.items()]
        style = "green" if outcome.value >= GOOD else "red" if outcome.value <= BAD else "yellow"
        return [Line("", ", ".join([f"outcome {outcome.value:.1f}", *terms]), style)]
    wrong = asked.answer and asked.answer.strip() != turn.answer.strip()
    return [Line("", f"reference: {asked.answer}", "dim")] if wrong else []

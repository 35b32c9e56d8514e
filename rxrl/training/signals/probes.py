"""Questions about told facts after every write: memory is to hold them all, not only what the next turn happens to ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field
from torch import Tensor

from rxrl.config import BaseConfig
from rxrl.seeding import Draws
from rxrl.training.lessons import Item, Lesson
from rxrl.training.signals.questions import Phrasing, fitting
from rxrl.training.signals.signal import Material, Signal, SignalInputs
from rxrl.types import Conversation, Scenario, prompt_ids


class ProbesOptions(BaseConfig):
    """Options of `probes`."""

    per_write: int = Field(1, ge=1, description="Questions after each write; fewer where fewer facts are in force.")


def prepare(material: Material) -> Lesson:
    """Questions for some of the facts that are in force when a turn begins, drawn anew for each turn."""
    known, ids = material.phrasings(), material.row_keys()
    number, iteration = material.options.per_write, material.rollout.iteration

    def items(turn: int, row: int, told: Mapping[str, str]) -> list[Item]:
        draws = Draws(material.seed, "probe", iteration, *ids[row], turn)
        return _drawn(material, known, told, number, draws)

    asked = [[items(turn, row, told) for row, told in enumerate(rows)] for turn, rows in enumerate(material.rollout.told)]
    return Lesson.of(asked, material.max_length, material.rollout.rewards)


def _drawn(material: Material, known: Mapping[str, Sequence[Phrasing]], told: Mapping[str, str], number: int, draws: Draws) -> list[Item]:
    found: list[Item] = []
    for key in draws.shuffled(sorted(told)):
        if questions := fitting(known, key, told[key]):
            query, answer = draws.choice(questions)
            found.append((prompt_ids(material.codec.encode(query)), material.codec.encode(answer)))
        if len(found) == number:
            break
    return found


def loss(inputs: SignalInputs) -> Tensor:
    """-log pi(right answer given question and memory), summed over tokens and questions."""
    return -inputs.log_probs().sum(-1)


def _lacks(scenario: Scenario) -> str | None:
    if isinstance(scenario, Conversation):
        interactions = scenario.interactions
        return None if any(each.facts for each in interactions) and any(each.asks for each in interactions) else "facts and asks"
    return "told facts with questions for them"


PROBES = Signal("probes", loss, prepare, ProbesOptions, _lacks, "Questions about told facts after every write, whatever is asked next.")

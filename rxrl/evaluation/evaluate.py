"""One call from a policy and held-out conversations to everything a report needs; the command line is a thin shell around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rxrl.envs import ConversationVectorEnv
from rxrl.evaluation.metrics import RESAMPLES, cost_by_turn, summarise, summarise_controls
from rxrl.evaluation.play import TRUE, Playthrough, play_conditions
from rxrl.evaluation.records import write_records
from rxrl.types import Conversation, Policy
from rxrl.writing import write_json


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Records and summaries of one evaluation.

    Attributes:
        records: Turns with the true memory.
        control_records: Turns of each control.
        summary: As `summarise` gives it.
        controls: As `summarise_controls` gives it.
        cost: As `cost_by_turn` gives it; the only part that holds times.
    """

    records: Playthrough
    control_records: Mapping[str, Playthrough]
    summary: dict[str, Any]
    controls: dict[str, Any]
    cost: list[dict[str, Any]]

    @classmethod
    def of(cls, played: Mapping[str, Playthrough], *, seed: int, resamples: int = RESAMPLES) -> Evaluation:
        """Summarises what `play_conditions` gives; `seed` keys the bootstrap."""
        true, controls = played[TRUE], {name: records for name, records in played.items() if name != TRUE}
        return cls(
            records=true,
            control_records=controls,
            summary=summarise(true, seed=seed, resamples=resamples),
            controls=summarise_controls(true, controls, seed=seed, resamples=resamples),
            cost=cost_by_turn(true.costs),
        )

    def save(self, folder: str | Path) -> Path:
        """Writes `evaluation.json`, `transcripts.jsonl` and `transcripts.<control>.jsonl`; returns the path of the first."""
        folder = Path(folder)
        write_records(folder / "transcripts.jsonl", self.records)
        for control, records in self.control_records.items():
            write_records(folder / f"transcripts.{control}.jsonl", records)
        return write_json(folder / "evaluation.json", {**self.summary, "controls": self.controls, "cost": self.cost})


def evaluate(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Conversation],
    *,
    seed: int,
    greedy: bool = True,
    controls: Sequence[str] = (),
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Plays held-out conversations, with controls, and summarises them.

    Args:
        env: Environment with the memory backend that belongs to the policy; its random resets are not used.
        policy: Answers the queries.
        conversations: Held-out conversations, each id once.
        seed: Keys every draw, the bootstrap's too.
        greedy: Likeliest tokens; sampled answers otherwise.
        controls: Any of `rxrl.evaluation.CONTROLS`.
        resamples: Number of bootstrap samples.

    Returns:
        Records, summaries and cost.
    """
    played = play_conditions(env, policy, conversations, seed=seed, greedy=greedy, controls=controls)
    return Evaluation.of(played, seed=seed, resamples=resamples)

"""One call from a policy and held-out conversations to everything a report needs; the command line is a thin shell around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rxrl.envs import ConversationVectorEnv
from rxrl.errors import DataError
from rxrl.evaluation.headlines import as_html, as_latex, described
from rxrl.evaluation.metrics import RESAMPLES, cost_by_turn, summarise, summarise_controls
from rxrl.evaluation.play import CONTROLS, WHOLE_CONTROLS, Playthrough, play_parts
from rxrl.evaluation.records import read_records, write_records
from rxrl.evaluation.resuming import TRUE, Watch
from rxrl.evaluation.scenarios import summarise_scenarios
from rxrl.reading import OBJECT, Refusal, read_json
from rxrl.terminal import data_as_named
from rxrl.types import Conversation, Policy, Scenario
from rxrl.writing import write_json

if TYPE_CHECKING:
    import pandas as pd

EVALUATION_FILE, TIMINGS_FILE = "evaluation.json", "timings.json"
PARTS = ("controls", "cost", "scenarios", "about", "suite", "stress")
"""Keys of evaluation.json beside those of the summary."""
_TRANSCRIPTS = "transcripts"
_REFUSAL = Refusal(DataError, "make it again with an evaluation")


@dataclass(frozen=True, slots=True, repr=False)
class Evaluation:
    """Records and summaries of one evaluation.

    Attributes:
        records: Turns with the true memory.
        control_records: Turns of each control.
        summary: As `summarise` gives it.
        controls: As `summarise_controls` gives it.
        cost: As `cost_by_turn` gives it; the only part that holds times.
        scenarios: As `summarise_scenarios` gives it; empty where no games were played.
        about: What was evaluated and how, as plain values.
        suite: As `rxrl.evaluation.suites.suite_summary` gives it; empty where no suite was played.
        stress: By the name of an axis, what `rxrl.evaluation.axes.curves` gives; empty where no axis was played.
    """

    records: Playthrough
    control_records: Mapping[str, Playthrough]
    summary: dict[str, Any]
    controls: dict[str, Any]
    cost: list[dict[str, Any]]
    scenarios: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    suite: dict[str, Any] = field(default_factory=dict)
    stress: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, played: Mapping[str, Playthrough], *, seed: int, resamples: int = RESAMPLES, scenarios: Sequence[Scenario] = ()
    ) -> Evaluation:
        """Summarises what `play_conditions` gives; `seed` keys the bootstrap, `scenarios` are what was played, for the bounds of games.

        Of a mix, `summary` and `controls` are those of the conversations alone, and `scenarios` those of each game.
        """
        true, controls = played[TRUE], {name: records for name, records in played.items() if name != TRUE}
        games = {each.id for each in scenarios if not isinstance(each, Conversation)}
        apart = games if len(games) < len(scenarios) else set()
        told = {name: records.without(apart) for name, records in played.items() if name not in WHOLE_CONTROLS}
        own = told.pop(TRUE)
        return cls(
            records=true,
            control_records=controls,
            summary=summarise(own, seed=seed, resamples=resamples),
            controls=summarise_controls(own, told, seed=seed, resamples=resamples),
            cost=cost_by_turn(true.costs),
            scenarios=summarise_scenarios(scenarios, played, seed=seed, resamples=resamples),
        )

    @classmethod
    def load(cls, folder: str | Path) -> Evaluation:
        """Reads what `save` wrote.

        Raises:
            DataError: A file is missing, or is not what an evaluation writes.
        """
        folder = Path(folder)
        content = read_evaluation(folder)
        parts = {name: content.pop(name) for name in PARTS}
        played = {name: Playthrough(read_records(path)) for name, path in _control_files(folder).items() if path.is_file()}
        return cls(Playthrough(read_records(folder / f"{_TRANSCRIPTS}.jsonl")), played, content, **parts)

    def save(self, folder: str | Path) -> Path:
        """Writes `evaluation.json`, `transcripts.jsonl`, `transcripts.<control>.jsonl` and `timings.json`; returns the path of the first.

        All but the last have the same bytes whenever the same is evaluated. Transcripts of controls that an earlier evaluation left in the
        folder, and that this one did not play, are removed.
        """
        folder = Path(folder)
        write_records(folder / f"{_TRANSCRIPTS}.jsonl", self.records)
        for control, records in self.control_records.items():
            write_records(folder / f"{_TRANSCRIPTS}.{control}.jsonl", records)
        write_json(folder / TIMINGS_FILE, {"cost": [{"turn": row["turn"], "seconds": row["seconds"]} for row in self.cost]})
        cost = [{name: value for name, value in row.items() if name != "seconds"} for row in self.cost]
        found = {**self.summary, "controls": self.controls, "cost": cost, "scenarios": self.scenarios}
        more = {"about": data_as_named(self.about), "suite": self.suite, "stress": self.stress}
        written = write_json(folder / EVALUATION_FILE, found | {name: part for name, part in more.items() if part})
        for control, path in _control_files(folder).items():
            if control not in self.control_records:
                path.unlink(missing_ok=True)
        return written

    def __repr__(self) -> str:
        return described(self.summary, self.controls, self.scenarios)

    def _repr_html_(self) -> str:
        return as_html(self.summary, self.controls, self.scenarios)

    def to_latex(self, *, caption: str = "", label: str = "") -> str:
        """The headline numbers as a LaTeX table (package `booktabs`).

        Args:
            caption: Caption; without one, only the `tabular` environment is written.
            label: Label of the table.
        """
        return as_latex(self.summary, self.controls, self.scenarios, caption=caption, label=label)

    def to_pandas(self, *, controls: bool = False) -> pd.DataFrame:
        """A data frame with one row a turn; `rxrl.evaluation.frames.COLUMNS` describes its columns.

        Args:
            controls: Whether the turns of the controls follow, told apart by the column `condition`.
        """
        from rxrl.evaluation.frames import to_pandas  # noqa: PLC0415 - pandas takes its time, and training needs none

        others = self.control_records.values() if controls else ()
        return to_pandas(record for records in (self.records, *others) for record in records)


def _control_files(folder: Path) -> dict[str, Path]:
    """The transcript of each control, whether it is there or not."""
    return {control: folder / f"{_TRANSCRIPTS}.{control}.jsonl" for control in sorted((*CONTROLS, *WHOLE_CONTROLS))}


def read_evaluation(folder: str | Path) -> dict[str, Any]:
    """Content of the evaluation.json of a folder, with the times of its timings.json; all of `PARTS` are there.

    Raises:
        DataError: A file is missing or is not what an evaluation writes.
    """
    source, timings = Path(folder) / EVALUATION_FILE, Path(folder) / TIMINGS_FILE
    content = {**{name: {} for name in PARTS}, **read_json(source, OBJECT, _REFUSAL)}
    times = read_json(timings, OBJECT, _REFUSAL) if timings.is_file() else {}
    try:
        seconds = {row["turn"]: row["seconds"] for row in times.get("cost", ())}
        content["cost"] = [{**row, "seconds": row.get("seconds", seconds.get(row["turn"]))} for row in content["cost"]]
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(f"{source} does not hold what an evaluation writes ({error}): make the file again with an evaluation.") from error
    return content


def evaluate(
    env: ConversationVectorEnv,
    policy: Policy,
    conversations: Sequence[Scenario],
    *,
    seed: int,
    greedy: bool = True,
    controls: Sequence[str] = (),
    resamples: int = RESAMPLES,
    watch: Watch | None = None,
) -> Evaluation:
    """Plays held-out conversations, with controls, and summarises them.

    Args:
        env: Environment with the memory backend that belongs to the policy; its random resets are not used.
        policy: Answers the queries.
        conversations: Held-out conversations, each id once.
        seed: Keys every draw, the bootstrap's too.
        greedy: Likeliest tokens; sampled answers otherwise.
        controls: Any of `rxrl.evaluation.CONTROLS` and `rxrl.evaluation.WHOLE_CONTROLS`. In a mix of conversations and scenarios the former
            are those of the conversations, and the latter of the scenarios.
        resamples: Number of bootstrap samples.
        watch: Follows the evaluation, and keeps what was played.

    Returns:
        Records, summaries and cost.
    """
    played = play_parts(env, policy, conversations, seed=seed, greedy=greedy, controls=controls, watch=watch)
    return Evaluation.of(played, seed=seed, resamples=resamples, scenarios=conversations)

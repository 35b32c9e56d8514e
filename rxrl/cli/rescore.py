"""`rxrl rescore TRANSCRIPTS --reward ...`: other rewards for stored transcripts, without playing them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rxrl.cli.console import plain_console
from rxrl.cli.output import writable_file
from rxrl.errors import ConfigError, DataError
from rxrl.evaluation import TurnRecord, read_records, rescore, write_records
from rxrl.factory import TokenEmbeddings, load_checkpoint
from rxrl.rewards import Weighted, load_reward, read_spec
from rxrl.runs.folder import claimed_around
from rxrl.scoring import without_score

_BARS = " ▁▂▃▄▅▆▇█"
_BINS = 10
_LEAST_PAIRS = 3


def rescore_transcripts(
    transcripts: Annotated[
        list[Path], typer.Argument(help="Transcripts (JSONL) of an evaluation, a game or a training.", show_default=False)
    ],
    reward: Annotated[
        list[str],
        typer.Option(help="Reward: a name, a mapping, a YAML file or path/file.py:function. Repeatable; the first one becomes the reward."),
    ],
    out: Annotated[
        Path | None, typer.Option(callback=writable_file, help="File for the scored transcripts. Default: none is written.")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Checkpoint whose token embeddings rewards such as classic use.")] = None,
    time_limit: Annotated[float | None, typer.Option(min=0.1, help="Time limit for a batch, in seconds.")] = None,
) -> None:
    """Score stored transcripts again with other rewards; no model is needed."""
    if out is not None and out.exists() and any(out.samefile(path) for path in transcripts if path.exists()):
        raise ConfigError(f"{out} is one of the transcripts that are read: give --out another name.")
    with claimed_around(out):
        console = plain_console()
        handed_in: dict[str, Any] = {"notify": console.print}
        if checkpoint is not None:
            handed_in["embed"] = TokenEmbeddings(load_checkpoint(checkpoint)[0])
        rewards = {spec: load_reward(read_spec(spec), time_limit, **handed_in) for spec in dict.fromkeys(reward)}
        records = [record for path in transcripts for record in read_records(path)]
        if not records:
            raise DataError(f"{', '.join(map(str, transcripts))} hold no turns: give transcripts of an evaluation, a game or a training.")
        first = next(iter(rewards))
        weighted = Weighted({name: (float(name == first), function) for name, function in rewards.items()})
        scored = rescore(records, weighted if len(rewards) > 1 else rewards[first])
        console.print(_table(records, scored, first))
        for name in rewards:
            values = [record.reward if name == first else _term(record.terms, name) for record in scored]
            if nothing := without_score(name, values):
                console.print(nothing, soft_wrap=True)
        if out is not None:
            write_records(out, scored)
            console.print(f"Wrote {len(scored)} turns with reward {first} to {out}.", soft_wrap=True)


def _table(before: Sequence[TurnRecord], after: Sequence[TurnRecord], name: str) -> Table:
    """Means, spreads and histograms of the old reward, the new one and its terms."""
    conversations = len({record.turn.conversation_id for record in after})
    title = f"{len(after)} turns of {conversations} conversation{'s' * (conversations != 1)}"
    table = Table("", title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, caption_justify="left")
    for heading in ("turns", "mean", "std", "lowest", "highest", "with retention"):
        table.add_column(heading, justify="right")
    table.add_column("0 to 10")
    table.caption = "turns: where it applies. with retention: correlation with it over asking turns; a reward that parts from it is gamed."
    retention = [record.retention for record in after]
    stored = [record.reward for record in before]
    if any(value is not None for value in stored):
        table.add_row("reward as stored", *_row(stored, retention))
    table.add_row(Text(name), *_row([record.reward for record in after], retention))
    terms = dict.fromkeys(term for record in after for term in record.terms)
    for term in terms:
        if term != name:
            table.add_row(Text(f"  {term}"), *_row([_term(record.terms, term) for record in after], retention))
    return table


def _term(terms: Mapping[str, float | None], name: str) -> float | None:
    return terms.get(name)


def _row(values: Sequence[float | None], retention: Sequence[float | None]) -> list[str]:
    known = np.array([value for value in values if value is not None])
    if not len(known):
        return ["0", *[""] * 6]
    pairs = np.array([pair for pair in zip(values, retention, strict=True) if None not in pair], dtype=float)
    varied = len(pairs) >= _LEAST_PAIRS and (pairs.std(axis=0) > 0).all()
    together = f"{np.corrcoef(pairs.T)[0, 1]:+.2f}" if varied else ""
    numbers = (known.mean(), known.std(), known.min(), known.max())
    return [str(len(known)), *(f"{number:.2f}" for number in numbers), together, _histogram(known)]


def _histogram(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    counts, _ = np.histogram(values, bins=_BINS, range=(0.0, 10.0))
    heights = np.ceil(counts / max(1, counts.max()) * (len(_BARS) - 1)).astype(int)
    return "".join(_BARS[height] for height in heights)

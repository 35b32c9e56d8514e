"""Records of an evaluation as a data frame, one row a turn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd

from rxrl.evaluation.records import TurnRecord

Column = Callable[[TurnRecord], Any]


def _attributes(record: TurnRecord) -> str:
    return ", ".join(key.rpartition(".")[2] for key in record.turn.expected)


COLUMNS: Mapping[str, tuple[str, Column]] = {
    "condition": ("`true` for the model's own memory, else the control.", lambda record: record.control or "true"),
    "conversation": ("Id of the conversation.", lambda record: record.turn.conversation_id),
    "turn": ("Number of the turn, from 1.", lambda record: record.turn.index),
    "steps": ("Turns of the conversation.", lambda record: record.turn.steps),
    "strategy": ("Structure of the conversation.", lambda record: record.turn.strategy),
    "kind": ("Kind of interaction, as the data calls it.", lambda record: record.turn.kind),
    "asking": ("Whether the turn asks for something that memory must supply.", lambda record: record.retention is not None),
    "unknown": ("Whether what is asked was never told.", lambda record: record.turn.unknown),
    "distance": ("Turns since the asked fact was last told or said; missing where nothing is asked.", lambda record: record.turn.distance),
    "retention": ("F1 of the asked facts in the answer, from 0 to 1; missing where nothing is asked.", lambda record: record.retention),
    "exact": ("Whether the answer is exactly right; missing where nothing is asked.", lambda record: record.exact),
    "reward": ("Reward of the turn, from 0 to 10; missing where it was not scored.", lambda record: record.reward),
    "outcome": ("What the scenario made of the answer, from 0 to 10; missing for conversations.",
                lambda record: None if record.turn.outcome is None else record.turn.outcome.value),
    "query": ("What the user said.", lambda record: record.turn.query),
    "answer": ("What the model answered.", lambda record: record.turn.answer),
    "reference": ("The answer in the data.", lambda record: record.turn.reference),
    "attribute": ("What is asked for, without whose it is; several are joined by commas.", _attributes),
    "expected": ("The values that are right; several are joined by commas.", lambda record: ", ".join(record.turn.expected.values())),
}  # fmt: skip
"""Columns of `to_pandas`: what each holds, and how it is read off a record. Parts of the reward follow as `term_NAME`."""

_TYPES = {"distance": "Int64", "retention": "float64", "exact": "boolean", "reward": "float64", "outcome": "float64"}
"""Types of the columns that may lack values; a column without any would otherwise hold objects."""


def to_pandas(records: Iterable[TurnRecord]) -> pd.DataFrame:
    """A data frame with one row a turn and the columns of `COLUMNS`; each part of the reward has a column `term_NAME`.

    Args:
        records: Turns of one or several conditions, in the order of the rows.
    """
    records = list(records)
    table = {name: [read(record) for record in records] for name, (_, read) in COLUMNS.items()}
    terms = sorted({name for record in records for name in record.terms})
    table |= {f"term_{name}": [record.terms.get(name) for record in records] for name in terms}
    return pd.DataFrame(table).astype(_TYPES | {f"term_{name}": "float64" for name in terms})

"""Rewards of TRL run here, and rewards of rxrl run in TRL; neither direction imports TRL.

TRL calls `f(prompts, completions, completion_ids, **columns) -> list[float | None]`, with one entry for each completion.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from typing import Any, ClassVar, Self

from pydantic import Field, PrivateAttr, model_validator

from rxrl.errors import ConfigError, RewardError, unknown_name
from rxrl.registry import absolute, load_object
from rxrl.rewards.embedding import word_ids
from rxrl.rewards.options import Options
from rxrl.scoring import reward_name, score_turns
from rxrl.types import RewardFunction, SavedInteraction, Score, Turn

TRLReward = Callable[..., Any]
COLUMN = "turn"
"""Column of `trl_row` that holds the turn as JSON."""
_TEXTS = {"query", "answer", "reference"}
_SKIPPED = {"trainer_state", "log_extra", "log_metric", "environments"}


class FromTRL(Options):
    """A reward function written for TRL. Its numbers from `low` to `high` become 0 to 10.

    It is given as columns every attribute of the turn by its name (`reference`, `expected`, `distance`, ...) and all extra
    columns of the data set; `columns` adds others under new names.
    """

    name: ClassVar[str] = "from_trl"

    function: Any = Field(description="The function, or its name: package.module:function or path/file.py:function.")
    low: float = Field(0.0, description="What it returns for the worst answer.")
    high: float = Field(1.0, description="What it returns for the best answer.")
    conversational: bool = Field(False, description="Whether it expects messages (role, content) in place of texts.")
    columns: dict[str, str] = Field({}, description="New name of a column -> the attribute or column that it holds.")
    _loaded: TRLReward | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _ready(self) -> Self:
        if not self.high > self.low:
            raise ValueError(f"`high` must be above `low`, got {self.high:g} and {self.low:g}")
        self._target()
        return self

    def _target(self) -> TRLReward:
        if self._loaded is None:
            function = load_object(self.function, "reward") if isinstance(self.function, str) else self.function
            if not callable(function):
                raise RewardError(f"Reward {self.function!r} must be a function, but is {type(function).__name__}.")
            self._loaded = function
        return self._loaded

    def __call__(self, turns: Sequence[Turn]) -> Sequence[Score] | Awaitable[Sequence[Score]]:
        """One score for each turn, of an asynchronous function once it is awaited."""
        found = self._target()(
            prompts=[self._prompt(turn) for turn in turns],
            completions=[self._completion(turn) for turn in turns],
            completion_ids=[list(turn.answer_ids) for turn in turns],
            **self._columns(turns),
        )
        return self._later(found, turns) if inspect.isawaitable(found) else self._scores(found, turns)

    async def _later(self, found: Awaitable[Any], turns: Sequence[Turn]) -> list[Score]:
        return self._scores(await found, turns)

    def _scores(self, found: Any, turns: Sequence[Turn]) -> list[Score]:
        values = list(found)
        if len(values) != len(turns):
            name = reward_name(self._target())
            raise RewardError(f"Reward {name!r} must return one score for each of the {len(turns)} turns, but returned {len(values)}.")
        return [Score(None if value is None else self._scaled(float(value))) for value in values]

    def _scaled(self, value: float) -> float:
        if not self.low <= value <= self.high:
            name = reward_name(self._target())
            raise RewardError(f"Reward {name!r} returned {value:g}, not from low={self.low:g} to high={self.high:g}: set those two to fit.")
        return 10.0 * (value - self.low) / (self.high - self.low)

    def _prompt(self, turn: Turn) -> str | list[dict[str, str]]:
        if not self.conversational:
            return turn.query
        messages = [message for each in turn.history for message in (_message("user", each.query), _message("assistant", each.answer))]
        return [*messages, _message("user", turn.query)]

    def _completion(self, turn: Turn) -> str | list[dict[str, str]]:
        return [_message("assistant", turn.answer)] if self.conversational else turn.answer

    def _columns(self, turns: Sequence[Turn]) -> dict[str, list[Any]]:
        rows = [_attributes(turn) for turn in turns]
        names = dict.fromkeys(name for row in rows for name in row)
        found = {name: [row.get(name) for row in rows] for name in names}
        for new, old in self.columns.items():
            if old not in found:
                name = reward_name(self._target())
                raise ConfigError(f"Reward {name!r}, column {new!r}: {unknown_name('column', old, found)}")
            found[new] = found[old]
        return found

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        if isinstance(self.function, str):
            # A function of a file lives in a module that other processes do not have: they load it anew.
            state["__dict__"] = {**state["__dict__"], "function": absolute(self.function)}
            state["__pydantic_private__"] = {"_loaded": None}
        return state


def from_trl(function: TRLReward | str, **options: Any) -> FromTRL:
    """A reward of TRL as a reward of rxrl.

    Args:
        function: As TRL wants it, sync or async; or its name.
        options: As `FromTRL` has them: `low`, `high`, `conversational`, `columns`.

    Returns:
        A reward function.
    """
    return FromTRL(function=function, **options)


def to_trl(reward: RewardFunction, *, encode: Callable[[str], Sequence[int]] | None = None) -> TRLReward:
    """A reward of rxrl as TRL's trainers take it.

    Args:
        reward: Any reward function; `rxrl.rewards.load_reward` makes one from a name.
        encode: Text -> token ids, for rewards that look at tokens. None numbers words.

    Returns:
        A function of TRL. It reads the column `turn` that `trl_row` makes; without one, columns named as attributes of
        `rxrl.types.Turn` (`reference`, `expected`, `asking`, ...), all others becoming `extra`.
    """

    def scores(
        prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        known = {name: column for name, column in columns.items() if name not in _SKIPPED}
        rows = [{name: column[row] for name, column in known.items()} for row in range(len(completions))]
        pairs = zip(prompts, completions, rows, strict=True)
        turns = [_turn(_text(prompt), _text(completion), row, encode or word_ids) for prompt, completion, row in pairs]
        return [score.value for score in score_turns(reward, turns)]

    scores.__name__ = scores.__qualname__ = reward_name(reward).replace(":", ".")
    return scores


def trl_row(turn: Turn, *, conversational: bool = False) -> dict[str, Any]:
    """A row of a data set for TRL: the dialogue up to the query as `prompt`, and everything a reward may look at as JSON.

    Args:
        turn: A turn; its answer does not matter.
        conversational: Whether the prompt is a list of messages; otherwise its lines are the texts.

    Returns:
        `{"prompt": ..., "turn": ...}`.
    """
    said = [text for each in turn.history for text in (each.query, each.answer)]
    messages = [_message("user" if place % 2 == 0 else "assistant", text) for place, text in enumerate([*said, turn.query])]
    kept = {name: value for name, value in asdict(turn).items() if not name.endswith("_ids") and name != "answer"}
    for name in ("saved", "history"):
        kept[name] = [{"query": each["query"], "answer": each["answer"]} for each in kept[name]]
    return {"prompt": messages if conversational else "\n".join([*said, turn.query]) + "\n", COLUMN: json.dumps(kept, ensure_ascii=False)}


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _text(given: Any) -> str:
    """The text of a completion or prompt, the last message where it has several."""
    return given if isinstance(given, str) else str(given[-1]["content"])


def _attributes(turn: Turn) -> dict[str, Any]:
    return {**turn.extra, **{item.name: getattr(turn, item.name) for item in fields(turn) if item.name not in ("answer", "extra")}}


def _turn(query: str, answer: str, row: Mapping[str, Any], encode: Callable[[str], Sequence[int]]) -> Turn:
    given = {**row, **json.loads(row[COLUMN])} if COLUMN in row else dict(row)
    own = {item.name: item.default if item.default is not MISSING else None for item in fields(Turn)}
    # Data sets give every row all keys of a column of mappings: those without a value are not there.
    values = {name: _present(given[name]) for name in own if given.get(name) is not None}
    extra = {name: value for name, value in given.items() if name not in own and name != COLUMN}
    texts = {"query": values.get("query", query), "answer": answer, "reference": values.get("reference", "")}
    asks = bool(values.get("expected") or values.get("unknown"))
    return Turn(
        **{
            "conversation_id": "trl", "index": 1, "steps": 1, "strategy": "multi-step", "asking": asks, "asks_known": True,
            **{name: value for name, value in values.items() if name not in ("extra", "saved", "history", *_TEXTS)},
            **texts,
            **{f"{name}_ids": tuple(encode(text)) for name, text in texts.items()},
            **{name: tuple(_interaction(each, encode) for each in values.get(name, ())) for name in ("saved", "history")},
            "extra": {**extra, **values.get("extra", {})},
        }
    )  # fmt: skip


def _present(value: Any) -> Any:
    """Without keys that have no value; lists in mappings as tuples, as in `Turn`."""
    if not isinstance(value, Mapping):
        return value
    return {key: tuple(each) if isinstance(each, list) else each for key, each in value.items() if each is not None}


def _interaction(each: Mapping[str, str], encode: Callable[[str], Sequence[int]]) -> SavedInteraction:
    return SavedInteraction(each["query"], each["answer"], tuple(encode(each["query"])), tuple(encode(each["answer"])))

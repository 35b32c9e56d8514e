"""Rewards of TRL run here, and rewards of rxrl run in TRL; neither direction imports TRL.

TRL calls `f(prompts, completions, completion_ids, **columns) -> list[float | None]`, with one entry for each completion. Columns are those
of the data set, except for the names that TRL uses itself; `trainer_state`, `log_extra` and `log_metric` come along, and `environments`
where there are some. A text is a string or, in a conversational data set, a list of messages.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from rxrl.errors import ConfigError, RewardError, unknown_name
from rxrl.reading import json_value
from rxrl.registry import absolute, load_object
from rxrl.rewards.embedding import word_ids
from rxrl.rewards.options import Options
from rxrl.scoring import HIGHEST, ROUNDING, as_number, listed, reward_name, score_turns
from rxrl.types import RewardFunction, SavedInteraction, Score, Turn

TRLReward = Callable[..., Any]
COLUMN = "turn"
"""Column of `trl_row` that holds the turn as JSON."""
RESERVED = frozenset(
    ("prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")
)
"""Arguments of TRL's own: a column of a data set that is named so is not handed to a reward function."""


class FromTRL(Options):
    """A reward function written for TRL. Its numbers from `low` to `high` become 0 to 10.

    It is given as columns every attribute of the turn by its name (`reference`, `expected`, `distance`, ...) and all extra
    columns of the data set; `columns` adds others under new names. NaN counts as None. Its metrics and logged columns go nowhere, and
    `trainer_state` is None: only TRL's trainers have one.
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
        if taken := sorted(RESERVED & self.columns.keys()):
            raise ValueError(f"`columns` cannot name a column {taken[0]!r}: TRL hands over something else under this name")
        parameter = _parameters(self._target()).get("trainer_state")
        if parameter is not None and parameter.default is parameter.empty:
            raise ValueError("the function needs `trainer_state`, which only TRL's trainers have: give it a default, and handle None")
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
            **_of_trainer(self._target()),
        )
        return self._later(found, turns) if inspect.isawaitable(found) else self._scores(found, turns)

    async def _later(self, found: Awaitable[Any], turns: Sequence[Turn]) -> list[Score]:
        return self._scores(await found, turns)

    def _scores(self, found: Any, turns: Sequence[Turn]) -> list[Score]:
        return [Score(self._scaled(value)) for value in listed(reward_name(self._target()), found, len(turns))]

    def _scaled(self, value: Any) -> float | None:
        """The score of a number; as in TRL, True is 1 and NaN is None."""
        if value is None:
            return None
        number, name = as_number(value), reward_name(self._target())
        if number is None:
            raise RewardError(f"Reward {name!r} must return numbers or None, but returned {type(value).__name__} {str(value)[:60]!r}.")
        if math.isnan(number):
            return None
        scaled = HIGHEST * (number - self.low) / (self.high - self.low)
        if not -ROUNDING <= scaled <= HIGHEST + ROUNDING:
            raise RewardError(
                f"Reward {name!r} returned {number:g}, not from low={self.low:g} to high={self.high:g}: set those two to fit."
            )
        return min(HIGHEST, max(0.0, scaled))

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
        held = {name: [row.get(name) for row in rows] for name in names}
        found = {name: column for name, column in held.items() if name not in RESERVED}
        for new, old in self.columns.items():
            if old not in held:
                name = reward_name(self._target())
                raise ConfigError(f"Reward {name!r}, column {new!r}: {unknown_name('column', old, held)}")
            found[new] = held[old]
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


def _parameters(function: TRLReward) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _of_trainer(function: TRLReward) -> dict[str, Any]:
    """What TRL's trainers hand over beside the columns, as far as a function takes it."""
    given = {"trainer_state": None, "log_extra": _log_nowhere, "log_metric": _log_nowhere}
    found = _parameters(function)
    takes_any = any(each.kind is each.VAR_KEYWORD for each in found.values())
    return {name: value for name, value in given.items() if takes_any or name in found}


def _log_nowhere(name: str, value: Any) -> None:
    """Stands in for the two loggers of TRL's trainers."""


class ToTRL:
    """A reward of rxrl as TRL's trainers take it; `to_trl` makes it. It can be pickled where its reward can.

    Args:
        reward: Any reward function.
        encode: Text -> token ids.
    """

    def __init__(self, reward: RewardFunction, encode: Callable[[str], Sequence[int]]) -> None:
        self.reward, self.encode = reward, encode
        self.__name__ = self.__qualname__ = reward_name(reward).replace(":", ".")

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        """One score for each completion, in [0, 10] or None."""
        known = {name: column for name, column in columns.items() if name not in RESERVED and isinstance(column, Sequence)}
        for name, column in known.items():
            if len(column) != len(completions):
                raise RewardError(
                    f"TRL's column {name!r} must have an entry for each of {len(completions)} completions, has {len(column)}."
                )
        rows = [{name: column[row] for name, column in known.items()} for row in range(len(completions))]
        pairs = zip(prompts, completions, rows, strict=True)
        turns = [_turn(_said(prompt, "user"), _said(completion, "assistant"), row, self.encode) for prompt, completion, row in pairs]
        return [score.value for score in score_turns(self.reward, turns)]


def to_trl(reward: RewardFunction, *, encode: Callable[[str], Sequence[int]] | None = None) -> ToTRL:
    """A reward of rxrl as TRL's trainers take it.

    The answer of a conversational completion is what its last message of the assistant says: calls of tools and what tools return are
    none, and an assistant that only calls a tool says nothing.

    Args:
        reward: Any reward function; `rxrl.rewards.load_reward` makes one from a name.
        encode: Text -> token ids, for rewards that look at tokens. None numbers words.

    Returns:
        A function of TRL. It reads the column `turn` that `trl_row` makes; without one, columns named as attributes of
        `rxrl.types.Turn` (`reference`, `expected`, `asking`, ...), all others becoming `extra`.
    """
    return ToTRL(reward, encode or word_ids)


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


def _said(given: Any, role: str) -> str:
    """What a prompt or a completion says: a text as it is, of messages the last one of `role`."""
    if isinstance(given, str):
        return given
    if given is None:
        return ""
    if not isinstance(given, list | tuple) or not all(isinstance(message, Mapping) for message in given):
        raise RewardError(f"A prompt or completion of TRL is a text or a list of messages, got {type(given).__name__} {str(given)[:60]!r}.")
    own = [message for message in given if message.get("role", role) == role]
    return _content(own[-1].get("content")) if own else ""


def _content(content: Any) -> str:
    """The text of a message: all its parts that are text, one after the other."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, Mapping):
        return _content(content.get("text"))
    if isinstance(content, list | tuple):
        return "".join(_content(part) for part in content)
    raise RewardError(f"The content of a message is a text, a list of parts or null, got {type(content).__name__} {str(content)[:60]!r}.")


def _attributes(turn: Turn) -> dict[str, Any]:
    return {**turn.extra, **{item.name: getattr(turn, item.name) for item in fields(turn) if item.name not in ("answer", "extra")}}


class _Said(BaseModel):
    """An earlier interaction, as `trl_row` writes it."""

    query: str
    answer: str

    def encoded(self, encode: Callable[[str], Sequence[int]]) -> SavedInteraction:
        return SavedInteraction(self.query, self.answer, tuple(encode(self.query)), tuple(encode(self.answer)))


class _Row(BaseModel):
    """What a row of a data set tells about a turn; columns of other names are extra."""

    model_config = ConfigDict(extra="allow")

    conversation_id: str = "trl"
    index: int = 1
    steps: int = 1
    strategy: str = "multi-step"
    query: str | None = None
    reference: str = ""
    saved: list[_Said] = []
    history: list[_Said] = []
    asking: bool | None = None
    expected: dict[str, str] = {}
    aliases: dict[str, tuple[str, ...]] = {}
    rivals: dict[str, tuple[str, ...]] = {}
    unknown: bool = False
    distance: int | None = None
    asks_known: bool = True
    kind: str | None = None
    extra: dict[str, Any] = {}

    def turn(self, query: str, answer: str, encode: Callable[[str], Sequence[int]]) -> Turn:
        texts = {"query": query if self.query is None else self.query, "answer": answer, "reference": self.reference}
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return Turn(
            **{
                **given,
                **texts,
                **{f"{name}_ids": tuple(encode(text)) for name, text in texts.items()},
                **{name: tuple(each.encoded(encode) for each in given[name]) for name in ("saved", "history")},
                "asking": bool(self.expected or self.unknown) if self.asking is None else self.asking,
                "extra": {**(self.model_extra or {}), **self.extra},
            }
        )


def _turn(query: str, answer: str, row: Mapping[str, Any], encode: Callable[[str], Sequence[int]]) -> Turn:
    made = _made_by_us(row.get(COLUMN))
    given = dict(row) if made is None else {**{name: value for name, value in row.items() if name != COLUMN}, **made}
    try:
        # Data sets give every row all keys of a column of mappings: those without a value are not there.
        found = _Row.model_validate({name: _present(value) for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        raise RewardError(
            f"TRL's column {'.'.join(map(str, first['loc']))!r} does not fit a turn ({first['msg']}, got {str(first['input'])[:60]!r}): "
            "rename it in the data set where it holds something else."
        ) from None
    return found.turn(query, answer, encode)


def _made_by_us(value: Any) -> dict[str, Any] | None:
    """The turn that `trl_row` has written; None where a data set has a column of this name for something else."""
    try:
        found = json_value(value, halves=True, numbers="any") if isinstance(value, str) else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= {"conversation_id", "query"} else None


def _present(value: Any) -> Any:
    """Mappings without the keys that have no value."""
    return {key: each for key, each in value.items() if each is not None} if isinstance(value, Mapping) else value

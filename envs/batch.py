"""Token ids in and out of the batched environment, and the arrays of its `info`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rxrl.envs.episode import Episode
from rxrl.errors import EpisodeError
from rxrl.types import EOS, Action, Score, TokenBatch, Turn

Observation = dict[str, NDArray[np.int64]]
Ids = list[int]


def token_batch(observation: Mapping[str, Any], device: torch.device | str | None = None) -> TokenBatch:
    """The prompts of an observation as a `TokenBatch`, without the columns that are padding in every row.

    Args:
        observation: `ids` int64 `[batch, time]` and `length` int64 `[batch]`.
        device: Where the batch goes.

    Returns:
        Prompts `[BOS] [Q] query [A]`, `[batch, longest]`; rows without a query are empty.
    """
    lengths = torch.as_tensor(np.asarray(observation["length"]))
    width = max(1, int(lengths.max()))
    ids = torch.as_tensor(np.asarray(observation["ids"])[:, :width])
    return TokenBatch(ids.to(device), (torch.arange(width) < lengths[:, None]).to(device))


def info_arrays(
    episodes: Sequence[Episode | None], turns: Sequence[Turn | None], scores: Sequence[Score | None], written: Sequence[Ids | None]
) -> dict[str, Any]:
    """The `info` of a step or a reset: arrays over rows, as `ConversationVectorEnv` describes them."""
    names = sorted({name for score in scores if score is not None for name in score.terms})
    return {
        "turn": np.array([0 if turn is None else turn.index for turn in turns], dtype=np.int64),
        "steps": np.array([0 if episode is None else episode.steps for episode in episodes], dtype=np.int64),
        "distance": np.array([-1 if turn is None or turn.distance is None else turn.distance for turn in turns], dtype=np.int64),
        "asking": np.array([turn is not None and turn.asking for turn in turns], dtype=np.bool_),
        "scored": np.array([score is not None and score.value is not None for score in scores], dtype=np.bool_),
        "conversation_id": objects([None if episode is None else episode.scenario.id for episode in episodes]),
        "strategy": objects([None if episode is None else episode.strategy for episode in episodes]),
        "turns": objects(turns),
        "written": objects(written),
        "reward_terms": {name: np.array([_term(score, name) for score in scores]) for name in names},
    }


def restarted_info(ended: NDArray[np.bool_], started: Mapping[str, Any], final: Mapping[str, Any]) -> dict[str, Any]:
    """The `info` of a step after which the rows of `ended` have begun anew: theirs from `started`, the others' from `final`."""
    info = {key: np.where(ended, started[key], value) for key, value in final.items() if key != "reward_terms"}
    info["reward_terms"] = {name: np.where(ended, np.nan, term) for name, term in final["reward_terms"].items()}
    return info | {key: started[key] for key in ("stm_seeds", "stm0_carried") if key in started}


def answer_rows(actions: Any, num_envs: int) -> list[Ids]:
    """The sampled ids of each row up to its first `[EOS]`."""
    if isinstance(actions, Action):
        ids, lengths = actions.ids.tolist(), actions.mask.sum(dim=1).tolist()
    elif isinstance(actions, Mapping) and {"ids", "length"} <= actions.keys():
        ids, lengths = _plain(actions["ids"]), _plain(actions["length"])
    else:
        raise EpisodeError(f"An action is an rxrl.types.Action or a mapping with `ids` and `length`, got {type(actions).__name__}.")
    if not isinstance(ids, list) or not isinstance(lengths, list) or len(ids) != num_envs or len(lengths) != num_envs:
        raise EpisodeError(f"An action needs `ids` [{num_envs}, time] and `length` [{num_envs}], one row for each conversation.")
    ids = [_plain(row) for row in ids]
    if any(not 0 <= length <= len(row) for row, length in zip(ids, lengths, strict=True)):
        longest = max(map(len, ids), default=0)
        raise EpisodeError(f"`length` counts the ids of each row, from 0 to the {longest} that there are, got {lengths}.")
    answers = [_until_end(row[:length]) for row, length in zip(ids, lengths, strict=True)]
    if (lowest := min((min(row) for row in answers if row), default=0)) < 0:
        raise EpisodeError(f"Ids of tokens begin at 0, got {lowest}: use the tokenizer of the environment.")
    return answers


def _plain(values: Any) -> Any:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _until_end(ids: Ids) -> Ids:
    return ids[: ids.index(EOS)] if EOS in ids else ids


def objects(values: Sequence[Any]) -> NDArray[np.object_]:
    """An object array of `values`, whatever they are (numpy would make lists of one length a matrix)."""
    array = np.empty(len(values), dtype=object)
    for row, value in enumerate(values):
        array[row] = value
    return array


def _term(score: Score | None, name: str) -> float:
    value = None if score is None else score.terms.get(name)
    return float("nan") if value is None else value


def observe(episodes: Sequence[Episode | None], width: int) -> Observation:
    """The prompts of the next queries, padded to `width`; nothing where a row waits for no answer."""
    ids = np.zeros((len(episodes), width), dtype=np.int64)
    length = np.zeros(len(episodes), dtype=np.int64)
    for row, episode in enumerate(episodes):
        if episode is not None and (spoken := episode.waiting) is not None:
            prompt = spoken.prompt
            ids[row, : len(prompt)] = prompt
            length[row] = len(prompt)
    return {"ids": ids, "length": length}

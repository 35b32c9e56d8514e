"""Memory backends without a model."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

from rxrl.envs import ConversationVectorEnv, Live, NoMemory, SwappedMemory, TranscriptMemory
from rxrl.errors import ConfigError
from rxrl.types import MemoryBackend, TokenBatch
from tests.envs.worlds import NumberMemory, action, common, make_conversation

ROWS = torch.tensor([True, False, True])


def write(backend: TranscriptMemory, *batches: list[list[int]]) -> list[tuple[tuple[int, ...], ...]]:
    memory = backend.init([0, 1, 2])
    for batch in batches:
        memory = backend.write(memory, TokenBatch.pad(batch), ROWS)
    return list(memory.rows)


def test_a_transcript_keeps_everything_in_order() -> None:
    assert write(TranscriptMemory(), [[7], [8], [9, 9]], [[10, 11], [], [12]]) == [((7,), (10, 11)), (), ((9, 9), (12,))]


def test_a_window_keeps_the_last() -> None:
    assert write(TranscriptMemory(last=1), [[7], [8], [9]], [[10], [], [12]]) == [((10,),), (), ((12,),)]
    with pytest.raises(ConfigError, match="last=0"):
        TranscriptMemory(last=0)


def test_token_counts_reset_and_selection_of_rows() -> None:
    backend = TranscriptMemory()
    memory = backend.write(backend.init([0, 1, 2]), TokenBatch.pad([[7, 7], [8], [9]]), ROWS)
    assert memory.token_counts().tolist() == [2, 0, 1]
    assert backend.reset_rows(memory, ROWS, backend.init([0, 0, 0])).token_counts().tolist() == [0, 0, 0]
    assert backend.reset_rows(memory, ~ROWS, backend.init([0, 0, 0])).token_counts().tolist() == [2, 0, 1]
    assert backend.select_rows(memory, [2, 0]).token_counts().tolist() == [1, 2]


def test_a_transcript_grows_with_the_conversation_and_a_window_does_not() -> None:
    conversation = make_conversation(0, 6)

    def counts(backend: MemoryBackend | None) -> list[int]:
        env = ConversationVectorEnv([conversation], num_envs=1, **common(memory=backend))
        env.reset()
        found = []
        for _ in range(5):
            env.step(action(["A cat."]))
            found.append(0 if env.memory is None else int(env.memory.token_counts()[0]))
        return found

    whole, window = counts(TranscriptMemory()), counts(TranscriptMemory(last=1))
    assert whole == sorted(set(whole))
    assert whole[-1] - whole[0] == sum(window[1:])
    assert counts(NoMemory()) == counts(None) == [0] * 5


def test_a_live_handle_survives_copies_as_itself() -> None:
    handle = Live(NoMemory())
    assert copy.deepcopy({"memory": handle})["memory"] is handle
    assert copy.copy(handle) is handle
    assert pickle.loads(pickle.dumps(Live(5))).value == 5


def test_swapped_memory_is_that_of_another_row_at_every_turn() -> None:
    chosen = [make_conversation(seed, steps) for seed, steps in enumerate((5, 2, 4))]
    own, swapped = (
        ConversationVectorEnv(chosen, num_envs=4, **common(memory=memory))
        for memory in (NumberMemory(), SwappedMemory(NumberMemory(), shift=2))
    )
    for env in (own, swapped):
        env.reset(seed=3, options={"conversations": chosen})
    for _ in range(3):
        assert (swapped.memory == own.memory[[2, 3, 0, 1]]).all()
        for env in (own, swapped):
            env.step(action(["a cat", "no", "a dog", "x"]))
    mask = np.array([False, True, False, False])
    for env in (own, swapped):
        env.reset(options={"conversations": [0], "stm_seeds": [9], "reset_mask": mask})
    assert (swapped.memory == own.memory[[2, 3, 0, 1]]).all()
    assert (swapped.backend.select_rows(swapped.memory, [1, 0]) == own.memory[[3, 2]]).all()


def test_memories_left_behind_are_swapped_alike() -> None:
    own, swapped = (
        ConversationVectorEnv([make_conversation(s, 3) for s in range(4)], num_envs=2, **common(memory=memory, reset_ratio=0.0))
        for memory in (NumberMemory(), SwappedMemory(NumberMemory()))
    )
    for env in (own, swapped):
        env.reset(seed=0, options={"conversations": [0, 1]})
        env.step(action(["a cat", "a dog"]))
        _, info = env.reset(options={"conversations": [2, 3], "stm_seeds": [7, 8], "carry": np.array([True, False])})
        assert info["stm0_carried"]["rows"].tolist() == [True, False]
    assert (swapped.memory == own.memory[[1, 0]]).all()


def test_a_row_cannot_swap_with_itself() -> None:
    env = ConversationVectorEnv([make_conversation(0, 2)], num_envs=1, **common(memory=SwappedMemory(NumberMemory())))
    with pytest.raises(ConfigError, match="of 1 rows the one 1 away is the row itself"):
        env.reset()
    with pytest.raises(ConfigError, match="shift=0"):
        SwappedMemory(NumberMemory(), shift=0)


def test_what_is_no_backend_is_refused_by_name() -> None:
    class Half:
        init = write = reset_rows = print

    with pytest.raises(ConfigError, match=r"a Half is none, it lacks select_rows\."):
        ConversationVectorEnv([make_conversation(0, 2)], num_envs=1, **common(memory=Half()))

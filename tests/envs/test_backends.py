"""Memory backends without a model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from rxrl.envs import ConversationVectorEnv, Live, NoMemory, TranscriptMemory
from rxrl.errors import ConfigError
from rxrl.types import MemoryBackend, TokenBatch
from tests.envs.worlds import action, common, make_conversation

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

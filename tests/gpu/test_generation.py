"""Answers on a GPU are those of a CPU, whatever stands beside a row and however the decoder goes on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from rxrl.models import ReactiveTransformer, Sampling, answer_logits, generate_steps
from rxrl.models.cuda_graph import CudaGraph
from rxrl.models.generation import decoding
from rxrl.models.generation.batch import Generation
from rxrl.types import EOS, TokenBatch
from tests.gpu.parts import GPU, awake, memory_for, placed
from tests.models.small import generators, padded, prompts

LENGTHS = [3, 11, 7, 1, 5, 9, 2, 13]


def talkative(dtype: torch.dtype = torch.float64, ends: float = 1.5, **changes: object) -> ReactiveTransformer:
    """A model on the CPU whose answers have different lengths."""
    model = awake("pico", **changes).to(dtype)
    with torch.no_grad():
        model.decoder.head.bias[EOS] += ends
    return model


def answers(
    model: ReactiveTransformer, rows: list[int] | None = None, *, sampled: bool = False, columns: int = 0, **options: object
) -> Generation:
    """Answers of some of the rows; memory and draws belong to a row."""
    chosen = list(range(len(LENGTHS))) if rows is None else rows
    whole = prompts(LENGTHS).rows()
    batch = padded(TokenBatch.pad([whole[row] for row in chosen]), columns)
    stm = memory_for(model, len(LENGTHS))[:, chosen]
    draws = [generators(len(LENGTHS))[row] for row in chosen] if sampled else None
    return model.generate(batch, stm, max_new_tokens=24, generators=draws, **options)


def ids_of(found: Generation) -> list[list[int]]:
    return TokenBatch(found.ids, found.mask).rows()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_likeliest_tokens_are_those_of_a_cpu(dtype: torch.dtype):
    model = talkative(dtype)
    expected, found = answers(model), answers(placed(model))
    assert found.ids.device.type == "cuda"
    assert len(set(map(len, ids_of(expected)))) > 2, "answers must end at different times for this to show anything"
    assert ids_of(found) == ids_of(expected)
    assert (found.raw_log_probs.cpu() - expected.raw_log_probs).abs().max() < (1e-9 if dtype == torch.float64 else 1e-3)


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.7}, {"top_k": 20}, {"top_p": 0.6}, {"temperature": 0.9, "top_k": 300, "top_p": 0.9}], ids=str
)
def test_sampled_tokens_are_those_of_a_cpu(options: dict[str, float]):
    model = talkative(ends=4.5)
    expected, found = answers(model, sampled=True, **options), answers(placed(model), sampled=True, **options)
    assert len(set(map(len, ids_of(expected)))) > 2
    assert ids_of(found) == ids_of(expected)
    assert (found.log_probs.cpu() - expected.log_probs).abs().max() < 1e-9


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("preset", ["pico", "micro"])
def test_a_row_gets_the_same_answer_alone_and_padded(preset: str, sampled: bool):
    model = placed(talkative() if preset == "pico" else awake(preset).double())
    together = ids_of(answers(model, sampled=sampled))
    assert ids_of(answers(model, sampled=sampled, columns=5)) == together
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    assert ids_of(answers(model, order, sampled=sampled)) == [together[row] for row in order]
    for row in (0, 3, 7):
        assert ids_of(answers(model, [row], sampled=sampled)) == [together[row]]


class Counted(CudaGraph):
    """Counts captures."""

    made = 0

    def __init__(self, *given: object) -> None:
        type(self).made += 1
        super().__init__(*given)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> type[Counted]:
    Counted.made = 0
    monkeypatch.setattr(decoding, "CudaGraph", Counted)
    return Counted


@pytest.mark.parametrize("way", ["float64", "bfloat16", "mixed precision"])
@pytest.mark.parametrize("preset", ["pico", "nano", "micro"])
@pytest.mark.parametrize("free", [0, 256])
def test_captured_steps_give_the_same_answers(preset: str, way: str, free: int, captures: type[Counted], monkeypatch: pytest.MonkeyPatch):
    dtype = {"bfloat16": torch.bfloat16, "mixed precision": torch.float32}.get(way, torch.float64)
    model = placed(talkative(dtype) if preset == "pico" else awake(preset).to(dtype))
    monkeypatch.setattr(decoding, "_FREE_ON_GPU", free)
    with torch.autocast("cuda", torch.bfloat16, enabled=way == "mixed precision"):
        found = answers(model, sampled=True, columns=3)
        assert captures.made == 1 if free else captures.made >= 1
        again = answers(model, sampled=True, columns=3)
        monkeypatch.setattr(decoding, "_can_capture", lambda *_: False)
        expected = answers(model, sampled=True, columns=3)
    assert ids_of(again) == ids_of(found)
    assert torch.equal(again.raw_log_probs, found.raw_log_probs)
    if dtype == torch.float64:
        assert ids_of(found) == ids_of(expected)
        assert (found.raw_log_probs - expected.raw_log_probs).abs().max() < 1e-9
    else:
        # Other kernels round differently, and one other token changes all that follow.
        same = [list(map(int, one)) == list(map(int, other)) for one, other in zip(ids_of(found), ids_of(expected), strict=True)]
        assert sum(same) >= len(same) / 2
        rows = torch.tensor(same, device=GPU).nonzero().squeeze(1)
        width = min(found.ids.shape[1], expected.ids.shape[1])
        gap = (found.raw_log_probs[rows, :width] - expected.raw_log_probs[rows, :width]).abs().max()
        assert gap < 0.3


def test_captured_steps_see_new_weights_and_new_memories(captures: type[Counted]):
    model = talkative()
    for seed in range(3):
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed), dtype=weight.dtype))
        expected, found = answers(model), answers(placed(model))
        assert ids_of(found) == ids_of(expected)
        assert captures.made == seed + 1


def test_streams_that_run_beside_each_other_do_not_meet(captures: type[Counted]):
    model = placed(talkative())
    expected = ids_of(answers(model))
    stm, draws = memory_for(model, len(LENGTHS)), Sampling()
    streams = [generate_steps(model, prompts(LENGTHS), stm, max_new_tokens=24, generators=None, sampling=draws) for _ in range(3)]
    found: list[list[list[int]]] = [[[] for _ in LENGTHS] for _ in streams]
    running = set(range(3))
    while running:
        for index in sorted(running):
            step = next(streams[index], None)
            if step is None:
                running.remove(index)
                continue
            for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
                found[index][row].append(token)
    assert captures.made == 4
    assert found == [expected] * 3


def test_answers_from_several_threads_do_not_meet():
    model = placed(talkative())
    expected = ids_of(answers(model))
    with ThreadPoolExecutor(4) as threads:
        assert [ids_of(each) for each in threads.map(lambda _: answers(model), range(12))] == [expected] * 12


def test_answers_on_streams_of_their_own_do_not_meet():
    model = placed(talkative())
    expected = ids_of(answers(model))
    torch.cuda.synchronize()

    def answer(stream: torch.cuda.Stream) -> list[list[int]]:
        with torch.cuda.stream(stream):
            return ids_of(answers(model))

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(answer, [torch.cuda.Stream() for _ in range(3)] * 4)) == [expected] * 12


def test_graphs_leave_no_memory_behind():
    model, held = placed(awake("nano")), []
    for _ in range(12):
        answers(model)
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[3]


def replayed(model: ReactiveTransformer, found: Generation) -> Tensor:
    """Log-probabilities of the generated tokens from one pass over prompt and answer, `[batch, time]`."""
    rows = [prompt + answer for prompt, answer in zip(prompts(LENGTHS).rows(), ids_of(found), strict=True)]
    whole = TokenBatch.pad(rows, GPU)
    log_probs = answer_logits(model.decode(whole.ids, whole.mask, memory_for(model, len(rows)))).float().log_softmax(-1)
    out = torch.zeros(found.ids.shape, device=GPU)
    for row, (prompt, answer) in enumerate(zip(prompts(LENGTHS).rows(), ids_of(found), strict=True)):
        for step, token in enumerate(answer):
            out[row, step] = log_probs[row, len(prompt) + step - 1, token]
    return out


@pytest.mark.parametrize(("way", "bound"), [("float32", 1e-4), ("bfloat16", 0.3), ("mixed precision", 0.3)])
def test_a_replay_gives_the_log_probabilities_of_the_sampler(way: str, bound: float):
    model = placed(talkative(torch.bfloat16 if way == "bfloat16" else torch.float32))
    with torch.autocast("cuda", torch.bfloat16, enabled=way == "mixed precision"), torch.no_grad():
        found = answers(model, sampled=True)
        assert (found.raw_log_probs - replayed(model, found)).abs().max() <= bound


def test_the_stream_is_the_same_answer():
    model = placed(talkative())
    whole = ids_of(answers(model, sampled=True))
    streamed: list[list[int]] = [[] for _ in LENGTHS]
    stm = memory_for(model, len(LENGTHS))
    for step in generate_steps(model, prompts(LENGTHS), stm, max_new_tokens=24, generators=generators(len(LENGTHS)), sampling=Sampling()):
        for row, token in zip(step.rows.tolist(), step.tokens.tolist(), strict=True):
            streamed[row].append(token)
    assert streamed == whole


def test_rows_without_a_prompt_get_no_answer():
    model = placed(talkative())
    found = model.generate(TokenBatch.pad([prompts([4]).rows()[0], []], GPU), memory_for(model, 2), max_new_tokens=4)
    assert found.mask.any(1).tolist() == [True, False]

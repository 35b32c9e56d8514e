"""A decoder's step in one call gives what the decoder's layers give."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rxrl.models import AttentionConfig, DecoderConfig, ModelConfig, ReactiveTransformer
from rxrl.models.generation.decoding import Decoding, begin
from rxrl.models.kernels import decoding as kernels
from rxrl.models.kernels import library
from rxrl.models.kernels.decoding import KernelDecoding
from rxrl.models.layers import RMSNorm
from rxrl.models.transformer import LayerCache
from tests.models.small import VOCAB, config, model_of, prompts, writing
from tests.models.test_kernels import both, built

STEPS = 35
"""More than a tile of keys holds."""


GROUPS = AttentionConfig(query_groups=2, kv_groups=2)
WRITING = writing("simple", GROUPS, GROUPS)


def attentions(most: int) -> st.SearchStrategy[AttentionConfig]:
    return st.sampled_from([(q, kv) for q in range(1, most + 1) for kv in range(1, q + 1) if q % kv == 0]).map(
        lambda groups: AttentionConfig(query_groups=groups[0], kv_groups=groups[1])
    )


@st.composite
def shapes(draw: st.DrawFn) -> ModelConfig:
    heads, experts = draw(st.sampled_from([2, 4, 6])), draw(st.sampled_from([1, 3, 5, 40]))
    decoder = DecoderConfig(
        self_attention=draw(attentions(heads)),
        cross_attention=draw(attentions(heads)),
        ff_dim=draw(st.sampled_from([16, 48])),
        experts=experts,
        active_experts=draw(st.integers(1, min(experts, 3))),
        head_norm=draw(st.sampled_from(["none", "rms", "layer"])),
    )
    return config(
        dim=16 * heads,
        heads=heads,
        layers=draw(st.integers(1, 2)),
        slots=draw(st.sampled_from([1, 5, 32, 33, 100])),
        decoder=decoder,
        memory_attention=WRITING,
    )


def started(model: ReactiveTransformer, lengths: list[int], seed: int) -> tuple[Decoding, Tensor]:
    """The decoder behind prompts, and their lengths."""
    batch = prompts(lengths, seed)
    stm = torch.randn(
        model.config.layers, len(lengths), model.config.slots, model.config.dim, generator=torch.Generator().manual_seed(seed)
    )
    _, decoding = begin(model.decoder, model.embedding(batch.ids), batch.mask, stm.to(model.dtype), STEPS)
    return decoding, batch.lengths


def continued(model: ReactiveTransformer, decoding: Decoding, lengths: Tensor, seed: int, kept: list[int] | None = None) -> list[Tensor]:
    """Last hidden states of given tokens; in the middle it goes on with some rows only."""
    tokens = torch.randint(0, VOCAB, (STEPS, len(lengths)), generator=torch.Generator().manual_seed(seed))
    rows, found = torch.arange(len(lengths)), []
    for step in range(STEPS):
        if kept is not None and step in (STEPS // 2, STEPS - 5):
            # The second time it is their order that changes.
            chosen = torch.tensor(kept) if step == STEPS // 2 else torch.arange(len(kept)).roll(1)
            rows = rows[chosen]
            decoding.keep(chosen)
        found.append(decoding.step(model.embedding(tokens[step, rows]), lengths[rows] + step))
    return found


@pytest.mark.slow
@built
@both
@settings(max_examples=25, deadline=None)
@given(shapes(), st.lists(st.integers(0, 9), min_size=1, max_size=11), st.integers(0, 99), st.integers(1, 3))
@torch.no_grad()
def test_steps_are_those_of_the_decoders_layers(instructions, shape: ModelConfig, lengths: list[int], seed: int, threads: int):
    model, kept = ReactiveTransformer.from_config(shape, seed=seed), list(range(len(lengths)))[:: 2 if seed % 2 else -1]
    generator = torch.Generator().manual_seed(seed)
    for each in model.parameters():
        each.add_(0.1 * torch.randn(each.shape, generator=generator))
    before = torch.get_num_threads()
    with library.narrower(instructions), pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_WORTH_SHARING", -1)
        decoding, sizes = started(model, lengths, seed)
        assert type(decoding) is KernelDecoding
        try:
            torch.set_num_threads(threads)
            found = continued(model, decoding, sizes, seed, kept)
        finally:
            torch.set_num_threads(before)
    model.use_attention("sdpa")
    of_torch = continued(model, *started(model, lengths, seed), seed, kept)
    exact = continued(model.double(), *started(model, lengths, seed), seed, kept)
    errors, of_torch_too = (
        max(float((one - right).abs().max()) for one, right in zip(each, exact, strict=True)) for each in (found, of_torch)
    )
    assert errors <= 2e-5 + 3 * of_torch_too


@built
@both
@torch.no_grad()
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(instructions, monkeypatch: pytest.MonkeyPatch):
    model = ReactiveTransformer.from_preset("pico", vocab_size=VOCAB, seed=0)
    count, width = 13, 12
    generator = torch.Generator().manual_seed(0)
    memory = model.decoder.project_memory(model.init_memory(count, generator))
    caches = [LayerCache(*torch.randn(2, count, 4, width + STEPS, 16, generator=generator)) for _ in model.decoder.layers]
    embedded = torch.randn(STEPS, count, 64, generator=generator)
    lengths = torch.randint(1, width + 1, (count,), generator=generator)

    def states(rows: list[int]) -> Tensor:
        of_rows = torch.tensor(rows)
        decoding = KernelDecoding(model.decoder, [(k[rows], v[rows]) for k, v in memory], [each.select(of_rows) for each in caches])
        return torch.stack([decoding.step(embedded[step, rows], lengths[rows] + step) for step in range(STEPS)])

    with library.narrower(instructions):
        together = states(list(range(count)))
        for rows in ([0], [12, 5], [3, 1, 2], [7, 6, 5, 4, 3, 2, 1]):
            assert torch.equal(states(rows), together[:, rows])
        monkeypatch.setattr(kernels, "_WORTH_SHARING", -1)
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(3)
            assert torch.equal(states(list(range(count))), together)
        finally:
            torch.set_num_threads(before)


@built
@both
@torch.no_grad()
def test_sharp_queries_neither_overflow_nor_vanish_up_to_the_last_place(instructions):
    model = ReactiveTransformer.from_preset("pico", vocab_size=VOCAB, seed=0)
    for layer in model.decoder.layers:
        layer.attention.qkv_proj.weight[:64].mul_(1e3)
        layer.memory_cross_attention.q_proj.weight.mul_(1e3)
        layer.memory_cross_attention.out_proj.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    lengths = [64 - STEPS - 4, 3]  # behind four markers: 64 places in all, two tiles
    with library.narrower(instructions):
        found = continued(model, *started(model, lengths, 0), 0)
    exact = continued(model.double(), *started(model, lengths, 0), 0)
    assert all(torch.isfinite(each).all() for each in found)
    assert max(float((one - right).abs().max()) for one, right in zip(found, exact, strict=True)) < 1e-2


@built
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@torch.no_grad()
def test_norms_of_another_type_are_folded_as_they_are(dtype: torch.dtype):
    model = ReactiveTransformer.from_preset("pico", vocab_size=VOCAB, seed=0)
    decoding, lengths = started(model, [4, 2], 0)
    expected = continued(model, decoding, lengths, 0)
    for each in model.decoder.modules():
        if isinstance(each, RMSNorm):
            each.to(dtype)
    for one, other in zip(continued(model, *started(model, [4, 2], 0), 0), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@built
@torch.no_grad()
def test_a_row_that_is_no_number_spoils_no_other():
    model = ReactiveTransformer.from_preset("pico", vocab_size=VOCAB, seed=0)
    (decoding, lengths), (other, _) = (started(model, [3, 5, 2], 0) for _ in range(2))
    embedded = model.embedding(torch.tensor([8, 9, 10]))
    expected = decoding.step(embedded, lengths)
    embedded[1, 0] = float("nan")
    found = other.step(embedded, lengths)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], expected[[0, 2]])


@pytest.mark.parametrize(
    "changes",
    [
        {"heads": 4, "dim": 32},
        {"heads": 3, "dim": 48},
        {"decoder": {"shared_experts": 1}},
        {"decoder": {"expert_biases": "global"}},
        {"decoder": {"ff_dim": 24}},
        {"attention_backend": "sdpa"},
    ],
    ids=str,
)
def test_what_does_not_fit_is_left_to_torch(changes: dict[str, object]):
    decoder = {"self_attention": GROUPS, "cross_attention": GROUPS, "ff_dim": 16, "experts": 3, "active_experts": 2}
    fits = {"dim": 32, "heads": 2, "memory_attention": WRITING, "decoder": DecoderConfig(**decoder)}
    does_not = fits | changes | {"decoder": DecoderConfig(**decoder | changes.get("decoder", {}))}
    for given_sizes, expected in ((fits, kernels.instruction_set() is not None), (does_not, False)):
        decoding, _ = started(model_of(config(**given_sizes), dtype=torch.float32), [3, 1], 0)
        assert (type(decoding) is KernelDecoding) is expected

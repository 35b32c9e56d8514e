"""Kernels for CPUs give what torch gives, with every set of instructions, and are left out where they do not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from rxrl.errors import ModelError
from rxrl.models import ReactiveTransformer
from rxrl.models.attention import attend
from rxrl.models.kernels import attention, instruction_set, library
from tests import skips
from tests.models.small import config, interactions, memory_of, model_of, padded

built = pytest.mark.skipif(
    instruction_set() is None,
    reason="no kernels: gcc was not found at installation" if skips.X86 else f"{skips.MACHINE}: x86-64",
)
# Every set of instructions that this CPU has.
both = pytest.mark.parametrize("instructions", ["avx2"] if instruction_set() == "avx2" else ["avx512", "avx2"])


@pytest.fixture
def using(instructions: library.InstructionSet) -> Iterator[None]:
    with library.narrower(instructions):
        yield


def heads(seed: int, *shape: int) -> Tensor:
    """`[batch, groups, time, 16]`, as projections leave it."""
    batch, groups, time = shape
    return torch.randn(batch, time, groups, 16, generator=torch.Generator().manual_seed(seed)).transpose(1, 2)


def results(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, backend: str, dtype: torch.dtype) -> list[Tensor]:
    """Output and gradients."""
    inputs = [each.to(dtype).requires_grad_() for each in (q, k, v)]
    out = attend(*inputs, mask, causal, backend)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), inputs)]


@built
@both
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    time=st.integers(2, 40),
    keys=st.integers(1, 70),
    groups=st.sampled_from([(1, 1), (2, 1), (4, 2), (3, 3)]),
    kind=st.sampled_from(["all", "causal", "masked", "one row for all"]),
    sharpness=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 999),
)
def test_attention_and_its_gradients_are_those_of_torch(instructions, batch, time, keys, groups, kind, sharpness, seed):
    causal = kind == "causal"
    keys = time if causal else keys
    q, k, v = (
        sharpness * heads(seed, batch, groups[0], time),
        heads(seed + 1, batch, groups[1], keys),
        heads(seed + 2, batch, groups[1], keys),
    )
    mask = None
    if kind in ("masked", "one row for all"):
        rows = 1 if kind == "one row for all" else batch
        mask = torch.rand(rows, 1, 1, keys, generator=torch.Generator().manual_seed(seed)) < 0.7
        mask[0, :, :, 0] = False  # not all are read, which would be no mask at all
    with library.narrower(instructions):
        assert attention.can_attend(q, k, v, mask, causal)
        found = results(q, k, v, mask, causal, "auto", torch.float32)
    exact = results(q, k, v, mask, causal, "sdpa", torch.float64)
    # A score is rounded in proportion to its size, which is a relative error of its exponential.
    largest = (q.detach().flatten(1, 2) @ k.detach().flatten(1, 2).mT).abs().max() / 4
    for one, right in zip(found, exact, strict=True):
        torch.testing.assert_close(one.double(), right, atol=float(1e-6 * (1 + largest) * max(1.0, sharpness)), rtol=1e-5)


@built
@both
@pytest.mark.usefixtures("using")
def test_a_row_is_the_same_alone_padded_and_with_any_number_of_threads():
    q, k, v = heads(0, 5, 4, 21), heads(1, 5, 2, 30), heads(2, 5, 2, 30)
    mask = torch.arange(30) < torch.tensor([30, 1, 17, 29, 16])[:, None, None, None]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = attend(q, k, v, mask)
        torch.set_num_threads(3)
        assert torch.equal(attend(q, k, v, mask), one)
    finally:
        torch.set_num_threads(before)
    for row, length in enumerate([30, 1, 17, 29, 16]):
        alone = attend(q[row : row + 1], k[row : row + 1, :, :length], v[row : row + 1, :, :length])
        assert torch.equal(alone, one[row : row + 1])
        assert torch.equal(attend(q[row : row + 1, :, 3:12], k[row : row + 1, :, :length], v[row : row + 1, :, :length]), alone[:, 3:12])
    assert torch.equal(attend(q, q, q, causal=True)[:, :9], attend(*(each[:, :, :9] for each in (q, q, q)), causal=True))


@built
@both
@pytest.mark.usefixtures("using")
def test_what_is_hidden_is_never_read_and_what_is_no_number_stays_seen():
    q, k, v = heads(0, 1, 2, 4), heads(1, 1, 2, 6), heads(2, 1, 2, 6)
    mask = torch.tensor([True, True, False, True, False, True])[None, None, None]
    expected = attend(q, k, v, mask)
    k[:, :, 2], v[:, :, 4] = float("nan"), float("inf")
    assert torch.equal(attend(q, k, v, mask), expected)
    assert attend(q, k, v).isnan().all()
    nothing = attend(q, k, v, torch.zeros_like(mask))
    assert torch.equal(nothing, torch.zeros_like(nothing))
    q[0, 0, 1] = float("nan")
    assert attend(q, k, v, mask).isnan().any(-1).tolist() == [[False, True, False, False]]


@built
def test_large_scores_neither_overflow_nor_vanish():
    q, k, v = 1e4 * heads(0, 1, 2, 9), 1e4 * heads(1, 1, 2, 40), heads(2, 1, 2, 40)
    expected = attend(q.double(), k.double(), v.double(), backend="sdpa")
    torch.testing.assert_close(attend(q, k, v).double(), expected, atol=1e-5, rtol=1e-5)


@built
def test_a_model_computes_the_same_with_and_without():
    model = ReactiveTransformer.from_preset("pico", seed=0)
    batch = padded(interactions([9, 4, 17]), 1)
    start = model.init_memory(3, torch.Generator().manual_seed(0))

    def outputs() -> list[Tensor]:
        stm = model.write_memory(start, batch.ids, batch.mask)
        logits = model.decode(batch.ids, batch.mask, stm)[batch.mask]
        loss = logits.log_softmax(-1).square().mean()
        with torch.no_grad():
            again = model.write_memory(start, batch.ids, batch.mask)
        assert torch.equal(again, stm)  # old log-probabilities are those of the update, bit for bit
        return [
            stm.detach(),
            logits.detach(),
            *torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True),
        ]

    found = outputs()
    model.use_attention("sdpa")
    for one, other in zip(found, outputs(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@built
def test_what_does_not_fit_is_left_to_torch():
    q = heads(0, 2, 2, 5)
    of_positions = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    assert attention.can_attend(q, q, q, None, False)
    assert not attention.can_attend(q.double(), q.double(), q.double(), None, False)
    assert not attention.can_attend(q.bfloat16(), q.bfloat16(), q.bfloat16(), None, False)
    assert not attention.can_attend(q[..., :8], q[..., :8], q[..., :8], None, False)
    assert not attention.can_attend(q[:, :, :1], q, q, None, False)
    assert not attention.can_attend(q, q, q, of_positions, False)
    assert not attention.can_attend(*(q.transpose(2, 3).contiguous().transpose(2, 3) for _ in range(3)), None, False)
    torch.testing.assert_close(attend(q, q, q, of_positions), attend(q, q, q, causal=True), atol=1e-6, rtol=1e-5)
    one_row, odd = heads(1, 1, 2, 5), heads(1, 2, 3, 5)
    assert not attention.can_attend(q, one_row, one_row, None, False)
    assert not attention.can_attend(odd, q, q, None, False)
    assert not attention.can_attend(q, q, q[:, :, :4], None, False)
    torch.testing.assert_close(attend(q, one_row, one_row), attend(q, *(2 * [one_row.expand(2, -1, -1, -1)])))
    mask = torch.tensor([True, False, True, True, False])
    expected = attend(q, q, q, mask[None, None, None])
    for shape in ((1, 5), (1, 1, 5)):
        torch.testing.assert_close(attend(q, q, q, mask.view(shape)), expected)


@built
def test_gradients_of_some_inputs_only():
    q, k, v = heads(0, 2, 4, 9), heads(1, 2, 2, 7), heads(2, 2, 2, 7)
    whole = results(q, k, v, None, False, "auto", torch.float32)
    weights = torch.randn(whole[0].shape, generator=torch.Generator().manual_seed(9))
    for index in range(3):
        inputs = [each.detach().requires_grad_(at == index) for at, each in enumerate((q, k, v))]
        [found] = torch.autograd.grad((attend(*inputs) * weights).sum(), [inputs[index]])
        assert torch.equal(found, whole[1 + index])


def test_who_traces_sees_operators_of_torch():
    q, k, other = (heads(seed, 2, 2, 5) for seed in range(3))
    with FakeTensorMode():
        fake = torch.randn(2, 2, 5, 16)
        assert attend(fake, fake, fake).shape == (2, 5, 32)
    traced = make_fx(lambda given: attend(given, k, k))(q)
    torch.testing.assert_close(traced(other), attend(other, k, k))


def test_memory_of_another_batch_is_refused():
    model = model_of(config(reads_memory=True))
    batch = padded(interactions([3, 2, 4]), 0)
    for stm in (memory_of(model, 1), memory_of(model, 2)):
        for call in (
            lambda stm=stm: model.encode(batch.ids, batch.mask, stm),
            lambda stm=stm: model.write_memory(stm, batch.ids, batch.mask),
        ):
            with pytest.raises(ModelError, match=r"Memory has \d rows, the tokens have 3"):
                call()


def test_without_kernels_everything_is_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    q = heads(0, 2, 2, 5)
    expected = attend(q, q, q, backend="sdpa")
    monkeypatch.setattr(attention, "instruction_set", lambda: None)
    assert not attention.can_attend(q, q, q, None, False)
    assert torch.equal(attend(q, q, q), expected)


@pytest.mark.parametrize("content", [None, b"no library"])
def test_a_library_that_is_missing_or_broken_is_as_if_there_were_none(tmp_path, content: bytes | None):
    if content is not None:
        (tmp_path / "_kernels.so").write_bytes(content)
    code = "from rxrl.models.kernels import instruction_set, library; import sys\nlibrary.__file__ = sys.argv[1]\nprint(instruction_set())"
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / "library.py")], capture_output=True, text=True, check=True)
    assert ran.stdout == "None\n"


@built
def test_a_library_from_older_sources_is_as_if_there_were_none(monkeypatch: pytest.MonkeyPatch):
    assert library.library.__wrapped__() is not None
    monkeypatch.setattr(library, "_VERSION", library._VERSION + 1)
    assert library.library.__wrapped__() is None


def test_version_is_that_of_the_sources():
    header = Path(library.__file__).with_name("kernels.h")
    assert f"#define VERSION {library._VERSION}\n" in header.read_text(encoding="utf-8")


def test_instructions_that_the_cpu_lacks_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "library", lambda: SimpleNamespace(instructions="avx2"))
    with pytest.raises(ModelError, match="cannot compute with avx512 here"), library.narrower("avx512"):
        pass

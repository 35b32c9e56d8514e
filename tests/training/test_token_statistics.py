"""Statistics of tokens in chunks: those of the whole distributions, gradients included, and nothing as large as these."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rxrl.algorithms.losses import estimated_kl
from rxrl.models import answer_logits
from rxrl.training import token_statistics as module
from rxrl.training.token_statistics import LazyLogits, token_log_probs, token_statistics
from rxrl.types import ANSWER, EOS, SPECIAL_TOKENS
from tests.distributions import entropy, exact_kl, sampled, tempered

VOCAB, DIM = 12, 5
POSSIBLE = [token for token in range(VOCAB) if answer_logits(torch.zeros(VOCAB))[token] == 0]
IMPOSSIBLE = [token for token in range(VOCAB) if token not in POSSIBLE]
TRAINED = ("log_probs", "entropy", "reference_kl", "previous_kl")
OUTPUTS = (*TRAINED, "reference_log_probs")
PER_CHUNK = pytest.mark.parametrize("per_chunk", [1, 2, 3, 100])


def case(tokens, seed=0, dtype=torch.float64):
    """Hidden states, head, sampled tokens, and the frozen reference and the previous policy."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def head():
        linear = torch.nn.Linear(DIM, VOCAB, dtype=dtype)
        with torch.no_grad():
            linear.weight.copy_(random(VOCAB, DIM))
            linear.bias.copy_(random(VOCAB))
        return linear

    hidden, ids = random(tokens, DIM).requires_grad_(), torch.tensor(POSSIBLE)[torch.randint(len(POSSIBLE), (tokens,), generator=generator)]
    others = {"reference": (head(), random(tokens, DIM)), "previous": (head(), random(tokens, DIM))}
    return SimpleNamespace(hidden=hidden, head=head(), ids=ids, others=others, noise=lambda: random(tokens))


def in_chunks(case, temperature, names=("reference", "previous")):
    others = {name: LazyLogits.of(*case.others[name]) for name in names}
    return token_statistics(LazyLogits.of(case.head, case.hidden), case.ids, temperature, **others)


def by_formulas(case, temperature):
    policy = tempered(case.head(case.hidden), temperature)
    with torch.no_grad():
        reference, previous = (tempered(head(hidden), temperature) for head, hidden in case.others.values())
    return SimpleNamespace(
        log_probs=sampled(policy, case.ids),
        entropy=entropy(policy),
        reference_kl=exact_kl(policy, reference),
        reference_log_probs=sampled(reference, case.ids),
        previous_kl=exact_kl(policy, previous),
    )


def gradients(case, found, names, noise):
    leaves = [case.hidden, case.head.weight, case.head.bias]
    loss = sum((weight * getattr(found, name)).sum() for name, weight in zip(names, noise, strict=True))
    return torch.autograd.grad(loss, leaves)


@settings(max_examples=60)
@given(
    st.integers(0, 9),
    st.sampled_from([1, 2, 4, 100]),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sets(st.sampled_from(TRAINED), min_size=1),
    st.integers(0, 99),
)
def test_values_and_gradients_are_those_of_the_whole_distributions(tokens, per_chunk, temperature, used, seed):
    made = case(tokens, seed)
    names = sorted(used)
    noise = [made.noise() for _ in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", per_chunk * VOCAB)
        found = in_chunks(made, temperature)
        mine = gradients(made, found, names, noise)
    expected = by_formulas(made, temperature)
    for name in OUTPUTS:
        assert getattr(found, name).shape == (tokens,)
        assert torch.allclose(getattr(found, name), getattr(expected, name)), name
    for one, other in zip(mine, gradients(made, expected, names, noise), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


@PER_CHUNK
@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize("tokens", [1, 5])
def test_gradients_equal_finite_differences(tokens, temperature, per_chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", per_chunk * VOCAB)
    made = case(tokens)
    others = [LazyLogits.of(*each) for each in made.others.values()]

    def function(hidden, weight, bias):
        found = token_statistics(LazyLogits(hidden, weight, answer_logits(bias)), made.ids, temperature, *others)
        return found.log_probs, found.entropy, found.reference_kl, found.previous_kl

    assert torch.autograd.gradcheck(function, (made.hidden, made.head.weight, made.head.bias))


def test_kl_equals_enumeration():
    made = case(3)
    policy, reference = tempered(made.head(made.hidden)), tempered(made.others["reference"][0](made.others["reference"][1]))
    expected = [
        sum(math.exp(p) * (p - r) for p, r in zip(row, other, strict=True) if p > -math.inf)
        for row, other in zip(policy.tolist(), reference.tolist(), strict=True)
    ]
    assert in_chunks(made, 1.0).reference_kl.tolist() == pytest.approx(expected)
    assert min(expected) > 0
    itself = LazyLogits.of(made.head, made.hidden)
    assert token_statistics(itself, made.ids, 1.0, itself).reference_kl.eq(0).all()


@PER_CHUNK
def test_what_cannot_occur_has_no_gradient_and_makes_none_infinite(per_chunk, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", per_chunk * VOCAB)
    made = case(6)
    assert IMPOSSIBLE
    assert EOS in POSSIBLE
    with torch.no_grad():
        made.head.bias[IMPOSSIBLE] += 50
        # A token that is as good as certain: all others have a probability of 0 after rounding.
        made.head.bias[POSSIBLE[0]] += 2000
    for names in (*((name,) for name in TRAINED), TRAINED):
        found = in_chunks(made, 0.5)
        assert all(getattr(found, name).isfinite().all() for name in OUTPUTS)
        hidden, weight, bias = gradients(made, found, names, [made.noise() for _ in names])
        assert all(each.isfinite().all() for each in (hidden, weight, bias))
        assert weight[IMPOSSIBLE].eq(0).all()
        assert bias[IMPOSSIBLE].eq(0).all()


def test_entropy_of_the_uniform_distribution_is_log_n_and_of_a_certain_one_0():
    head, hidden, ids = torch.nn.Linear(DIM, VOCAB), torch.zeros(2, DIM), torch.tensor([EOS, EOS])
    torch.nn.init.zeros_(head.bias)
    assert token_statistics(LazyLogits.of(head, hidden), ids, 1.0).entropy.tolist() == pytest.approx([math.log(len(POSSIBLE))] * 2)
    with torch.no_grad():
        head.bias[EOS] = 1e4
    assert token_statistics(LazyLogits.of(head, hidden), ids, 1.0).entropy.tolist() == [0, 0]


@pytest.mark.parametrize("tokens", [1, 2, 7, 40])
def test_log_probabilities_are_the_same_bits_whatever_else_is_asked_for(tokens, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 3 * VOCAB)
    made = case(tokens, dtype=torch.float32)
    with torch.no_grad():
        alone = token_log_probs(LazyLogits.of(made.head, made.hidden), made.ids, 0.8)
    assert torch.equal(alone, token_log_probs(LazyLogits.of(made.head, made.hidden), made.ids, 0.8))
    for names in ((), ("reference",), ("reference", "previous")):
        assert torch.equal(in_chunks(made, 0.8, names).log_probs, alone)


@pytest.mark.parametrize("trained", ["hidden", "weight", "bias"])
def test_only_what_is_trained_gets_a_gradient(trained):
    made = case(4)
    leaves = {"hidden": made.hidden, "weight": made.head.weight, "bias": made.head.bias}
    expected = dict(zip(leaves, gradients(made, in_chunks(made, 1.0), ["entropy"], [torch.ones(4)]), strict=True))
    for name, leaf in leaves.items():
        leaf.requires_grad_(name == trained)
    in_chunks(made, 1.0).entropy.sum().backward()
    assert torch.equal(leaves[trained].grad, expected[trained])
    assert all(leaf.grad is None for name, leaf in leaves.items() if name != trained)
    assert not in_chunks(made, 1.0).reference_log_probs.requires_grad


def test_what_is_compared_with_is_held_constant():
    """Also where it has the same head as the policy."""
    made = case(4)
    previous = LazyLogits.of(made.head, made.others["previous"][1].requires_grad_())
    kl = token_statistics(LazyLogits.of(made.head, made.hidden), made.ids, 1.0, previous=previous).previous_kl
    found = torch.autograd.grad(kl.sum(), [made.head.weight, made.head.bias])
    constant = tempered(made.head(made.others["previous"][1])).detach()
    truth = exact_kl(tempered(made.head(made.hidden)), constant)
    for one, other in zip(found, torch.autograd.grad(truth.sum(), [made.head.weight, made.head.bias]), strict=True):
        assert torch.allclose(one, other, atol=1e-12)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made inside."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        out = function(*arguments, **(named or {}))
        self.elements = max([self.elements, *(each.numel() for each in tree_leaves(out) if isinstance(each, torch.Tensor))])
        return out


def test_nothing_is_as_large_as_all_tokens_by_the_vocabulary(monkeypatch):
    tokens, per_chunk = 200, 10
    monkeypatch.setattr(module, "CHUNK", per_chunk * VOCAB)
    made = case(tokens)
    with Largest() as largest:
        found = in_chunks(made, 1.0)
        (found.log_probs + found.entropy + found.reference_kl + found.previous_kl).sum().backward()
    # Hidden states and their gradient are the largest.
    assert largest.elements == tokens * DIM < tokens * VOCAB
    with Largest() as whole:
        by_formulas(made, 1.0)
    assert whole.elements == tokens * VOCAB


def test_under_mixed_precision_the_head_is_narrow_and_the_rest_is_not():
    made = case(50, dtype=torch.float32)
    exact = in_chunks(made, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        assert LazyLogits.of(made.head, made.hidden).weight.dtype == torch.bfloat16
        narrow, whole = in_chunks(made, 0.9), by_formulas(made, 0.9)
    for name in OUTPUTS:
        assert getattr(narrow, name).dtype == torch.float32
        assert torch.allclose(getattr(narrow, name), getattr(whole, name), atol=1e-5), name
    assert not torch.allclose(narrow.entropy, exact.entropy, atol=1e-5)
    names, noise = ["log_probs", "entropy", "reference_kl"], [made.noise() for _ in range(3)]
    for one, other in zip(gradients(made, narrow, names, noise), gradients(made, exact, names, noise), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.03 * other.norm()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_may_be_estimated_on_the_sampled_tokens(estimator):
    made = case(6)
    policy, reference = LazyLogits.of(made.head, made.hidden), LazyLogits.of(*made.others["reference"])
    found, truth = token_statistics(policy, made.ids, 0.7, reference, estimator=estimator), by_formulas(made, 0.7)
    expected = estimated_kl(truth.log_probs, truth.reference_log_probs, estimator)
    assert torch.allclose(found.reference_kl, expected)
    assert torch.allclose(found.reference_log_probs, truth.reference_log_probs)
    assert torch.allclose(*(torch.autograd.grad(each.sum(), made.hidden)[0] for each in (found.reference_kl, expected)))
    assert token_statistics(policy, made.ids, 0.7, estimator=estimator).reference_kl is None


@pytest.mark.parametrize("thinking", [(False,) * 5, (True,) * 5, (True, True, False, False, True)])
def test_a_thought_ends_with_its_marker_and_an_answer_with_another(thinking):
    special, size, generator = len(SPECIAL_TOKENS) + 4, 16, torch.Generator().manual_seed(3)
    thoughts = torch.tensor(thinking)

    def head():
        linear = torch.nn.Linear(DIM, size, dtype=torch.float64)
        linear.special_tokens = special
        return linear

    policy, frozen = head(), head()
    hidden, others = (torch.randn(5, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    hidden.requires_grad_()
    ids = torch.where(thoughts, ANSWER, EOS)
    found = token_statistics(LazyLogits.of(policy, hidden), ids, 0.8, LazyLogits.of(frozen, others), thoughts=thoughts)

    def whole(linear, states):
        logits = linear(states)
        said, thought = (answer_logits(logits, special, (end,)) for end in (EOS, ANSWER))
        return (torch.where(thoughts.unsqueeze(1), thought, said) / 0.8).log_softmax(-1)

    mine, theirs = whole(policy, hidden), whole(frozen, others)
    expected = {
        "log_probs": sampled(mine, ids),
        "entropy": entropy(mine),
        "reference_kl": exact_kl(mine, theirs),
        "reference_log_probs": sampled(theirs, ids),
    }
    leaves = [hidden, policy.weight, policy.bias]
    for name, value in expected.items():
        torch.testing.assert_close(getattr(found, name), value)
        assert value.isfinite().all()
        if name != "reference_log_probs":
            gradients_of = [torch.autograd.grad(each.sum(), leaves, retain_graph=True) for each in (getattr(found, name), value)]
            for one, other in zip(*gradients_of, strict=True):
                torch.testing.assert_close(one, other)
    assert torch.equal(token_log_probs(LazyLogits.of(policy, hidden), ids, 0.8, thoughts), found.log_probs)

"""A minibatch by hand, for the losses."""

import torch

from rxrl.algorithms import PolicyInputs
from tests.distributions import entropy, exact_kl

INF = float("inf")
VOCAB = 6


def log_probs(*shape, seed=0, impossible=(0, 3)):
    """Random log-probabilities; some tokens are impossible."""
    logits = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits[..., list(impossible)] = -INF
    return logits.log_softmax(-1)


def inputs(tokens=4, turns=2, **changes):
    """A minibatch in which every term of every loss has something to do; one token does not count."""
    distribution = log_probs(tokens, VOCAB)
    chosen = distribution[:, 1]
    memory = torch.randn(2, turns, 2, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    given = {
        "log_probs": chosen,
        "old_log_probs": chosen + torch.linspace(-0.5, 0.5, tokens, dtype=torch.float64),
        "advantages": torch.linspace(-1, 1, tokens, dtype=torch.float64),
        "weights": torch.tensor([1.0] * (tokens - 1) + [0.0], dtype=torch.float64),
        "entropy": entropy(distribution),
        "reference_kl": exact_kl(distribution, log_probs(tokens, VOCAB, seed=1)),
        "previous_kl": exact_kl(distribution, log_probs(tokens, VOCAB, seed=2)),
        "has_previous": torch.tensor([0.0] + [1.0] * (tokens - 1), dtype=torch.float64),
        "memory": memory,
        "real": torch.ones(turns, 2, dtype=torch.bool),
    }
    return PolicyInputs(**given | changes)

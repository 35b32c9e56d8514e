"""Log-probabilities over a whole vocabulary and what is said of them, by the plain formulas: the truth for what is computed in chunks."""

import torch

from rxrl.models import answer_logits


def tempered(logits, temperature=1.0):
    """Log-probabilities of answers from the logits of an output head, `[tokens, vocab]`."""
    return (answer_logits(logits.to(torch.promote_types(logits.dtype, torch.float32))) / temperature).log_softmax(-1)


def sampled(distribution, ids):
    """Log-probabilities of the sampled tokens, `[tokens]`."""
    return distribution.gather(1, ids.unsqueeze(1)).squeeze(1)


def entropy(distribution):
    """Entropy of each row of log-probabilities `[..., vocab]`; impossible tokens count 0."""
    return -(distribution.exp() * distribution.masked_fill(distribution == float("-inf"), 0)).sum(-1)


def exact_kl(policy, reference):
    """KL(policy || reference) of each row of log-probabilities `[..., vocab]`; tokens impossible in both count 0."""
    return (policy.exp() * (policy - reference).masked_fill(policy == float("-inf"), 0)).sum(-1)

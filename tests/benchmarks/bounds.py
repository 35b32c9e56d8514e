"""What a decode step has to move and to compute at least, whatever code does it."""

from __future__ import annotations

from typing import NamedTuple

from rxrl.models import ModelConfig

FLOAT = 4
"""Bytes of a float32."""


class StepWork(NamedTuple):
    """One token for each row.

    Attributes:
        bytes: Weights that are touched, once; keys and values of every row, once.
        flop: Floating-point operations, two for each multiplication with addition.
    """

    bytes: float
    flop: float


def decode_work(config: ModelConfig, batch: int, keys: float) -> StepWork:
    """Bytes and operations of one decode step, with experts chosen evenly.

    Args:
        config: Sizes of the model.
        batch: Rows.
        keys: Tokens before this one, on average.
    """
    part, dim, size = config.decoder, config.dim, config.head_dim
    own, cross = part.self_attention, part.cross_attention
    projections = dim * size * (2 * own.query_groups + 2 * own.kv_groups + 2 * cross.query_groups)
    router = dim * part.experts if part.experts > 1 else 0
    expert = 3 * dim * part.ff_dim
    untouched = (1 - part.active_experts / part.experts) ** batch
    touched = part.experts * (1 - untouched) + part.shared_experts
    stored = 2 * size * (own.kv_groups * keys + cross.kv_groups * config.slots)
    scores = 2 * size * (own.query_groups * keys + cross.query_groups * config.slots)
    head = dim * config.vocab_size
    weights = config.layers * (projections + router + touched * expert) + head
    used = config.layers * (projections + router + (part.active_experts + part.shared_experts) * expert + scores) + head
    return StepWork(FLOAT * (weights + batch * config.layers * stored), 2.0 * batch * used)

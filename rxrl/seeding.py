"""Randomness keyed by what it is for, so that batch order, batch size and process count never change a draw."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*key: int | str) -> int:
    """Returns a seed in [0, 2**63) that depends on every part of `key`, for example `(seed, "stm0", iteration, conversation)`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in key)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(*key: int | str) -> torch.Generator:
    """Returns a CPU generator seeded with `derive_seed(*key)`; draw on the CPU, then move the values to the device."""
    return torch.Generator().manual_seed(derive_seed(*key))

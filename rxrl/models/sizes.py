"""How large a model is: exact counts of parameters and bytes."""

from __future__ import annotations

import torch

from rxrl.models.experts import MixtureOfExperts
from rxrl.models.network import ReactiveNetwork


def count_parameters(model: ReactiveNetwork) -> dict[str, int]:
    """Parameters by part: encoder and decoder each with the embedding, total with it once and without the MLM head.

    Those called active count the whole router and only the experts that one token uses.
    """
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    inactive = sum(part.inactive_parameters for part in model.modules() if isinstance(part, MixtureOfExperts))
    total = sizes["embedding"] + sizes["encoder"] + sizes["decoder"] + sizes["memory_attention"]
    return {
        "encoder": sizes["embedding"] + sizes["encoder"],
        "decoder": sizes["embedding"] + sizes["decoder"],
        "decoder_active": sizes["embedding"] + sizes["decoder"] - inactive,
        "memory_attention": sizes["memory_attention"],
        "mlm_head": sizes["mlm_head"],
        "total": total,
        "total_active": total - inactive,
    }


def count_bytes(model: ReactiveNetwork, dtype: torch.dtype = torch.float32) -> dict[str, int]:
    """Bytes of all parameters but the MLM head's, values of one conversation's memory, and bytes of those."""
    values = model.config.memory_values
    return {
        "bytes": count_parameters(model)["total"] * dtype.itemsize,
        "memory_values": values,
        "memory_bytes": values * dtype.itemsize,
    }

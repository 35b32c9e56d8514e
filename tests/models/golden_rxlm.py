"""Small checkpoints in the published layout, written from the description alone, and what a right import computes from them.

The weights are sines of their positions, so that they are the same everywhere; the outputs lie in `golden_rxlm.safetensors`. They were
stored once the same code reproduced models of the authors' library. To store them again, after such a check:

    python -m tests.models.golden_rxlm
"""

from __future__ import annotations

import json
from pathlib import Path
from zlib import crc32

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rxrl.models import ReactiveTransformer, import_rxlm

GOLDEN = Path(__file__).with_name("golden_rxlm.safetensors")
DIM, HEADS, LAYERS, VOCAB, SLOTS, LENGTH, EXPERTS, HIDDEN = 16, 4, 2, 12, 5, 8, 3, 6
HEAD = DIM // HEADS
Shapes = dict[str, tuple[int, ...]]


def attention(key: str, queries: int, keys: int) -> Shapes:
    return {
        f"{key}.q_proj.weight": (queries * HEAD, DIM),
        f"{key}.k_proj.weight": (keys * HEAD, DIM),
        f"{key}.v_proj.weight": (keys * HEAD, DIM),
        f"{key}.out_proj.weight": (DIM, queries * HEAD),
        f"{key}.out_proj.bias": (DIM,),
    }


def swiglu(key: str) -> Shapes:
    return {
        f"{key}.fc1.linear.weight": (2 * HIDDEN, DIM),
        f"{key}.fc1.linear.bias": (2 * HIDDEN,),
        f"{key}.fc2.weight": (DIM, HIDDEN),
        f"{key}.fc2.bias": (DIM,),
    }


def transformer(feed_forward: str, reads_memory: bool) -> Shapes:
    shapes: Shapes = {"embedding.weight": (VOCAB, DIM)}
    for layer in (f"layers.{number}" for number in range(LAYERS)):
        shapes |= attention(f"{layer}.attention", 2, 2) | {f"{layer}.norm1.weight": (DIM,), f"{layer}.norm3.weight": (DIM,)}
        if reads_memory:
            shapes |= attention(f"{layer}.memory_cross_attention", 2, 1)
            shapes |= {f"{layer}.norm2.weight": (DIM,), f"{layer}.stm_norm.weight": (DIM,)}
        if feed_forward == "dense":
            shapes |= swiglu(f"{layer}.ff")
            continue
        shapes[f"{layer}.ff.router.gate.weight"] = (EXPERTS, DIM)
        if feed_forward == "stacked":
            w1, w2 = (EXPERTS, DIM, 2 * HIDDEN), (EXPERTS, HIDDEN, DIM)
            shapes |= {f"{layer}.ff.w1": w1, f"{layer}.ff.w2": w2, f"{layer}.ff.global_bias": (DIM,)}
        else:
            for expert in range(EXPERTS):
                shapes |= swiglu(f"{layer}.ff.experts.{expert}")
    return shapes | {"stm.memory": (LAYERS, 1, SLOTS, DIM)}


def decoder(feed_forward: str) -> Shapes:
    return transformer(feed_forward, True) | {"head.weight": (VOCAB, DIM), "head.bias": (VOCAB,)}


def memory_attention() -> Shapes:
    shapes: Shapes = {"mean_stm_norm.weight": (DIM,), "stm.memory": (LAYERS, 1, SLOTS, DIM)}
    for layer in range(LAYERS):
        shapes |= attention(f"attention_layers.{layer}", 2, 2) | attention(f"mean_attention_layers.{layer}", 4, 2)
        for norm in ("memory_norm_layers", "memory_input_norm_layers", "mean_memory_norm_layers"):
            shapes[f"{norm}.{layer}.weight"] = (DIM,)
        for gate in ("residual_gate_layers", "mean_residual_gate_layers"):
            shapes |= {f"{gate}.{layer}.gate.weight": (SLOTS, SLOTS), f"{gate}.{layer}.gate.bias": (SLOTS,)}
    return shapes


def mlm_head() -> Shapes:
    norm: Shapes = {"layer_norm.weight": (DIM,), "layer_norm.bias": (DIM,)}
    return {"dense.weight": (DIM, DIM), "dense.bias": (DIM,), "decoder.weight": (VOCAB, DIM), "decoder.bias": (VOCAB,)} | norm


def weight(key: str, shape: tuple[int, ...]) -> Tensor:
    """Sines that differ from key to key, around 1 for norms; the embedding is the same in every part."""
    count = int(torch.tensor(shape).prod())
    phase = crc32(key.encode()) % 1000
    values = torch.sin(0.7 * torch.arange(count, dtype=torch.float64) * (1 + phase / 500) + phase).view(shape)
    around, scale = (1.0, 0.3) if "norm" in key and key.endswith("weight") else (0.0, 0.6)
    return (around + scale * values).float()


COMMON = {"embed_dim": DIM, "num_layers": LAYERS, "att_heads": HEADS, "seq_len": LENGTH, "stm_size": SLOTS, "att_dropout": 0.1}
GROUPS = {"self_att_type": "sqa", "att_query_groups": 2, "att_groups": 2, "cross_att_query_groups": 2, "cross_att_groups": 1}
SWIGLU = {"ff_dim": HIDDEN, "use_gated": True, "ff_activation": "silu", "use_rms_norm": True, "vocab_size": VOCAB}
ENCODER = COMMON | GROUPS | SWIGLU | {"use_moe": False, "skip_memory_cross_attention": True}
DECODER = COMMON | GROUPS | SWIGLU | {"use_moe": True, "num_experts": EXPERTS, "moe_top_k": 2}
MEMORY = COMMON | {
    **{"att_type": "sqa", "att_query_groups": 2, "att_groups": 2, "interlayer_att_query_groups": 4, "interlayer_att_groups": 2},
    **{"norm_type": "classic-rms", "use_gated_residual": True, "residual_gate_type": "linear", "residual_per_slot_gate": True},
    **{"residual_gate_slot_status_type": "mean", "use_tanh_residual_gate": False, "residual_gate_init": 3.0},
}
LATER = {"num_shared_experts": 0, "stateless_layers_config": [], "use_vectorized_moe": False}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3, "query_token_id": 5, "answer_token_id": 6}


def write(folder: Path, config: dict, shapes: dict[str, Shapes]) -> Path:
    """A checkpoint of parts by prefix; the encoder's embedding is left out where the decoder has it, and named as its alias."""
    folder.mkdir(parents=True)
    tensors = {prefix + key: weight(key, shape) for prefix, part in shapes.items() for key, shape in part.items()}
    metadata = {}
    if "decoder.model." in shapes:
        del tensors["encoder.model.embedding.weight"]
        metadata["encoder.model.embedding.weight"] = "decoder.model.embedding.weight"
    save_file(tensors, folder / "model.safetensors", metadata=metadata)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_whole(folder: Path, experts: str, later: bool) -> Path:
    extra = (LATER | {"use_vectorized_moe": experts == "stacked"}) if later else {}
    config = {"decoder_config": DECODER | extra, "encoder_config": ENCODER, "memory_attention_config": MEMORY}
    named = {"memory_attention_variant": "interlayer", "tokenizer": None, "tokenizer_config": TOKENS}
    shapes = {"decoder": decoder(experts), "encoder": transformer("dense", False), "memory_attention": memory_attention()}
    return write(folder, config | named, {f"{part}.model.": each for part, each in shapes.items()})


def write_parts(folder: Path) -> dict[str, Path]:
    reads = ENCODER | {"skip_memory_cross_attention": False}
    return {
        "encoder": write(folder / "encoder", reads, {"model.": transformer("dense", True)}),
        "decoder": write(folder / "decoder", DECODER, {"model.": decoder("single")}),
        "memory_attention": write(folder / "memory", MEMORY, {"model.": memory_attention()}),
        "mlm_head": write(folder / "mlm_head", {"embed_dim": DIM, "vocab_size": VOCAB}, {"": mlm_head()}),
    }


CASES = {
    "early": (lambda folder: write_whole(folder / "early", "single", later=False), None),
    "later": (lambda folder: write_whole(folder / "later", "single", later=True), "interleaved"),
    "stacked": (lambda folder: write_whole(folder / "stacked", "stacked", later=True), None),
    "parts": (lambda folder: write_parts(folder / "parts"), None),
}


@torch.no_grad()
def outputs(model: ReactiveTransformer) -> dict[str, Tensor]:
    """What the model computes for a fixed interaction."""
    ids = torch.tensor([[1, 5, 7, 9, 6, 11, 8, 3], [1, 5, 10, 6, 7, 3, 0, 0]])
    mask = torch.tensor([[True] * 8, [True] * 6 + [False] * 2])
    stm = model.init_memory(2) + torch.linspace(-1, 1, 2).view(1, 2, 1, 1)
    encoded = model.encode(ids, mask, stm if model.encoder.reads_memory else None)
    written = model.update_memory(stm, encoded, mask)
    found = {"encoded": encoded[:, mask], "memory": written, "logits": model.decode(ids, mask, written)[mask]}
    return found if "mlm_head" in model.config.absent else found | {"mlm": model.mlm_head(encoded[-1])[mask]}


def same(one: ReactiveTransformer, other: ReactiveTransformer) -> bool:
    """Equal configurations and equal bits."""
    weights, others = one.state_dict(), other.state_dict()
    return (
        one.config == other.config and weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    )


def expected(case: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{case}."): value for key, value in load_file(GOLDEN).items() if key.startswith(f"{case}.")}


def _store() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        stored = {
            f"{case}.{name}": value.contiguous()
            for case, (write_case, order) in CASES.items()
            for name, value in outputs(import_rxlm(write_case(Path(folder)), order).model).items()
        }
    save_file(stored, GOLDEN)


if __name__ == "__main__":
    _store()

"""The published configuration keys and ours: read with the shapes of the weights, written for a model.

Shapes decide where a configuration is known to be wrong about its own file (attention groups, layout of experts, variant of the memory
attention, memory cross-attention of the encoder); such a disagreement is reported. Everything else is as the configuration says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

from pydantic import ValidationError

from rxrl.errors import CheckpointError, sentence, unknown_name
from rxrl.models.config import (
    AttentionConfig,
    DecoderConfig,
    EncoderConfig,
    GateConfig,
    MemoryAttentionConfig,
    ModelConfig,
    PublishedVariant,
)
from rxrl.models.files import listed
from rxrl.models.interop.rxlm_files import PARTS, PartFile
from rxrl.models.layers import ROPE_BASE
from rxrl.types import ANSWER, BOS, EOS, PAD, QUERY
from rxrl.validation import first_refusal

LATER_KEYS = ("num_shared_experts", "use_vectorized_moe", "legacy_stm_in_encoder", "stateless_layers_config")
"""Keys that no early configuration has."""
TOKEN_IDS = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS, "query_token_id": QUERY, "answer_token_id": ANSWER}
_INTERLAYER = ("interlayer", "self-interlayer", "grouped-self-interlayer")
_GROUPS_KEY = "num_groups"
_SMALLEST_VOCABULARY = 8

_READ = {
    *("embed_dim", "vocab_size", "num_layers", "att_heads", "att_groups", "att_query_groups", "att_type", "seq_len", "stm_size"),
    *("self_att_type", "self_att_groups", "self_att_query_groups", "cross_att_type", "cross_att_groups", "cross_att_query_groups"),
    *("interlayer_att_type", "interlayer_att_groups", "interlayer_att_query_groups", "skip_memory_cross_attention", _GROUPS_KEY),
    *("ff_dim", "use_moe", "num_experts", "moe_top_k", "use_vectorized_moe", "legacy_stm_in_encoder"),
    *("use_gated_residual", "use_tanh_residual_gate", "residual_gate_type", "residual_per_slot_gate", "residual_gate_slot_status_type"),
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "use_gated": (True,),
    "ff_activation": ("silu", "swish"),
    "use_rms_norm": (True,),
    "norm_type": ("classic-rms",),
    "rope_base": (ROPE_BASE,),
    "num_shared_experts": (0, None),
}
# How a model was started, trained, stored or computed, which its weights do not depend on any more.
_OF_NO_EFFECT = re.compile(
    r"dropout|_init$|^use_flash_attention$|^moe_grouped_gemm$|^(architectures|model_type|torch_dtype|dtype|_name_or_path|tokenizer|tags)$"
    r"|_version$"
)


def check_supported(parts: Mapping[str, PartFile], shared: Mapping[str, Any]) -> None:
    """Refuses keys that stand for something we do not have; keys that are off (false, 0, empty) do not.

    Raises:
        CheckpointError: Names all of them.
    """
    wrong = [
        f"{part.kind}: {key} = {value!r}" + (f" (only {_ONLY[key][0]!r})" if key in _ONLY else "")
        for part in parts.values()
        for key, value in part.config.items()
        if not _is_supported(key, value)
    ]
    known = {"memory_attention_variant", "tokenizer_config"}
    wrong += [f"{key} = {value!r}" for key, value in shared.items() if key not in known and not _is_supported(key, value)]
    if wrong:
        where = next(iter(parts.values())).path.with_name("config.json")
        raise CheckpointError(f"{where} asks for what rxrl does not support: {'; '.join(wrong)}. Nothing was loaded.")
    ids = shared.get("tokenizer_config") or {}
    if not isinstance(ids, Mapping):
        raise CheckpointError(f"Expected an object for tokenizer_config in config.json, got {ids!r}. Nothing was loaded.")
    _check_token_ids(ids)


def _is_supported(key: str, value: Any) -> bool:
    if key in _ONLY:
        return value in _ONLY[key]
    return key in _READ or not value or bool(_OF_NO_EFFECT.search(key))


def _check_token_ids(ids: Mapping[str, Any]) -> None:
    other = [f"{name} = {ids[name]}, not {expected}" for name, expected in TOKEN_IDS.items() if ids.get(name, expected) != expected]
    if other:
        raise CheckpointError(
            f"The special tokens of this checkpoint have other ids than those of rxrl ({'; '.join(other)}): queries and answers could not "
            "be marked as it was trained."
        )


def read_model_config(
    parts: Mapping[str, PartFile], shared: Mapping[str, Any], name: str, initial_memory: str
) -> tuple[ModelConfig, list[str]]:
    """Our configuration of some parts, and where theirs disagrees with their weights.

    Parts that are not given are `absent`; what the configuration says of them is what they would be if they were made.

    Raises:
        CheckpointError: A key is missing, parts do not belong together, or the sizes make no sense.
    """
    notes: list[str] = []
    readers = {kind: _PartReader(part, notes) for kind, part in parts.items()}
    layered = [reader for kind, reader in readers.items() if kind != "mlm_head"]
    if not layered:
        raise CheckpointError("An MLM head alone is no model: give its encoder, too.")
    with_tokens = [reader for kind, reader in readers.items() if kind != "memory_attention"]
    dim, heads = _agreed(readers.values(), "embed_dim"), _agreed(layered, "att_heads")
    lengths = {reader.number("seq_len") for reader in layered}
    if len(lengths) > 1:
        notes.append(f"seq_len is {listed([str(n) for n in sorted(lengths)])}: {min(lengths)}, the smallest, holds for the model")
    if dim % heads:
        raise CheckpointError(f"The configuration of this checkpoint makes no sense: embed_dim {dim} is no multiple of att_heads {heads}.")
    try:
        mlm_norm = "mlm_head" in parts and "layer_norm.weight" in parts["mlm_head"].tensors
        encoder = readers["encoder"].encoder(mlm_norm) if "encoder" in readers else None
        decoder = readers["decoder"].decoder() if "decoder" in readers else None
        memory = readers["memory_attention"].memory(shared.get("memory_attention_variant")) if "memory_attention" in readers else None
        attentions = (decoder and decoder.self_attention, encoder and encoder.self_attention, memory and memory.attention)
        usual = next(attention for attention in attentions if attention)
        sizes = {
            "name": name,
            "vocab_size": _agreed(with_tokens, "vocab_size") if with_tokens else _SMALLEST_VOCABULARY,
            "dim": dim,
            "layers": _agreed(layered, "num_layers"),
            "heads": heads,
            "max_length": min(lengths),
            "slots": _agreed(layered, "stm_size"),
            "initial_memory": initial_memory,
            "absent": ["embedding"] * (not {"encoder", "decoder"} & parts.keys()) + [kind for kind in PARTS if kind not in parts],
            "encoder": encoder or EncoderConfig(self_attention=usual, ff_dim=3 * dim),
            "decoder": decoder or DecoderConfig(self_attention=usual, cross_attention=usual, ff_dim=2 * dim),
            "memory_attention": memory or MemoryAttentionConfig(attention=usual, mean_attention=usual),
        }
        return ModelConfig.model_validate(sizes), notes
    except ValidationError as error:
        raise CheckpointError(
            sentence(f"The configuration of this checkpoint makes no sense: {first_refusal(error, ModelConfig, 'sizes')}")
        ) from None


def _agreed(readers: Iterable[_PartReader], key: str) -> int:
    """A size that all parts share."""
    found = {reader.part.kind: reader.number(key) for reader in readers}
    if len(set(found.values())) > 1:
        raise CheckpointError(
            f"These parts do not belong together: {key} is {', '.join(f'{value} ({kind})' for kind, value in found.items())}."
        )
    return next(iter(found.values()))


class _PartReader:
    """Reads one part's configuration beside its weights; disagreements go to `notes`."""

    def __init__(self, part: PartFile, notes: list[str]) -> None:
        self.part, self.notes = part, notes

    @property
    def _config_path(self) -> Path:
        return self.part.path.with_name("config.json")

    def number(self, key: str) -> int:
        """A whole number of the configuration."""
        value = self.part.config.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            came = "nothing" if value is None else repr(value)
            raise CheckpointError(f"{self._config_path}, {self.part.kind}: expected a number for {key}, got {came}.")
        return value

    def encoder(self, mlm_norm: bool) -> EncoderConfig:
        """Configuration of an encoder; it reads memory if the keys are there."""
        reads = any(".memory_cross_attention." in key for key in self.part.tensors)
        self._compare("skip_memory_cross_attention", not reads, "memory cross-attention" if reads else "no memory cross-attention")
        return EncoderConfig(
            self_attention=self._attention("layers.0.attention", "att"),
            cross_attention=self._attention("layers.0.memory_cross_attention", "cross_att") if reads else None,
            ff_dim=self.number("ff_dim"),
            mlm_norm=mlm_norm,
        )

    def decoder(self) -> DecoderConfig:
        """Configuration of a decoder; keys tell dense, single or stacked experts and the norm before the head."""
        stacked, single = "layers.0.ff.w1" in self.part.tensors, "layers.0.ff.experts.0.fc1.linear.weight" in self.part.tensors
        if stacked or single:
            self._compare("use_vectorized_moe", stacked, "stacked experts" if stacked else "experts one by one")
        mixture = bool(stacked or single or self.part.config.get("use_moe"))
        return DecoderConfig(
            self_attention=self._attention("layers.0.attention", "att"),
            cross_attention=self._attention("layers.0.memory_cross_attention", "cross_att"),
            ff_dim=self.number("ff_dim"),
            experts=self.number("num_experts") if mixture else 1,
            active_experts=self.number("moe_top_k") if mixture else 1,
            expert_biases="global" if stacked else "each",
            head_norm=self._head_norm(),
        )

    def _head_norm(self) -> Literal["none", "rms", "layer"]:
        if "head_norm.weight" not in self.part.tensors:
            return "none"
        return "layer" if "head_norm.bias" in self.part.tensors else "rms"

    def memory(self, declared: str | None) -> MemoryAttentionConfig:
        """Configuration of a memory attention; keys tell the variant."""
        variant = self._variant(declared)
        groups = self.number(_GROUPS_KEY) if variant == "grouped-self-interlayer" else None
        return MemoryAttentionConfig(
            variant=variant,
            attention=self._attention("attention_layers.0", "att"),
            mean_attention=self._attention("mean_attention_layers.0", "interlayer_att") if variant in _INTERLAYER else None,
            self_attention=self._attention("self_attention_layers.0", "self_att") if variant == "self" else None,
            layer_groups=groups,
            gate=self._gate(),
        )

    def _variant(self, declared: str | None) -> PublishedVariant:
        found: PublishedVariant = "simple"
        if self._any("interlayer_gate_layers."):
            found = "self-interlayer"
        elif self._any("mean_attention_layers."):
            found = "interlayer"
        elif self._any("self_attention_layers."):
            found = "self"
        if declared is None and found == "self-interlayer" and self.part.config.get(_GROUPS_KEY) is not None:
            # A part that is stored alone does not name its variant; only the grouped one has groups.
            return "grouped-self-interlayer"
        if declared is None or declared == found:
            return found
        if not isinstance(declared, str) or declared not in get_args(PublishedVariant):
            raise CheckpointError(
                f"{self._config_path}: {unknown_name('memory_attention_variant', str(declared), get_args(PublishedVariant))}"
            )
        if found in _INTERLAYER and declared in _INTERLAYER and declared != "grouped-self-interlayer":
            self.notes.append(f"memory_attention_variant is {declared} in config.json, but the weights are those of {found}")
            return found
        # What is declared and not there is reported as missing.
        return cast(PublishedVariant, declared)

    def _gate(self) -> GateConfig:
        config = self.part.config
        if not config.get("use_gated_residual", True):
            return GateConfig(type="none")
        kind = config.get("residual_gate_type")
        if kind not in ("static", "elementwise", "linear"):
            raise CheckpointError(f"{self._config_path}: expected static, elementwise or linear for residual_gate_type, got {kind!r}.")
        status = config.get("residual_gate_slot_status_type") or "mean"
        if status not in ("mean", "linear"):
            raise CheckpointError(f"{self._config_path}: expected mean or linear for residual_gate_slot_status_type, got {status!r}.")
        return GateConfig(
            type=kind,
            activation="tanh" if config.get("use_tanh_residual_gate") else "sigmoid",
            per_slot=bool(config.get("residual_per_slot_gate")),
            slot_status="linear" if status == "linear" and kind != "static" else "mean",
        )

    def _attention(self, key: str, name: str) -> AttentionConfig:
        """Groups as the weights have them."""
        queries = self._groups(f"{name}_query_groups", (f"{key}.q_proj.weight", 0), (f"{key}.out_proj.weight", 1))
        keys = self._groups(f"{name}_groups", (f"{key}.k_proj.weight", 0), (f"{key}.v_proj.weight", 0))
        try:
            return AttentionConfig(query_groups=queries, kv_groups=keys)
        except ValidationError as error:
            raise CheckpointError(
                sentence(f"{self.part.path}: {self.part.prefix}{key}: {first_refusal(error, AttentionConfig, 'groups')}")
            ) from None

    def _groups(self, name: str, *axes: tuple[str, int]) -> int:
        """Groups by the axes of weights that agree on them; where they do not, a shape is wrong, which is said with all others later."""
        head = self.number("embed_dim") // self.number("att_heads")
        sizes = {self.part.tensors[key].shape[axis] for key, axis in axes if key in self.part.tensors and self.part.tensors[key].ndim == 2}
        if len(sizes) != 1 or sizes == {0} or min(sizes) % head:
            return self.number(name if name in self.part.config else "att_heads")
        found = min(sizes) // head
        self._compare(name, found, f"{found} group{'s' if found > 1 else ''}")
        return found

    def _compare(self, key: str, found: object, words: str) -> None:
        declared = self.part.config.get(key, found)
        if declared != found:
            self.notes.append(f"{self.part.kind}: {key} is {declared!r} in config.json, but the weights have {words}")

    def _any(self, start: str) -> bool:
        return any(key.startswith(start) for key in self.part.tensors)


def write_part_config(config: ModelConfig, part: str, *, later: bool) -> dict[str, Any]:
    """Published configuration of one part.

    Args:
        config: Ours.
        part: One of `PARTS`.
        later: With the keys that only later files have.
    """
    if part == "mlm_head":
        return {"embed_dim": config.dim, "vocab_size": config.vocab_size}
    common = {
        "embed_dim": config.dim,
        "num_layers": config.layers,
        "att_heads": config.heads,
        "seq_len": config.max_length,
        "stm_size": config.slots,
        "att_dropout": 0.0,
        "use_flash_attention": False,
    }
    if part == "memory_attention":
        return common | _memory_keys(config)
    shared_keys = {"vocab_size": config.vocab_size, "use_gated": True, "ff_activation": "silu", "ff_dropout": 0.0, "use_rms_norm": True}
    own = _encoder_keys(config, later) if part == "encoder" else _decoder_keys(config, later)
    return common | shared_keys | own


def _encoder_keys(config: ModelConfig, later: bool) -> dict[str, Any]:
    part = config.encoder
    # The published encoders name groups of cross-attention even where they have none.
    cross = _attention_keys(part.cross_attention or part.self_attention, config.heads, "cross_att", "cross_att_type")
    keys = _attention_keys(part.self_attention, config.heads, "att", "self_att_type") | cross
    keys |= {"ff_dim": part.ff_dim, "use_moe": False, "skip_memory_cross_attention": part.cross_attention is None}
    return keys | ({"num_shared_experts": 0, "legacy_stm_in_encoder": True} if later else {})


def _decoder_keys(config: ModelConfig, later: bool) -> dict[str, Any]:
    part = config.decoder
    keys = _attention_keys(part.self_attention, config.heads, "att", "self_att_type")
    keys |= _attention_keys(part.cross_attention, config.heads, "cross_att", "cross_att_type")
    keys |= {"ff_dim": part.ff_dim, "use_moe": part.experts > 1}
    if part.experts > 1:
        keys |= {"num_experts": part.experts, "moe_top_k": part.active_experts}
    if later:
        keys |= {"num_shared_experts": 0, "use_vectorized_moe": part.expert_biases == "global", "stateless_layers_config": []}
    return keys


def _memory_keys(config: ModelConfig) -> dict[str, Any]:
    part = config.memory_attention
    keys: dict[str, Any] = {"norm_type": "classic-rms"} | _attention_keys(part.attention, config.heads, "att", "att_type")
    if part.mean_attention is not None:
        keys |= _attention_keys(part.mean_attention, config.heads, "interlayer_att", "interlayer_att_type")
    if part.self_attention is not None:
        keys |= _attention_keys(part.self_attention, config.heads, "self_att", "self_att_type")
    if part.layer_groups is not None:
        keys |= {_GROUPS_KEY: part.layer_groups}
    gate = part.gate
    return keys | {
        "use_gated_residual": gate.type != "none",
        "residual_gate_type": "static" if gate.type == "none" else gate.type,
        "residual_per_slot_gate": gate.per_slot,
        "residual_gate_slot_status_type": gate.slot_status,
        "use_tanh_residual_gate": gate.activation == "tanh",
    }


def _attention_keys(attention: AttentionConfig, heads: int, name: str, type_key: str) -> dict[str, Any]:
    return {
        type_key: attention.types(heads)[0],
        f"{name}_query_groups": attention.query_groups,
        f"{name}_groups": attention.kv_groups,
    }

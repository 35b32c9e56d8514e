"""Published checkpoints: import and export of whole models and of separate parts.

    found = import_rxlm("folder-or-hub-id")                 # found.model, found.notes
    found = import_rxlm({"encoder": "a", "decoder": "b"})   # separate parts make one model
    export_rxlm(found.model, "out", rope_order="interleaved")

Import after export is the identity, bit for bit. Nothing is loaded halfway: every tensor of the file has its place and every parameter its
tensor, or nothing is loaded. Rotary embedding has two orders in published files; the weights that meet rotated vectors without being
rotated themselves are permuted here, so that the model has one order only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from rxrl.errors import CheckpointError, ConfigError, unknown_name
from rxrl.models.config import ModelConfig, PublishedVariant
from rxrl.models.files import listed
from rxrl.models.interop.rxlm_config import LATER_KEYS, TOKEN_IDS, check_supported, read_model_config, write_part_config
from rxrl.models.interop.rxlm_files import PARTS, PREFIX, WHOLE, PartFile, read_folder, write_folder
from rxrl.models.interop.rxlm_pieces import Piece, RopeOrder, pieces_of, rope_order_named
from rxrl.models.layers import ROPE_BASE
from rxrl.models.model import ReactiveTransformer
from rxrl.models.skeleton import skeleton

Sources = str | Path | Mapping[str, str | Path]
_MARK_ROPE, _MARK_NAME, _MARK_MEMORY = "rxrl.rope_order", "rxrl.name", "rxrl.initial_memory"
_EMBEDDING = "embedding.weight"


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import gives.

    Attributes:
        model: On the CPU, in the type of the file.
        rope_orders: Order of rotary embedding in the files of the parts that depend on it.
        notes: What a careful reader of the file should know, such as a configuration that disagrees with its weights.
        folders: Where the files lie on this machine.
    """

    model: ReactiveTransformer
    rope_orders: dict[str, RopeOrder]
    notes: tuple[str, ...]
    folders: tuple[Path, ...]


def import_rxlm(
    sources: Sources, rope_order: RopeOrder | None = None, *, fresh: bool = False, seed: int = 0, name: str = "imported"
) -> Imported:
    """Reads a published checkpoint.

    Args:
        sources: A local folder or Hub id of a whole model or of one part, or several parts by name: `encoder`, `decoder`,
            `memory_attention`, `mlm_head`.
        rope_order: Order of rotary embedding in the file, for files that do not tell.
        fresh: Gives parts that no source holds fresh weights, to be trained; without it they are absent.
        seed: Seed of fresh weights.
        name: Of a model of several parts; a single source has a name.

    Raises:
        CheckpointError: A file is missing, broken, not complete, or asks for what is not supported; the message lists all of it.
        ConfigError: The order of rotary embedding has to be given, or a name is wrong.
    """
    if rope_order is not None:
        rope_order_named(rope_order)
    with _named(sources):
        return _imported(sources, rope_order, fresh, seed, name)


@contextmanager
def _named(sources: Sources) -> Iterator[None]:
    """Puts what is imported before a message that does not name it."""
    names = [str(each) for each in (sources.values() if isinstance(sources, Mapping) else [sources])]
    try:
        yield
    except CheckpointError as error:
        if any(name in str(error) for name in names):
            raise
        raise CheckpointError(f"{', '.join(names)}: {error}") from None


def _imported(sources: Sources, rope_order: RopeOrder | None, fresh: bool, seed: int, name: str) -> Imported:
    parts, shared, folders = _gather(sources)
    check_supported(parts, shared)
    memory, kind, notes = _initial_memory(parts)
    config, disagreements = read_model_config(parts, shared, _name(parts, sources, name), kind)
    empty = skeleton(ReactiveTransformer, config)
    _check_tensors(parts, empty)
    orders = _rope_orders(parts, empty, rope_order, notes)
    weights = _assemble(parts, empty, orders)
    if memory is not None:
        weights["initial_memory"] = memory.to(next(iter(weights.values())).dtype)
    if fresh:
        empty, weights = _with_fresh_parts(config, weights, seed)
    empty.load_state_dict(weights, assign=True)
    return Imported(empty, orders, tuple(disagreements + notes), folders)


def _gather(sources: Sources) -> tuple[dict[str, PartFile], Mapping[str, Any], tuple[Path, ...]]:
    """Parts by name, configuration that belongs to no part, and folders."""
    if isinstance(sources, (str, Path)):
        found = read_folder(sources)
        return found.parts, found.shared, (found.folder,)
    if not sources:
        raise ConfigError(f"Give at least one part: {', '.join(PARTS)}.")
    parts: dict[str, PartFile] = {}
    folders = []
    for name, source in sources.items():
        if name not in PARTS:
            raise ConfigError(unknown_name("part", name, PARTS))
        found = read_folder(source)
        if name not in found.parts:
            raise CheckpointError(f"{source} holds {', '.join(found.parts)}, not {name}: give the folder of that part.")
        parts[name] = found.parts[name]
        folders.append(found.folder)
    return parts, {}, tuple(folders)


def _name(parts: Mapping[str, PartFile], sources: Sources, name: str) -> str:
    """As an export noted it, or as the folder or repository is called."""
    called = name if isinstance(sources, Mapping) else Path(sources).resolve().name.partition("@")[0]
    return next(iter(parts.values())).marks.get(_MARK_NAME, called)


def _initial_memory(parts: Mapping[str, PartFile]) -> tuple[Tensor | None, str, list[str]]:
    """The memory that a conversation starts from, where a file of batch 1 has one: the decoder's first, because it is what is read."""
    kind = next(iter(parts.values())).marks.get(_MARK_MEMORY)
    if kind is not None and kind != "learned":
        return None, kind, []
    found = {name: parts[name].memory for name in ("decoder", "memory_attention", "encoder") if name in parts}
    single = {name: memory[:, 0] for name, memory in found.items() if memory is not None and memory.ndim == 4 and memory.shape[1] == 1}
    if not single:
        return None, "normal", ["no memory of batch 1 is stored: conversations start from random memory"]
    chosen, memory = next(iter(single.items()))
    notes: list[str] = []
    other = [name.replace("_", " ") for name, each in single.items() if not torch.equal(each, memory)]
    if other:
        notes.append(f"the memory stored with {' and '.join(other)} differs from that of the {chosen}, which conversations start from")
    return memory, "learned", notes


def _check_tensors(parts: Mapping[str, PartFile], model: ReactiveTransformer) -> None:
    """Refuses files whose tensors are not exactly those of the model."""
    missing: list[str] = []
    unknown: list[str] = []
    shapes: list[str] = []
    for kind, part in parts.items():
        expected = {piece.key: list(piece.place(ours).shape) for piece, _, ours in _pieces(model, kind)}
        missing += [part.prefix + key for key in expected if key not in part.tensors]
        unknown += [part.prefix + key for key in part.tensors if key not in expected]
        shapes += [
            f"{part.prefix}{key} is {list(part.tensors[key].shape)}, expected {shape}"
            for key, shape in expected.items()
            if key in part.tensors and list(part.tensors[key].shape) != shape
        ]
        if part.memory is not None and not _fits(part.memory, model.config):
            shapes.append(f"{part.prefix}stm.memory is {list(part.memory.shape)}, expected [layers, batch, slots, dim]")
    broken = [part.prefix + key for part in parts.values() for key, each in part.tensors.items() if not _is_finite(each)]
    problems = [f"missing: {listed(sorted(missing))}"] * bool(missing) + [f"unknown: {listed(sorted(unknown))}"] * bool(unknown)
    problems += [f"wrong shape: {listed(shapes)}"] * bool(shapes)
    problems += [f"no finite numbers: {listed(broken)}"] * bool(broken)
    if problems:
        where = " and ".join(dict.fromkeys(str(part.path) for part in parts.values()))
        raise CheckpointError(f"{where} cannot be loaded ({'; '.join(problems)}): use the intact file. Nothing was loaded.")


def _is_finite(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and bool(tensor.isfinite().all())


def _fits(memory: Tensor, config: ModelConfig) -> bool:
    return memory.ndim == 4 and (memory.shape[0], *memory.shape[2:]) == (config.layers, config.slots, config.dim)


def _pieces(model: ReactiveTransformer, kind: str) -> Iterator[tuple[Piece, str, Tensor]]:
    """Pieces of a part, each with the full name of our tensor and the tensor."""
    weights = model.state_dict()
    if kind in ("encoder", "decoder"):
        yield Piece(_EMBEDDING, _EMBEDDING), _EMBEDDING, weights[_EMBEDDING]
    for piece in pieces_of(getattr(model, kind)):
        name = f"{kind}.{piece.name}"
        yield piece, name, weights[name]


def _rope_orders(
    parts: Mapping[str, PartFile], model: ReactiveTransformer, given: RopeOrder | None, notes: list[str]
) -> dict[str, RopeOrder]:
    """Order of each part whose weights depend on it: as given, as its file tells, or as the other files tell."""
    told = {kind: _told_order([each for each in parts.values() if each.path == part.path]) for kind, part in parts.items()}
    needed = [kind for kind in parts if any(piece.facing for piece, _, _ in _pieces(model, kind))]
    if given is not None:
        other = [kind for kind in needed if told[kind] not in (given, None)]
        notes.extend(f"{kind}: its file looks {told[kind]}, read as {given} because you said so" for kind in other)
        return dict.fromkeys(needed, given)
    family = {order for order in told.values() if order is not None}
    silent = [kind for kind in needed if told[kind] is None]
    if silent and len(family) != 1:
        raise ConfigError(
            f"Nothing in the files tells the order of rotary embedding of the {' and the '.join(silent).replace('_', ' ')}: give the rope "
            "order (--rope-order), 'concatenated' for releases up to about 0.3.20 (all models of 2025), 'interleaved' from 0.3.40 on."
        )
    notes.extend(f"{kind}: rope order {min(family)}, as the other parts tell" for kind in silent)
    return {kind: told[kind] or min(family) for kind in needed}


def _told_order(parts: Sequence[PartFile]) -> RopeOrder | None:
    """Order of the parts of one file: noted by an export, or by the layout of its experts."""
    noted = parts[0].marks.get(_MARK_ROPE)
    if noted is not None:
        return rope_order_named(noted)
    if any(key.endswith(".ff.w1") for part in parts for key in part.tensors):
        return "interleaved"
    single = any(".ff.experts." in key for part in parts for key in part.tensors)
    later = any(key in part.config for part in parts for key in LATER_KEYS)
    return "concatenated" if single and not later else None


def _assemble(parts: Mapping[str, PartFile], model: ReactiveTransformer, orders: Mapping[str, RopeOrder]) -> dict[str, Tensor]:
    """Our tensors from theirs."""
    dtype = reduce(torch.promote_types, {tensor.dtype for part in parts.values() for tensor in part.tensors.values()})
    weights: dict[str, Tensor] = {}
    filled: Counter[str] = Counter()
    for kind, part in parts.items():
        for piece, name, ours in _pieces(model, kind):
            published = part.tensors[piece.key].to(dtype)
            if name == _EMBEDDING and name in weights:
                _check_same_embedding(weights[name], published)
                continue
            piece.put(weights.setdefault(name, torch.empty(ours.shape, dtype=dtype)), published, orders.get(kind, "interleaved"))
            filled[name] += published.numel()
    assert all(filled[name] == weights[name].numel() for name in weights), "pieces must fill our tensors"
    return weights


def _check_same_embedding(one: Tensor, other: Tensor) -> None:
    if not torch.equal(one, other):
        raise CheckpointError(
            "Encoder and decoder hold different token embeddings, but a Reactive Transformer has one: give parts trained together. "
            "Nothing was loaded."
        )


def _with_fresh_parts(config: ModelConfig, weights: Mapping[str, Tensor], seed: int) -> tuple[ReactiveTransformer, dict[str, Tensor]]:
    if "embedding" in config.absent:
        raise ConfigError("Fresh parts need a token embedding: give the encoder or the decoder, too.")
    model = ReactiveTransformer.from_config(config.model_copy(update={"absent": ()}), seed)
    model.to(next(iter(weights.values())).dtype)
    return model, model.state_dict() | dict(weights)


def export_rxlm(
    model: ReactiveTransformer, folder: str | Path, rope_order: RopeOrder = "interleaved", *, separate: bool = False
) -> list[Path]:
    """Writes a model in the published layout.

    Args:
        model: Experts are written as it has them: with biases one by one, with a global bias stacked.
        folder: Gets `config.json` and `model.safetensors`, the MLM head in `mlm_head`; every part in a folder of its own if `separate`,
            or if the model is not whole.
        rope_order: `interleaved` for releases from 0.3.40 on, `concatenated` for those up to about 0.3.20.
        separate: Writes parts, not a whole model.

    Returns:
        The folders that were written.

    Raises:
        ConfigError: The model cannot be written in that order.
        CheckpointError: The layout has no place for something, or the folder cannot be written.
    """
    if rope_order_named(rope_order) == "concatenated" and model.config.decoder.expert_biases == "global":
        raise ConfigError("Stacked experts with a global bias exist in interleaved files only: export with rope order 'interleaved'.")
    if (variant := model.config.memory_attention.variant) not in get_args(PublishedVariant):
        raise CheckpointError(f"The published layout has no place for the memory variant {variant!r}: this model cannot be written in it.")
    present = [part for part in PARTS if part not in model.config.absent]
    files = {part: _part_content(model, part, rope_order) for part in present}
    marks = {_MARK_ROPE: rope_order, _MARK_NAME: model.config.name, _MARK_MEMORY: model.config.initial_memory}
    folder = Path(folder)
    if separate or any(part not in present for part in WHOLE):
        alone = present
    else:
        alone = [part for part in present if part not in WHOLE]
        shared = {
            "memory_attention_variant": model.config.memory_attention.variant,
            "tokenizer": None,
            "tokenizer_config": TOKEN_IDS,
        }
        config = {f"{part}_config": files[part].config for part in WHOLE}
        contents = [(f"{part}.{PREFIX}", files[part]) for part in WHOLE]
        _write(folder, config | shared, contents, marks)
    for part in alone:
        _write(folder / part, files[part].config, [("" if part == "mlm_head" else PREFIX, files[part])], marks)
    return [folder] * (len(alone) < len(present)) + [folder / part for part in alone]


class _Content(NamedTuple):
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    aliases: dict[str, str]


def _part_content(model: ReactiveTransformer, part: str, order: RopeOrder) -> _Content:
    config = write_part_config(model.config, part, later=order == "interleaved")
    tensors = {piece.key: piece.take(ours.detach().cpu(), order) for piece, _, ours in _pieces(model, part)}
    if part == "mlm_head":
        return _Content(config, tensors, {})
    tensors["stm.memory"] = model.init_memory(1, torch.Generator().manual_seed(0)).detach().cpu().clone()
    caches, aliases = _rope_caches(model.config, part)
    return _Content(config, tensors | caches, aliases)


def _rope_caches(config: ModelConfig, part: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the published modules keep of rotary embedding: stored once a part, with aliases for all others."""
    frequencies = ROPE_BASE ** -(torch.arange(0, config.head_dim, 2) / config.head_dim)
    stored = {"inv_freq": frequencies, "cache": torch.outer(torch.arange(config.max_length), frequencies)}
    names = [f"attention_layers.{layer}" for layer in range(config.layers)]
    if part != "memory_attention":
        reads = part == "decoder" or config.encoder.cross_attention is not None
        kinds = ("attention", "memory_cross_attention") if reads else ("attention",)
        names = [f"layers.{layer}.{kind}" for layer in range(config.layers) for kind in kinds]
    first, *others = names
    aliases = {f"{name}.rope.{each}": f"{first}.rope.{each}" for name in others for each in stored}
    return {f"{first}.rope.{each}": value for each, value in stored.items()}, aliases


def _write(folder: Path, config: Mapping[str, Any], contents: Sequence[tuple[str, _Content]], marks: Mapping[str, str]) -> None:
    tensors = {prefix + key: tensor for prefix, content in contents for key, tensor in content.tensors.items()}
    aliases = {prefix + key: prefix + target for prefix, content in contents for key, target in content.aliases.items()}
    write_folder(folder, config, tensors, aliases | dict(marks))

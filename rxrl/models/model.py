"""The Reactive Transformer: one shared embedding, encoder, memory attention and decoder around a memory that is a value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rxrl.errors import CheckpointError, ModelError
from rxrl.manifest import check_files, write_manifest
from rxrl.models.config import AttentionBackend, ModelConfig
from rxrl.models.experts import RouterStatistics
from rxrl.models.generation.batch import Generation, generate
from rxrl.models.heads import MLMHead
from rxrl.models.interop.hub import CARD_FILE, SavedTokenizer, local_folder, push_to_hub
from rxrl.models.layers import use_attention_backend
from rxrl.models.memory_attention import MemoryAttention
from rxrl.models.missing import MissingPart
from rxrl.models.presets import preset
from rxrl.models.transformer import Decoder, Encoder
from rxrl.reading import Refusal, read_json
from rxrl.reading.tensors import Shapes, read_tensors
from rxrl.types import PARAMETER_GROUPS, TokenBatch
from rxrl.writing import replacing, write_text

if TYPE_CHECKING:
    from rxrl.models.interop.rxlm_pieces import RopeOrder

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"

T = TypeVar("T")


class ReactiveTransformer(nn.Module):
    """Reads one interaction at a time and keeps the conversation in a Short-Term Memory `[layers, batch, slots, dim]`.

    Memory goes in and comes out of pure calls; it is never part of the module.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.encoder = Encoder(config)
        self.memory_attention = MemoryAttention(config)
        self.decoder = Decoder(config)
        self.mlm_head = MLMHead(config.dim, config.vocab_size, config.encoder.mlm_norm)
        self.initial_memory: nn.Parameter | None = None
        if config.initial_memory == "learned":
            self.initial_memory = nn.Parameter(torch.empty(config.layers, config.slots, config.dim))
        self._initialise()
        for part in config.absent:
            setattr(self, part, MissingPart(part))
        use_attention_backend(self, config.attention_backend)

    def _initialise(self) -> None:
        """Small embeddings; reads of memory start at zero, so that an untrained memory cannot disturb language modelling."""
        nn.init.normal_(self.embedding.weight, std=0.02)
        if self.initial_memory is not None:
            nn.init.normal_(self.initial_memory, std=0.02)
        for layer in self.decoder.layers:
            nn.init.zeros_(layer.memory_cross_attention.out_proj.weight)
            nn.init.zeros_(layer.memory_cross_attention.out_proj.bias)

    @classmethod
    def from_preset(cls, name: str, seed: int = 0, **changes: Any) -> ReactiveTransformer:
        """A model of a named size with random weights.

        Args:
            name: One of `rxrl presets`.
            seed: Seed of the weights.
            changes: Fields of `ModelConfig` that differ, for example `vocab_size`.
        """
        return cls.from_config(preset(name, **changes), seed)

    @classmethod
    def from_config(cls, config: ModelConfig, seed: int = 0) -> ReactiveTransformer:
        """A model with random weights that depend on `seed` alone; the global generator is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config)

    def forward(self, task: Callable[[ReactiveTransformer], T]) -> T:
        """Runs `task(self)`: the single entry for training, so that hooks of a distributed wrapper always run."""
        return task(self)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return next(self.parameters()).dtype

    def use_attention(self, backend: AttentionBackend) -> None:
        """Chooses what computes attention from now on; no part of a checkpoint.

        Raises:
            ModelError: flash-attn is asked for and not installed.
        """
        use_attention_backend(self, backend)
        self.config = self.config.model_copy(update={"attention_backend": backend})

    def init_memory(self, batch_size: int, generator: torch.Generator | None = None) -> Tensor:
        """Fresh memory stm0.

        Args:
            batch_size: Rows.
            generator: CPU generator of the noise; None draws from torch's global one.

        Returns:
            `[layers, batch, slots, dim]`.
        """
        c = self.config
        shape = (c.layers, batch_size, c.slots, c.dim)
        if self.initial_memory is not None:
            return self.initial_memory.unsqueeze(1).expand(shape)
        if c.initial_memory == "zeros":
            stm = torch.zeros(shape)
        elif c.initial_memory == "ones":
            stm = torch.ones(shape)
        elif c.initial_memory == "uniform":
            stm = torch.rand(shape, generator=generator) * 2 - 1
        else:
            stm = torch.randn(shape, generator=generator) * (1.0 if c.initial_memory == "normal" else 0.01)
        return stm.to(self.device, self.dtype)

    def encode(self, ids: Tensor, mask: Tensor, stm: Tensor | None = None) -> Tensor:
        """Encoded data of an interaction.

        Args:
            ids: int64 `[batch, time]`.
            mask: bool `[batch, time]`, true for real tokens.
            stm: Memory, for encoders that read it.

        Returns:
            `[layers, batch, time, dim]`.
        """
        self._check(ids, mask)
        if stm is not None:
            self._check_rows(stm, ids)
        encoded: Tensor = self.encoder(self.embedding(ids), mask, stm)
        return encoded

    def write_memory(self, stm: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Memory after an interaction: encoder, then memory attention; shapes as in `encode`, `stm` in and out."""
        return self.update_memory(stm, self.encode(ids, mask, stm if self.encoder.reads_memory else None), mask)

    def update_memory(self, stm: Tensor, encoded: Tensor, mask: Tensor) -> Tensor:
        """Memory after an interaction that is already encoded; `stm` `[layers, batch, slots, dim]` in and out."""
        if stm.shape[1] != encoded.shape[1]:
            raise ModelError(f"Memory has {stm.shape[1]} rows, the interactions have {encoded.shape[1]}: both need the same batch.")
        written: Tensor = self.memory_attention(stm, encoded, mask)
        return written

    def decode(
        self, ids: Tensor, mask: Tensor, stm: Tensor, stm_mask: Tensor | None = None, statistics: RouterStatistics | None = None
    ) -> Tensor:
        """Logits of the next token; reads memory, never writes it.

        Args:
            ids: int64 `[batch, time]`, right-padded.
            mask: bool `[batch, time]`, true for real tokens.
            stm: `[layers, batch, slots, dim]`.
            stm_mask: bool `[batch, slots]`, true for real slots, where encoded data (padded) serves as memory.
            statistics: Collects router counts.

        Returns:
            `[batch, time, vocab]`; values at padded positions mean nothing.
        """
        logits: Tensor = self.decoder.head(self.decode_hidden(ids, mask, stm, stm_mask, statistics))
        return logits

    def decode_hidden(
        self, ids: Tensor, mask: Tensor, stm: Tensor, stm_mask: Tensor | None = None, statistics: RouterStatistics | None = None
    ) -> Tensor:
        """As `decode`, before the output head: `[batch, time, dim]`."""
        self._check(ids, mask)
        self._check_rows(stm, ids)
        return self.decoder.hidden(self.embedding(ids), self.decoder.project_memory(stm), stm_mask, statistics)

    def generate(
        self,
        prompts: TokenBatch,
        stm: Tensor,
        *,
        max_new_tokens: int,
        generators: Sequence[torch.Generator] | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Generation:
        """Answers of a batch of prompts; see `rxrl.models.generation.batch.generate`."""
        return generate(
            self, prompts, stm, max_new_tokens=max_new_tokens, generators=generators, temperature=temperature, top_k=top_k, top_p=top_p
        )

    def group_parameters(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Named parameters by group of `PARAMETER_GROUPS`; the MLM head, which memory never uses, belongs to the encoder."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {name: [] for name in PARAMETER_GROUPS}
        for name, parameter in self.named_parameters():
            groups[_group_of(name)].append((name, parameter))
        return groups

    def save_pretrained(self, path: str | Path, *, tokenizer: SavedTokenizer | None = None, card: str | None = None) -> None:
        """Writes `config.json`, `model.safetensors` and their hashes into a directory (made if missing); never a batch size.

        Args:
            path: The directory.
            tokenizer: Saved beside the model.
            card: Text of a model card, written as `README.md`; see `rxrl.models.interop.hub.model_card`.
        """
        folder = Path(path)
        write_text(folder / CONFIG_FILE, self.config.model_dump_json(indent=2) + "\n")
        with replacing(folder / WEIGHTS_FILE) as file:
            save_file({name: value.contiguous() for name, value in self.state_dict().items()}, file)
        if tokenizer is not None:
            tokenizer.save(folder)
        if card is not None:
            write_text(folder / CARD_FILE, card)
        write_manifest(folder, [CONFIG_FILE, WEIGHTS_FILE])

    @classmethod
    def from_pretrained(cls, path: str | Path) -> ReactiveTransformer:
        """Reads what `save_pretrained` wrote, from a directory or a Hub id `owner/name`.

        Raises:
            CheckpointError: A file is missing, broken or does not fit.
        """
        folder = local_folder(path)
        check_files(folder, [CONFIG_FILE, WEIGHTS_FILE])
        config_path, path = folder / CONFIG_FILE, folder / WEIGHTS_FILE
        config = read_json(config_path, ModelConfig, _refusal(config_path))
        with torch.device("meta"):
            model = cls(config)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        weights, _ = read_tensors(path, _refusal(path), check=lambda found: _check_shapes(path, found, expected))
        _check_values(path, weights)
        model.load_state_dict(weights, assign=True)
        return model

    @classmethod
    def from_rxlm(cls, source: str | Path | Mapping[str, str | Path], rope_order: RopeOrder | None = None) -> ReactiveTransformer:
        """Reads a checkpoint in the published layout, from a directory or a Hub id, as `rxrl.models.interop.rxlm.import_rxlm` does.

        Args:
            source: A whole model, or separate parts by name: `encoder`, `decoder`, `memory_attention`, `mlm_head`.
            rope_order: Order of rotary embedding in the file, for files that do not tell.

        Raises:
            CheckpointError: A file is missing, broken or does not fit; nothing is loaded halfway.
        """
        from rxrl.models.interop.rxlm import import_rxlm  # noqa: PLC0415

        return import_rxlm(source, rope_order).model

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the model with a model card; options as in `rxrl.models.interop.hub.push_to_hub`, returns the address."""
        return push_to_hub(self, repo_id, **options)

    @staticmethod
    def _check_rows(stm: Tensor, ids: Tensor) -> None:
        if stm.shape[1] != ids.shape[0]:
            raise ModelError(f"Memory has {stm.shape[1]} rows, the tokens have {ids.shape[0]}: both need the same batch.")

    def _check(self, ids: Tensor, mask: Tensor) -> None:
        if ids.dtype != torch.int64 or ids.shape != mask.shape or mask.dtype != torch.bool:
            raise ModelError(
                f"Tokens must be int64 [batch, time] with a bool mask of the same shape, got {ids.dtype} {list(ids.shape)} "
                f"and {mask.dtype} {list(mask.shape)}."
            )
        if ids.shape[1] > self.config.max_length:
            raise ModelError(
                f"An interaction may have {self.config.max_length} tokens at most, got {ids.shape[1]}: shorten it or use a larger preset."
            )


def _group_of(name: str) -> str:
    part = name.split(".", 1)[0]
    if part == "mlm_head":
        return "encoder"
    if part == "initial_memory":
        return "memory_attention"
    if part == "decoder" and any(piece in name for piece in ("memory_cross_attention", "norm2", "stm_norm")):
        return "decoder_memory"
    return part


def _refusal(file: Path) -> Refusal:
    missing = f"{file.parent} is not a model checkpoint: {file.name} is missing."
    return Refusal(CheckpointError, "copy the checkpoint again", missing, "a configuration of this version")


def _check_shapes(path: Path, found: Shapes, expected: Shapes) -> None:
    """Refuses a file whose tensors are not exactly the model's; nothing is loaded halfway."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shapes = [
        f"{name} is {list(found[name])}, expected {list(expected[name])}"
        for name in sorted(expected.keys() & found.keys())
        if found[name] != expected[name]
    ]
    problems = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown) + shapes
    if problems:
        raise CheckpointError(f"{path} does not fit its config.json ({'; '.join(problems)}): use the file that belongs to it.")


def _check_values(path: Path, found: dict[str, Tensor]) -> None:
    broken = sorted(name for name, tensor in found.items() if not bool(tensor.isfinite().all()))
    if broken:
        raise CheckpointError(f"{path} holds NaN or infinite weights in {', '.join(broken)}: use an earlier checkpoint.")

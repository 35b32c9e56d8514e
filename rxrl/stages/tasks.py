"""What each stage trains on, with which loss, and how it is validated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rxrl.algorithms import LossResult
from rxrl.data.batches import EpisodeBatch, TokenizedSource, episode_batch, episodes_of
from rxrl.data.sources import ConversationSource, fingerprint
from rxrl.data.tokenizer import Tokenizer
from rxrl.models import ReactiveTransformer
from rxrl.models.trajectory import GradientFlow, answer_hidden, memory_trajectory
from rxrl.runs.processes import Share
from rxrl.seeding import generator
from rxrl.stages.batches import RowDraws, StageBatch, Whole, Widest, widened
from rxrl.stages.config import MemoryAttentionStageConfig, ReadingConfig, SmatConfig, SmatPhase, StageConfig
from rxrl.stages.losses import answer_counts, memory_attention_loss, reading_loss, smat_loss, write_counts
from rxrl.types import PARAMETER_GROUPS

ALL_GROUPS = frozenset(PARAMETER_GROUPS)


class StageTask(Protocol):
    """One supervised stage; `progress` in [0, 1] is the share of it that is done."""

    def groups(self, progress: float) -> frozenset[str]:
        """Parameter groups that learn."""
        ...

    def frozen(self, model: ReactiveTransformer, progress: float) -> Iterable[nn.Parameter]:
        """Parameters of these groups that do not."""
        ...

    def schedule(self, progress: float) -> float:
        """Progress of the schedule of the learning rate."""
        ...

    def size(self, step: int) -> int:
        """Rows of the batch of `step`, over all processes."""
        ...

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Some rows of the batch of `step`; `size` was asked before."""
        ...

    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out metrics; `loss` says which checkpoint is best."""
        ...

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Takes note of a validation; true where the task has nothing more to do."""
        ...

    def fingerprints(self) -> list[str]:
        """What tells the data to train on and the held-out data from others."""
        ...


EpisodeLoss = Callable[[ReactiveTransformer, EpisodeBatch, Share, Whole | None], LossResult]
EpisodeCounts = Callable[[EpisodeBatch], Mapping[str, Tensor]]


@dataclass(slots=True)
class EpisodeTask:
    """What the two stages on whole conversations share."""

    config: StageConfig
    source: ConversationSource
    held_out: ConversationSource
    tokenizer: Tokenizer
    max_length: int
    row_counts: dict[tuple[int, str], int] = field(default_factory=dict, kw_only=True)

    def batch(self, source: ConversationSource, steps: int, strategy: str, start: int, count: int) -> EpisodeBatch:
        """Teacher-forced conversations."""
        return episodes_of(source, self.tokenizer, self.max_length, steps=steps, strategy=strategy, start=start, count=count)

    def held_out_batch(self, steps: int, strategy: str = "multi-step") -> EpisodeBatch:
        """The conversations of a validation, each once: a source of few begins anew where they end."""
        count = self.config.validation_rows
        if isinstance(self.held_out, TokenizedSource):
            return self.batch(self.held_out, steps, strategy, 0, min(count, self.held_out.available(steps, strategy)))
        found = self.held_out.take(steps=steps, strategy=strategy, start=0, count=count)
        conversations = list({each.id: each for each in found}.values())
        return episode_batch(conversations, self.tokenizer, self.max_length)

    def frozen(self, model: ReactiveTransformer, progress: float) -> Iterable[nn.Parameter]:
        """Nothing besides whole groups."""
        return ()

    def schedule(self, progress: float) -> float:
        """One schedule for the whole stage."""
        return progress

    def rows_of(self, batch: EpisodeBatch, share: Share, loss: EpisodeLoss, counts: EpisodeCounts) -> StageBatch:
        """Some rows of a batch, with what their loss is computed from."""

        def cut(model: ReactiveTransformer, rows: Share) -> EpisodeBatch:
            return batch.rows(slice(rows.start - share.start, rows.stop - share.start)).to(model.device)

        return StageBatch(
            share,
            batch.tokens,
            batch.turns.mask.numel() + batch.writes.mask[0].numel(),
            lambda model, rows: counts(cut(model, rows)),
            lambda model, rows, whole: loss(model, cut(model, rows), rows, whole),
        )

    def stm0(self, model: ReactiveTransformer, count: int, *key: int | str) -> torch.Tensor:
        """Fresh memory of a batch."""
        return model.init_memory(count, generator(self.config.seed, "stm0", *key))

    def rows(self, steps: int, strategy: str = "multi-step") -> int:
        """Conversations of a batch: as many as hold about `batch_tokens`, judged by the first held-out ones."""
        key = (steps, strategy)
        if key not in self.row_counts:
            sample = self.batch(self.held_out, steps, strategy, 0, 8)
            self.row_counts[key] = max(1, round(self.config.batch_tokens * 8 / max(1, sample.tokens)))
        return self.row_counts[key]

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Runs to its end."""
        return False

    def fingerprints(self) -> list[str]:
        """Hashes of the first conversations."""
        return [fingerprint(each) for each in (self.source, self.held_out)]


@dataclass(slots=True)
class ReadingTask(EpisodeTask):
    """Between stages 2 and 3: encoder and decoder learn to answer from the interaction before, without memory attention."""

    def groups(self, progress: float) -> frozenset[str]:
        """Everything but memory attention."""
        return ALL_GROUPS - {"memory_attention"}

    def size(self, step: int) -> int:
        """Conversations of a batch."""
        return self.rows(ReadingConfig.steps)

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Cross-entropy on the answers' tokens."""
        start = step * share.total + share.start
        batch = self.batch(self.source, ReadingConfig.steps, "multi-step", start, share.stop - share.start)

        def loss(model: ReactiveTransformer, own: EpisodeBatch, rows: Share, whole: Whole | None) -> LossResult:
            return reading_loss(model, own, balance_weight=self.config.balance, whole=whole)[0]

        return self.rows_of(batch, share, loss, answer_counts)

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out loss and the share of asking turns answered right, every token."""
        batch = self.held_out_batch(ReadingConfig.steps)
        batch = batch.to(model.device)
        result, likeliest = reading_loss(model, batch)
        metrics: dict[str, Any] = {name: float(result.metrics[name]) for name in ("loss", "accuracy")}
        return metrics | asking_accuracy(batch, likeliest)

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Ends once the accuracy is reached."""
        assert isinstance(self.config, ReadingConfig), "made with its own configuration"
        return self.config.accuracy is not None and validation.get("asking_accuracy", 0.0) >= self.config.accuracy


@dataclass(slots=True)
class MemoryAttentionTask(EpisodeTask):
    """Stage 3: memory attention alone, self-supervised."""

    def groups(self, progress: float) -> frozenset[str]:
        """Memory attention only; the encoder is frozen."""
        return frozenset({"memory_attention"})

    def size(self, step: int) -> int:
        """Conversations of a batch."""
        return self.rows(self._config.steps)

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Negative cosine between updated memory and its target."""
        c = self._config
        found = self.batch(self.source, c.steps, "multi-step", step * share.total + share.start, share.stop - share.start)
        # Noise is drawn for every column of the whole batch.
        batch = replace(found, writes=widened(found.writes, widest(found.writes.ids.shape[-1])))

        def loss(model: ReactiveTransformer, own: EpisodeBatch, rows: Share, whole: Whole | None) -> LossResult:
            stm0 = RowDraws.keyed(rows, model.config.slots, c.seed, "stm0", step).memory(model)
            draws = RowDraws.keyed(rows, own.writes.ids.shape[-1], c.seed, "memory attention", step)
            return memory_attention_loss(model, stm0, own.writes, draws, noise=c.noise, whole=whole)

        return self.rows_of(batch, share, loss, lambda own: write_counts(own.writes))

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out loss."""
        c = self._config
        batch = self.held_out_batch(c.steps)
        batch = batch.to(model.device)
        draws = generator(c.seed, "memory attention validation")
        stm0 = self.stm0(model, batch.real.shape[1], "validation")
        result = memory_attention_loss(model, stm0, batch.writes, draws, noise=0.0)
        return {"loss": float(result.loss)} | {name: float(value) for name, value in result.metrics.items()}

    @property
    def _config(self) -> MemoryAttentionStageConfig:
        assert isinstance(self.config, MemoryAttentionStageConfig), "made with its own configuration"
        return self.config


@dataclass(slots=True)
class SmatTask(EpisodeTask):
    """Stage 4: the real cycle, teacher-forced, over phases of growing length."""

    phase: int = 0
    phase_start: int = 0
    position: int = 0
    last_step: int = 0
    reached: int = 0

    def groups(self, progress: float) -> frozenset[str]:
        """Groups whose turn to learn has come."""
        return self._config.trained_groups(progress)

    def size(self, step: int) -> int:
        """Conversations of a batch of the phase that `step` belongs to, which begins here."""
        self._enter(step)
        return self.rows(self._current.steps, self._config.strategy)

    def take(self, step: int, share: Share, progress: float, widest: Widest) -> StageBatch:
        """Cross-entropy on the answers' tokens."""
        c = self._config
        start, self.position = self.position + share.start, self.position + share.total
        batch = self.batch(self.source, self._current.steps, self._strategy, start, share.stop - share.start)

        def loss(model: ReactiveTransformer, own: EpisodeBatch, rows: Share, whole: Whole | None) -> LossResult:
            stm0 = RowDraws.keyed(rows, model.config.slots, c.seed, "stm0", step).memory(model)
            flow = GradientFlow(c.bptt_turns, c.gradient_growth)
            return smat_loss(model, stm0, own, flow=flow, balance_weight=c.balance, whole=whole)

        return self.rows_of(batch, share, loss, answer_counts)

    @torch.no_grad()
    def validate(self, model: ReactiveTransformer, progress: float) -> dict[str, Any]:
        """Held-out loss with the true memory, an empty one and, where there is one, another conversation's; share answered right."""
        batch = self.held_out_batch(self._current.steps, self._strategy)
        batch = batch.to(model.device)
        count = batch.real.shape[1]
        stm0 = self.stm0(model, count, "validation")
        memories = ("true", "empty", "other") if count > 1 else ("true", "empty")
        losses = {name: smat_loss(model, stm0, batch, memory=name).metrics for name in memories}
        metrics: dict[str, Any] = {f"loss_{name}_memory": float(each["loss"]) for name, each in losses.items()}
        metrics |= {"loss": float(losses["true"]["loss"]), "accuracy": float(losses["true"]["accuracy"]), "steps": self._current.steps}
        metrics |= asking_accuracy(batch, likeliest_answers(model, stm0, batch))
        return metrics | memory_health(model, stm0, batch)

    def phase_done(self, validation: dict[str, Any]) -> bool:
        """Moves to the next phase once enough validations in a row have reached the accuracy of this one."""
        wanted = self._current.accuracy
        if wanted is None or validation.get("asking_accuracy", 0.0) < wanted:
            self.reached = 0
            return False
        self.reached += 1
        return self.reached >= self._current.validations and self._next(self.last_step + 1)

    def state(self) -> dict[str, int]:
        """Where the phases stand."""
        names = ("phase", "phase_start", "position", "last_step", "reached")
        return {name: getattr(self, name) for name in names}

    def restore(self, state: dict[str, int]) -> None:
        """Goes on from `state`."""
        self.phase, self.phase_start, self.reached = state["phase"], state["phase_start"], state["reached"]
        self.position, self.last_step = state["position"], state["last_step"]

    def _enter(self, step: int) -> None:
        if step - self.phase_start >= self._current.iterations:
            self._next(step)
        self.last_step = step

    def _next(self, step: int) -> bool:
        if self.phase + 1 >= len(self._config.phases):
            return True
        self.phase, self.phase_start, self.reached = self.phase + 1, step, 0
        return False

    @property
    def _current(self) -> SmatPhase:
        return self._config.phases[self.phase]

    @property
    def _strategy(self) -> str:
        strategy = self._config.strategy
        return "multi-step" if strategy == "long-range" and self._current.steps == 1 else strategy

    @property
    def _config(self) -> SmatConfig:
        assert isinstance(self.config, SmatConfig), "made with its own configuration"
        return self.config


def likeliest_answers(model: ReactiveTransformer, stm0: torch.Tensor, batch: EpisodeBatch) -> torch.Tensor:
    """The likeliest token at each token of the answers, teacher-forced, `[tokens]`."""
    stms = memory_trajectory(model, stm0, batch.writes.ids, batch.writes.mask)
    logits: torch.Tensor = model.decoder.head(answer_hidden(model, stms, batch.turns, batch.answer))
    return logits.argmax(-1)


def answered_right(batch: EpisodeBatch, likeliest: torch.Tensor) -> torch.Tensor:
    """Where, bool `[turns, batch]`, every token of the answer is the likeliest one `[tokens]`."""
    right = torch.ones_like(batch.answer)
    right[batch.answer] = likeliest == batch.turns.ids[batch.answer]
    return right.all(-1)


def asking_accuracy(batch: EpisodeBatch, likeliest: torch.Tensor) -> dict[str, float]:
    """Share of the turns that ask something whose answers are right, as a metric; nothing where nothing is asked."""
    right = answered_right(batch, likeliest)
    return {"asking_accuracy": float(right[batch.asking].float().mean())} if batch.asking.any() else {}


def memory_health(model: ReactiveTransformer, stm0: torch.Tensor, batch: EpisodeBatch) -> dict[str, float]:
    """Mean squared change of memory a write (`drift`) and how open the gates are on average (`gate_openness`)."""
    stms = memory_trajectory(model, stm0, batch.writes.ids, batch.writes.mask)
    before = torch.cat([stm0.unsqueeze(1), stms[:, :-1]], dim=1)
    opened: list[torch.Tensor] = []
    hook = model.memory_attention.gate.register_forward_pre_hook(lambda gate, inputs: opened.append(gate.openness(*inputs).mean()))
    try:
        memory_trajectory(model, stm0, batch.writes.ids[:1], batch.writes.mask[:1])
    finally:
        hook.remove()
    real = batch.real[None, :, :, None, None]
    drift = ((stms - before).pow(2) * real).sum() / (real.sum() * stms.shape[0] * stms.shape[3] * stms.shape[4])
    return {"drift": float(drift), "gate_openness": float(torch.stack(opened).mean())}

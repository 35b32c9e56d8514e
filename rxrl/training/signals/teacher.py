"""A teacher that reads what memory should hold: the same decoder on the uncompressed encodings of the interactions that are asked about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from rxrl.config import BaseConfig
from rxrl.training.lessons import Lesson
from rxrl.training.signals.signal import Material, Signal, SignalInputs
from rxrl.training.token_statistics import LazyLogits, token_statistics
from rxrl.types import SavedInteraction, TokenBatch, Turn


class TeacherOptions(BaseConfig):
    """Options of `teacher`."""

    reads: Literal["saved", "last"] = Field(
        "saved", description="saved: what holds the answer, on turns that ask; last: what was said last."
    )
    last: int = Field(1, ge=1, description="reads last: how many interactions.")
    by: Literal["self", "start"] = Field("self", description="self: the decoder as it is by now; start: the frozen start.")
    context: Literal["own", "other"] = Field(
        "own", description="other: the interactions of another conversation. A control: such a teacher must not help."
    )


def prepare(material: Material) -> Lesson:
    """What the teacher reads in each turn; answer tokens weigh the same."""
    options: TeacherOptions = material.options
    read = [[_read(turn, options) for turn in row] for row in material.turns]
    if options.context == "other":
        read = [_from_another(row, material.rollout.group.tolist()) for row in read]
    count = max(len(each) for row in read for each in row) or 1
    rows = [_ids(each, number, material.max_length) for row in read for each in row for number in range(count)]
    batch, real = TokenBatch.pad(rows), material.rollout.real
    shape = (*real.shape, count, -1)
    tokens = TokenBatch(batch.ids.view(shape), batch.mask.view(shape)).to(real.device)
    weights = material.rollout.answer.sum(-1) * tokens.mask.any(-1).any(-1)
    return Lesson(tokens, torch.zeros_like(tokens.mask), weights.to(material.rollout.rewards.dtype))


def _read(turn: Turn | None, options: TeacherOptions) -> Sequence[SavedInteraction]:
    if turn is None:
        return ()
    return turn.history[-options.last :] if options.reads == "last" else turn.saved if turn.asking else ()


def _from_another(row: Sequence[Sequence[SavedInteraction]], groups: Sequence[int]) -> list[Sequence[SavedInteraction]]:
    """For each row that reads something what the next conversation with something to read reads; nothing where there is no other."""
    found: list[Sequence[SavedInteraction]] = []
    for at, own in enumerate(row):
        later = [other for shift in range(1, len(row)) if groups[other := (at + shift) % len(row)] != groups[at] and row[other]]
        found.append(row[later[0]] if own and later else ())
    return found


def _ids(read: Sequence[SavedInteraction], number: int, max_length: int) -> list[int]:
    return read[number].ids[:max_length] if number < len(read) else []


def loss(inputs: SignalInputs) -> Tensor:
    """KL(pi given memory || pi given the encodings, held constant) at the sampled tokens, summed over them."""
    rollout, lesson = inputs.rollout, inputs.lesson
    taught = (lesson.weights > 0).unsqueeze(-1) & rollout.answer
    if not taught.any():
        return torch.zeros_like(lesson.weights)
    own = LazyLogits.of(inputs.model.decoder.head, inputs.hidden[taught[rollout.answer]])
    ids, teacher = rollout.turns.ids, teacher_logits(inputs, lesson.weights > 0)
    kl = token_statistics(own, ids[taught], 1.0, teacher, thoughts=own.thoughts(ids, taught)).reference_kl
    assert kl is not None, "a teacher was given"
    return torch.zeros(taught.shape, dtype=kl.dtype, device=kl.device).masked_scatter(taught, kl).sum(-1)


@torch.no_grad()
def teacher_logits(inputs: SignalInputs, flags: Tensor) -> LazyLogits:
    """What the teacher says at the sampled tokens of the turns where `flags`, bool `[turns, batch]`."""
    read, turns, answer = inputs.lesson.tokens, inputs.rollout.turns, inputs.rollout.answer[flags]
    model = inputs.start if inputs.options.by == "start" and inputs.start is not None else inputs.model
    ids, mask = read.ids[flags], read.mask[flags]
    encoded = model.encode(ids.flatten(0, 1), mask.flatten(0, 1))
    # Several interactions stand one behind the other: the decoder knows no order of what it reads.
    memory = encoded.view(len(encoded), *ids.shape, -1).flatten(2, 3)
    hidden = model.decode_hidden(turns.ids[flags], turns.mask[flags], memory, mask.flatten(1, 2))
    return LazyLogits.of(model.decoder.head, hidden[:, :-1][answer[:, 1:]])


TEACHER = Signal("teacher", loss, prepare, TeacherOptions, summary="The same decoder, reading uncompressed what memory should hold.")

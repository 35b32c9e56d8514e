"""Separate and joint language modelling: what the losses are, what moves, and that every stage can learn its data by heart."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from rxrl.models import ReactiveTransformer
from rxrl.runs.optim import OptimizerConfig
from rxrl.runs.processes import Share
from rxrl.stages.batches import RowDraws
from rxrl.stages.config import LanguageConfig, SmatPhase
from rxrl.stages.language_modelling import LanguageTask
from rxrl.stages.losses import decoder_loss, encoder_loss, mask_tokens, silent
from rxrl.types import BOS, EOS, TokenBatch
from scripts.learning import CODEC
from tests.stages.small import COMMON, LENGTH, TASKS, by_group, changed, lines, pretrain, runner_in, sft, taken
from tests.training.toy import tiny_model

SMALL = {"vocab_size": CODEC.vocab_size, "dim": 16, "layers": 2, "slots": 6, "max_length": LENGTH}


def micro(**changes):
    """An encoder that reads memory, as in the models that were trained in parts."""
    return ReactiveTransformer.from_preset("micro", 0, **SMALL | changes).double()


def texts():
    return TokenBatch.pad([[BOS, *CODEC.encode(text), EOS] for text in ("ann has cat", "bob has dog and owl", "owl")])


def mean_cross_entropy(logits, targets, chosen):
    terms = []
    for row, column in chosen.nonzero().tolist():
        scores = logits[row, column]
        terms.append(float(scores.exp().sum().log() - scores[targets[row, column]]))
    return sum(terms) / len(terms)


@torch.no_grad()
def test_the_encoder_is_trained_on_the_chosen_tokens_alone():
    model, batch = micro(), texts()
    draws = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    result = encoder_loss(model, batch, draws(), mask_share=0.3)
    masked, chosen = mask_tokens(batch, CODEC.vocab_size, 0.3, draws())
    logits = model.mlm_head(model.encode(masked, batch.mask)[-1])
    assert float(result.loss) == pytest.approx(mean_cross_entropy(logits, batch.ids, chosen), rel=1e-9)
    right = [bool(logits[row, column].argmax() == batch.ids[row, column]) for row, column in chosen.nonzero().tolist()]
    assert float(result.metrics["mlm_accuracy"]) == pytest.approx(sum(right) / len(right))


@torch.no_grad()
def test_the_decoder_is_trained_on_every_next_token_whatever_memory_holds():
    model, batch = micro(), texts()
    assert silent(model.decoder)
    result = decoder_loss(model, batch, torch.Generator(), balance_weight=0.0)
    memory = 50 * model.init_memory(3, torch.Generator().manual_seed(8))
    logits = model.decode(batch.ids, batch.mask, memory)[:, :-1]
    expected = mean_cross_entropy(logits, batch.ids[:, 1:], batch.mask[:, 1:])
    assert float(result.loss) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_a_model_that_reads_memory_already_is_trained_with_memory_in_its_initial_state():
    model, batch = micro(), texts()
    for part in (model.encoder, model.decoder):
        part.layers[1].memory_cross_attention.out_proj.bias.fill_(0.5)
        part.layers[1].memory_cross_attention.out_proj.weight.normal_(generator=torch.Generator().manual_seed(0))
        assert not silent(part)
    share = Share(0, 3, 3)
    found = decoder_loss(model, batch, RowDraws.keyed(share, 9, 1), balance_weight=0.0).loss
    logits = model.decode(batch.ids, batch.mask, RowDraws.keyed(share, 9, 1).memory(model))[:, :-1]
    assert float(found) == pytest.approx(mean_cross_entropy(logits, batch.ids[:, 1:], batch.mask[:, 1:]), rel=1e-9)
    draws = RowDraws.keyed(share, 9, 1)
    masked, chosen = mask_tokens(batch, CODEC.vocab_size, 0.15, draws)
    logits = model.mlm_head(model.encode(masked, batch.mask, draws.memory(model))[-1])
    found = encoder_loss(model, batch, RowDraws.keyed(share, 9, 1)).loss
    assert float(found) == pytest.approx(mean_cross_entropy(logits, batch.ids, chosen), rel=1e-9)


def reading(model):
    """Parameters of the encoder's reads of memory."""
    layers = [(layer.memory_cross_attention, layer.norm2, layer.stm_norm) for layer in model.encoder.layers]
    return torch.cat([p.detach().flatten() for layer in layers for module in layer for p in module.parameters()])


@pytest.mark.parametrize("make", [pretrain, sft])
@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("frozen", [True, False])
def test_separate_training_moves_the_encoder_then_the_decoder_and_nothing_that_memory_goes_through(make, reads, frozen, tmp_path):
    model = micro(initial_memory="learned").float()
    if reads:
        torch.nn.init.ones_(model.encoder.layers[0].memory_cross_attention.out_proj.weight)
    states = []
    runner = runner_in(tmp_path, "pretrain", model=model, task=make(mode="separate", freeze_embedding=frozen))
    start, reads_before = by_group(copy.deepcopy(model)), reading(model).clone()
    while not runner.finished:
        runner.take_step()
        states.append(by_group(copy.deepcopy(model)))
        assert torch.equal(reading(model), reads_before)
    moved = [changed(a, b) for a, b in zip([start, *states], states, strict=False)]
    decoder = {"decoder"} if frozen else {"decoder", "embedding"}
    assert moved == [{"embedding", "encoder"}] * 2 + [decoder] * 2


def test_each_part_has_a_schedule_of_its_own_and_the_decoder_validates_after_the_encoder(tmp_path):
    optimizer = OptimizerConfig(learning_rate=0.01, schedule="linear", warmup=0.0, final=0.0)
    runner = runner_in(tmp_path, "pretrain", task=pretrain(mode="separate", iterations=8, optimizer=optimizer), checkpoint_every=4)
    runner.train()
    rates = [line["learning_rate"] for line in lines(tmp_path)]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025] * 2)
    found = lines(tmp_path)
    assert ["mlm_loss" in line for line in found] == [True] * 4 + [False] * 4
    assert ["ar_loss" in line for line in found] == [False] * 4 + [True] * 4
    assert runner.run.best is not None
    assert runner.run.best[0] == 1


@pytest.mark.parametrize(("share", "moved"), [(1.0, {"embedding", "encoder"}), (0.0, {"decoder"})])
def test_one_part_can_be_trained_alone(share, moved, tmp_path):
    runner = runner_in(tmp_path, "pretrain", task=pretrain(mode="separate", encoder_share=share))
    before = by_group(copy.deepcopy(runner.model))
    runner.train()
    assert changed(before, by_group(runner.model)) == moved


STORY = ["ann has cat and bob has dog", "bob has owl and ann has dog", "owl and cat and dog"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["joint", "separate"])
def test_language_modelling_learns_three_texts_by_heart(mode, tmp_path):
    config = LanguageConfig(
        **COMMON | {"iterations": 240, "batch_tokens": 40, "validate_every": 240, "optimizer": OptimizerConfig(learning_rate=0.02)},
        mode=mode,
        mask_share=0.3,
        slot_dropout=0.9,
    )

    def story(start, count):
        return [STORY[index % 3] for index in range(start, start + count)]

    task = LanguageTask.on_texts(config, story, story, CODEC, LENGTH)
    model = tiny_model(awake=False, dim=32, initial_memory="learned")
    runner = runner_in(tmp_path, "pretrain", model=model, task=task)
    found = runner.train()
    # The first word of a text is not in what stands before it.
    accuracy = found["ar_accuracy"] if mode == "separate" else found["ar_accuracy_empty_memory"]
    assert accuracy > 0.8
    masked = [line["mlm_loss"] for line in lines(tmp_path) if "mlm_loss" in line]
    assert sum(masked[-20:]) < 0.35 * sum(masked[:20])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reading", "memory-attention", "smat"])
def test_stages_on_conversations_learn_a_few_by_heart(name, tmp_path):
    task = TASKS[name]()
    few = task.source.take(steps=2, strategy="multi-step", start=0, count=4)

    class Few:
        def take(self, *, steps, strategy, start, count):
            return [replace(few[index % 4], follow_ups=few[index % 4].follow_ups[:steps]) for index in range(start, start + count)]

    changes = {"optimizer": OptimizerConfig(learning_rate=0.01), "validate_every": 200}
    changes |= {"phases": (SmatPhase(steps=2, iterations=200),)} if name == "smat" else {"iterations": 200}
    task.config = task.config.model_copy(update=changes)
    task.source = task.held_out = Few()
    model = tiny_model(awake=False, dim=32, initial_memory="learned")
    before = task.validate(model, 0.0)
    after = runner_in(tmp_path, name, model=model, task=task).train()
    if name == "memory-attention":
        assert before["cosine"] < 0.8
        assert after["cosine"] > 0.9
    else:
        assert after["loss"] < 0.2 * before["loss"]
        assert after["asking_accuracy"] == 1.0


def test_the_first_loss_is_that_of_guessing():
    """Weights are small, so a fresh model says every token about equally likely."""
    for mode in ("joint", "separate"):
        batch = taken(pretrain(mode=mode), 0)
        result = batch.loss(tiny_model(awake=False), batch.share, None)
        assert float(result.metrics["mlm_loss"].detach()) == pytest.approx(math.log(CODEC.vocab_size), rel=0.2)

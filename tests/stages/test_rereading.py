"""The baseline that re-reads: whole conversations as one sequence, trained and evaluated by the commands of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data.batches import episode_batch
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.envs import TranscriptMemory
from rxrl.errors import ConfigError, ModelError
from rxrl.factory import load_checkpoint
from rxrl.models import ReactiveTransformer, count_parameters, preset
from rxrl.players import make_play
from rxrl.policies import RereadingPolicy, StmBackend, rereads
from rxrl.seeding import generator
from rxrl.stages.rereading import Transcript, rereading_loss
from rxrl.types import EOS, TokenBatch, interaction_ids, prompt_ids

TALKS = [
    talk
    for steps in (2, 3, 5)
    for talk in GeneratedSource(level=0, seed=0, split="train").take(steps=steps, strategy="multi-step", start=0, count=2)
]
CODEC = Tokenizer.train([text for talk in TALKS for each in talk.interactions for text in (each.query, each.answer)], 300)


def invoke(*arguments: object, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], prog_name="rxrl")
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def model() -> ReactiveTransformer:
    return ReactiveTransformer.from_preset("pico-causal", seed=0, vocab_size=CODEC.vocab_size, max_length=256).double().eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rereading") / "run"
    settings = (
        "phases=[{steps: 1, iterations: 2}, {steps: 2, iterations: 2}]",
        "batch_tokens=300",
        "validation_rows=4",
        "validate_every=2",
    )
    invoke("stage", "rereading", "--out", out, *(part for each in settings for part in ("--set", each)))
    return out / "checkpoint"


def ids_of(talk: Any) -> list[list[int]]:
    return [interaction_ids(CODEC.encode(each.query), CODEC.encode(each.answer)) for each in talk.interactions]


def test_it_is_as_large_as_the_model_that_it_stands_beside() -> None:
    with torch.device("meta"):
        ours, theirs = (count_parameters(ReactiveTransformer(preset(name)))["total"] for name in ("pico", "pico-causal"))
    assert abs(ours - theirs) < 0.01 * ours
    assert rereads(preset("pico-causal"))
    assert not rereads(preset("pico"))


def test_a_conversation_is_one_sequence_without_padding() -> None:
    told = Transcript.of(episode_batch(TALKS, CODEC, 96))
    assert told.tokens.rows() == [[token for ids in ids_of(talk) for token in ids] for talk in TALKS]
    answers = [told.tokens.ids[row][told.answer[row]].tolist() for row in range(len(TALKS))]
    assert answers == [[token for each in talk.follow_ups for token in [*CODEC.encode(each.answer), EOS]] for talk in TALKS]


def test_values_of_tokens_come_back_to_their_turns() -> None:
    batch = episode_batch(TALKS, CODEC, 96)
    told = Transcript.of(batch)
    assert torch.equal(told.in_turns(told.tokens.ids, batch)[batch.turns.mask], batch.turns.ids[batch.turns.mask])


def test_the_loss_is_that_of_each_answer_after_all_that_was_said(model: ReactiveTransformer) -> None:
    batch = episode_batch(TALKS, CODEC, 96)
    result, likeliest = rereading_loss(model, batch)
    losses, chosen = [], {}
    for row, talk in enumerate(TALKS):
        said = ids_of(talk)
        for turn, own in enumerate(said[1:]):
            before = [token for ids in said[: turn + 1] for token in ids]
            prompt = len(prompt_ids(CODEC.encode(talk.follow_ups[turn].query)))
            ids = torch.tensor([before + own])
            logits = model.decode(ids, torch.ones_like(ids, dtype=torch.bool), model.init_memory(1))[0, len(before) + prompt - 1 : -1]
            target = torch.tensor(own[prompt:])
            losses.append(torch.nn.functional.cross_entropy(logits, target, reduction="none"))
            chosen[turn, row] = logits.argmax(-1)
    assert torch.allclose(result.loss, torch.cat(losses).mean(), atol=1e-10)
    order = [(turn, row) for turn in range(5) for row in range(len(TALKS)) if (turn, row) in chosen]
    assert torch.equal(likeliest, torch.cat([chosen[key] for key in order]))


def test_answers_depend_on_what_was_said_and_not_on_the_batch(model: ReactiveTransformer) -> None:
    memory = TranscriptMemory()
    said = memory.init([0, 1, 2])
    for turn in range(2):
        said = memory.write(said, TokenBatch.pad([ids_of(talk)[turn] for talk in TALKS[:3]]), torch.tensor([True] * 3))
    prompts = TokenBatch.pad([prompt_ids(CODEC.encode(talk.follow_ups[1].query)) for talk in TALKS[:3]])
    policy = RereadingPolicy(model, 6)
    together = policy.act(prompts, said, None)
    for row in range(3):
        alone = policy.act(TokenBatch(prompts.ids[row : row + 1], prompts.mask[row : row + 1]), memory.select_rows(said, [row]), None)
        assert alone.ids.tolist()[0] == together.ids.tolist()[row][: alone.ids.shape[1]]
    forgot = policy.act(prompts, None, None)
    assert not torch.equal(forgot.raw_log_probs[:, :1], together.raw_log_probs[:, :1])
    sampled = [policy.act(prompts, said, [generator(number, row) for row in range(3)]).ids.tolist() for number in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]


def test_the_oldest_interactions_go_where_the_context_is_full(model: ReactiveTransformer) -> None:
    small = ReactiveTransformer.from_preset("pico-causal", seed=0, vocab_size=CODEC.vocab_size, max_length=64).double().eval()
    prompt = prompt_ids(CODEC.encode("Where is Anna?"))
    said = [interaction_ids(CODEC.encode(f"Anna is at the farm {number}."), [9]) for number in range(20)]
    kept = RereadingPolicy(small, 6)._prompt(said, prompt)
    assert len(kept) + 6 + 1 <= 64 < len(kept) + 6 + 1 + len(said[0])
    assert kept[-len(prompt) - len(said[-1]) :] == said[-1] + prompt
    assert RereadingPolicy(model, 6)._prompt(said[:3], prompt) == said[0] + said[1] + said[2] + prompt


def test_commands_train_and_evaluate_it_with_any_window(checkpoint: Path, tmp_path: Path) -> None:
    assert rereads(load_checkpoint(checkpoint)[0].config)
    tokens = {}
    for memory in (None, "transcript:1", "none"):
        out = tmp_path / str(memory)
        invoke("evaluate", checkpoint, "--conversations", 4, "--steps", 6, "--out", out, *(("--memory", memory) if memory else ()))
        found = json.loads((out / "evaluation.json").read_text())
        tokens[memory] = [row["tokens"] for row in found["cost"]]
        assert found["controls"]["oracle"]["retention"] == 1.0
    assert tokens[None][-1] > 2 * tokens["transcript:1"][-1] > tokens["none"][-1]
    invoke("play", "--policy", checkpoint, "--conversations", 1)
    assert make_play(str(checkpoint), TALKS[:1]).envs.memory is None


def test_it_says_what_it_lacks(checkpoint: Path, tmp_path: Path) -> None:
    model = load_checkpoint(checkpoint)[0]
    backend, written = StmBackend(model), TokenBatch.pad([[1, 5, 9, 6, 9, 3]])
    with pytest.raises(ModelError, match=r"has no encoder.*baseline that re-reads"):
        backend.write(backend.init([0]), written, torch.tensor([True]))
    with pytest.raises(ConfigError, match="needs memory='transcript'"):
        RereadingPolicy(model, 4).act(TokenBatch.pad([[1, 5, 9, 6]]), torch.zeros(1), None)
    assert "no encoder" in invoke("stage", "smat", "--from", checkpoint, "--out", tmp_path / "smat", code=2).stderr
    assert "such as --preset pico-causal" in invoke("stage", "rereading", "--preset", "pico", "--out", tmp_path / "other", code=2).stderr

"""Sessions, memories, environments, evaluations and commands with a model on the GPU: the same as with one on the CPU."""

from __future__ import annotations

from pathlib import Path

import gymnasium
import pytest
import torch

from rxrl.cli.device import find_device, load_on
from rxrl.data.tokenizer import Tokenizer
from rxrl.data.world import GeneratedSource
from rxrl.envs import token_batch
from rxrl.evaluation import CONTROLS, Evaluation
from rxrl.evaluation.play import play_conditions
from rxrl.models import AnswerEnd, MemoryUpdated, MemoryUpdating, ReactiveSession, ReactiveTransformer, Token
from rxrl.models.generation.completion import complete, fill_masks
from rxrl.players import make_play
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.rewards import load_reward, mean_embeddings
from rxrl.seeding import generator
from rxrl.types import MASK, SPECIAL_TOKENS
from tests.gpu.parts import GPU, awake, batch_of, gap, memory_for, placed
from tests.training.toy import conversations, make_env, tiny_model

TEXTS = ["My dog is called Rex.", "What is my dog called?", "Your dog is called Rex.", "I do not know."]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 290)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ReactiveTransformer:
    return awake("pico", vocab_size=tokenizer.vocab_size).double()


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_a_session_answers_and_remembers_as_on_a_cpu(model, tokenizer, background: bool, temperature: float):
    sessions = [ReactiveSession(each, tokenizer, system=TEXTS[3], background=background) for each in (model, placed(model))]
    for text in TEXTS[:2]:
        expected, found = (list(each.ask(text, temperature=temperature, max_new_tokens=12)) for each in sessions)
        assert [(e.text, e.id) for e in found if isinstance(e, Token)] == [(e.text, e.id) for e in expected if isinstance(e, Token)]
        assert [e for e in found if isinstance(e, AnswerEnd)] == [e for e in expected if isinstance(e, AnswerEnd)]
        assert isinstance(found[-1], MemoryUpdating if background else MemoryUpdated)
        assert sessions[1].stm.device.type == "cuda"
        assert gap(sessions[1].stm, sessions[0].stm) < 1e-9


def test_a_saved_memory_goes_from_one_device_to_the_other(model, tokenizer, tmp_path: Path):
    here, there = ReactiveSession(placed(model), tokenizer), ReactiveSession(model, tokenizer)
    list(here.ask(TEXTS[0], max_new_tokens=6))
    here.save(tmp_path / "memory.safetensors")
    there.load(tmp_path / "memory.safetensors")
    assert torch.equal(there.stm, here.stm.cpu())
    again = ReactiveSession(here.model, tokenizer, stm=there.stm)
    assert torch.equal(again.stm, here.stm)
    here.load(tmp_path / "memory.safetensors")
    assert here.stm.device.type == "cuda"


def test_parts_work_alone(model, tokenizer):
    here = placed(model)
    found, expected = (list(complete(each, tokenizer, "My dog", generator=generator(1), max_new_tokens=8)) for each in (here, model))
    assert [e.id for e in found if isinstance(e, Token)] == [e.id for e in expected if isinstance(e, Token)]
    guesses, wanted = (fill_masks(each, tokenizer, f"My {SPECIAL_TOKENS[MASK]} is called") for each in (here, model))
    assert [each.id for each in guesses[0]] == [each.id for each in wanted[0]]


def test_a_memory_backend_does_what_it_does_on_a_cpu():
    model, batch = awake("pico").double(), batch_of((5, 9, 3), empty=False)
    rows = torch.tensor([True, False, True])
    results = []
    for each in (model, placed(model)):
        backend = StmBackend(each)
        fresh = backend.init([3, 4, 5])
        written = backend.write(fresh, batch, rows)
        # A memory that was kept elsewhere may be handed back.
        kept = backend.reset_rows(written, rows, memory_for(model, 3))
        results.append([fresh, written, kept, backend.select_rows(kept, [2, 0])])
    for found, expected in zip(results[1], results[0], strict=True):
        assert found.device.type == "cuda"
        assert gap(found, expected) < 1e-9


def test_an_environment_plays_as_on_a_cpu():
    model = tiny_model(double=True)
    episodes = []
    for each in (model, placed(model)):
        envs = make_env(each, 3)
        observation, info = envs.reset(seed=1, options={"conversations": conversations(3, (3, 2)), "stm_seeds": [1, 2, 3]})
        policy, rewards = ModelPolicy(each, 5), []
        while envs.active.any():
            observation, reward, _, _, info = envs.step(policy.act(token_batch(observation), envs.memory, None))
            rewards.append(reward.tolist())
        episodes.append((rewards, [None if ids is None else list(ids) for ids in info["written"]], envs.memory))
    assert episodes[1][:2] == episodes[0][:2]
    assert gap(episodes[1][2], episodes[0][2]) < 1e-9


def test_gymnasium_makes_an_environment_around_a_model_on_the_gpu(model, tokenizer):
    here = placed(model)
    talks = GeneratedSource(level=1, seed=0, split="test").take(steps=2, strategy="multi-step", start=0, count=1)
    env = gymnasium.make("rxrl/Conversation-v0", conversations=talks, memory=here, tokenizer=tokenizer)
    env.reset(seed=0)
    before = env.unwrapped.memory
    _, reward, *_ = env.step("I do not know.")
    assert 0 <= reward <= 10
    assert env.unwrapped.memory.device.type == "cuda"
    assert not torch.equal(env.unwrapped.memory, before)


@pytest.mark.parametrize("greedy", [True, False])
def test_an_evaluation_gives_the_records_of_a_cpu(greedy: bool):
    model, chosen = tiny_model(double=True), conversations(6, (3, 2))
    found = []
    for each in (model, placed(model)):
        played = play_conditions(make_env(each, 4), ModelPolicy(each, 5), chosen, seed=2, greedy=greedy, controls=CONTROLS)
        found.append(
            {name: [(r.turn.conversation_id, r.turn.index, r.answer, r.reward) for r in records] for name, records in played.items()}
        )
        assert Evaluation.of(played, seed=0, resamples=20).summary["conversations"] == 6
    assert found[1] == found[0]


def test_rewards_on_embeddings_take_those_of_the_gpu():
    model, chosen = tiny_model(double=True), conversations(2, 3)
    rewards = []
    for each in (model, placed(model)):
        weight = each.embedding.weight
        reward = load_reward("classic", embed=lambda rows, weight=weight: mean_embeddings(weight, rows))
        played = play_conditions(make_env(each, 2, reward=reward), ModelPolicy(each, 5), chosen, seed=2)["true"]
        rewards.append([record.reward for record in played])
    assert rewards[1] == pytest.approx(rewards[0], abs=1e-5)


def test_commands_compute_on_the_gpu_unless_told_otherwise(tokenizer, tmp_path: Path):
    model = awake("pico", vocab_size=tokenizer.vocab_size)
    model.save_pretrained(tmp_path, tokenizer=tokenizer)
    assert find_device(None).type == "cuda"
    assert load_on(None, tmp_path)[0].device.type == "cuda"
    assert load_on("cpu", tmp_path)[0].device.type == "cpu"
    talks = GeneratedSource(level=1, seed=0, split="test").take(steps=2, strategy="multi-step", start=0, count=2)
    envs, policy = make_play(str(tmp_path), talks, num_envs=2, device=GPU)
    observation, _ = envs.reset(seed=0)
    _, rewards, *_ = envs.step(policy.act(token_batch(observation), envs.memory, None))
    assert envs.memory.device.type == "cuda"
    assert ((rewards >= 0) & (rewards <= 10)).all()

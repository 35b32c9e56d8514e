from __future__ import annotations

import copy
import inspect
import json
import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import rxrl
from rxrl.cli.evaluate import evaluate
from rxrl.cli.play import play
from rxrl.curricula import Curriculum, Stage
from rxrl.data import GeneratedSource, Tokenizer
from rxrl.data.rows import to_row, write_conversations
from rxrl.envs import ConversationVectorEnv, Live, TranscriptMemory, token_batch
from rxrl.errors import CheckpointError, ConfigError, DataError, ModelError, RxrlError
from rxrl.factory import TokenEmbeddings, load_checkpoint, make_env, make_vector_env
from rxrl.models import ReactiveTransformer
from rxrl.players import make_play, model_play
from rxrl.policies import ModelPolicy, StmBackend
from rxrl.rewards import load_reward
from rxrl.training.config import MRLConfig
from rxrl.training.trainer import MRLTrainer
from rxrl.types import ANSWER_TOKENS

COMMANDS = {"evaluate": evaluate, "play": play}

CONVERSATIONS = GeneratedSource(level=1, seed=0, split="train").take(steps=3, strategy="multi-step", start=0, count=6)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for each in CONVERSATIONS for turn in each.interactions for text in (turn.query, turn.answer)], 400)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> ReactiveTransformer:
    return ReactiveTransformer.from_preset("pico", vocab_size=tokenizer.vocab_size)


@pytest.fixture(scope="module")
def checkpoint(model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return folder


def rows() -> list[dict]:
    return [to_row(each) for each in CONVERSATIONS]


def test_conversations_come_from_a_path_rows_or_objects(tmp_path: Path):
    file = tmp_path / "talks.jsonl"
    write_conversations(file, CONVERSATIONS)
    for given in (file, str(file), rows(), CONVERSATIONS, Live(CONVERSATIONS)):
        env = make_env(given)
        assert env.batch.conversations == CONVERSATIONS
        observation, info = env.reset(seed=1, options={"conversation": 2})
        assert observation == CONVERSATIONS[2].follow_ups[0].query
        assert info["conversation_id"] == CONVERSATIONS[2].id


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([{"query": "hi"}], DataError, "Row 1: 'answer' is missing"),
        ([rows()[0], rows()[0]], DataError, "Row 2: the id .* is already taken by row 1"),
        (7, ConfigError, "conversations is a path or a list of rows or Conversations, got int"),
        ([], ConfigError, "needs at least one conversation"),
        ("nowhere.jsonl", DataError, "There is no file nowhere.jsonl"),
    ],
)
def test_wrong_conversations_get_one_clear_sentence(given, error, message):
    with pytest.raises(error, match=message):
        make_env(given)


def test_memory_comes_from_nothing_a_backend_a_model_or_a_path(model, tokenizer, checkpoint, tmp_path: Path):
    assert make_env(CONVERSATIONS).memory is None
    transcript = make_env(CONVERSATIONS, memory=TranscriptMemory())
    transcript.reset(seed=0)
    assert transcript.memory.token_counts()[0] > 4
    backend = StmBackend(model)
    for given in (model, backend, Live(model), Live(backend), checkpoint, str(checkpoint)):
        env = make_env(CONVERSATIONS, memory=given, tokenizer=tokenizer)
        env.reset(seed=0)
        assert env.memory.shape == (model.config.layers, 1, model.config.slots, model.config.dim)
        used = env.batch.backend.model
        assert (used is model) == (given not in (checkpoint, str(checkpoint)))
        assert all(torch.equal(a, b) for a, b in zip(used.parameters(), model.parameters(), strict=True))
    nested = tmp_path / "run"
    nested.mkdir()
    (nested / "model").symlink_to(checkpoint)
    assert make_env(CONVERSATIONS, memory=nested).batch.codec.hash == tokenizer.hash


def test_memories_have_names(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("from rxrl.envs import TranscriptMemory\nclass Mine(TranscriptMemory): pass\nkept = Mine(last=3)\n")
    for name, last in (("transcript", None), ("transcript:2", 2), (f"{file}:Mine", None), (f"{file}:kept", 3)):
        assert make_env(CONVERSATIONS, memory=name).batch.backend.last == last
    env = make_env(CONVERSATIONS, memory="none")
    env.reset()
    assert env.memory is None
    with pytest.raises(ConfigError, match=r"'transcript:4', got 'transcript:x'"):
        make_env(CONVERSATIONS, memory="transcript:x")
    with pytest.raises(ConfigError, match="Did you mean 'Mine'"):
        make_env(CONVERSATIONS, memory=f"{file}:Mime")


def test_wrong_memories_get_one_clear_sentence(model):
    with pytest.raises(ConfigError, match="a dict is none, it lacks init, write, reset_rows, select_rows"):
        make_env(CONVERSATIONS, memory={})
    with pytest.raises(CheckpointError, match="There is no checkpoint nowhere"):
        make_env(CONVERSATIONS, memory="nowhere")


def test_the_tokenizer_is_given_the_checkpoints_or_a_trained_one(model, tokenizer, checkpoint, tmp_path: Path, caplog):
    tokenizer.save(tmp_path)
    for given in (tokenizer, tmp_path, str(tmp_path), Live(tokenizer)):
        assert make_env(CONVERSATIONS, tokenizer=given).batch.codec.hash == tokenizer.hash
    assert make_env(CONVERSATIONS, memory=checkpoint).batch.codec.hash == tokenizer.hash
    trained = make_env(CONVERSATIONS).batch.codec
    assert trained.decode(trained.encode(CONVERSATIONS[0].first.query)) == CONVERSATIONS[0].first.query
    with caplog.at_level(logging.WARNING, "rxrl.factory"):
        fitting = ReactiveTransformer.from_preset("pico", vocab_size=300)
        assert make_env(CONVERSATIONS, memory=fitting).batch.codec.vocab_size <= 300
    with pytest.raises(ConfigError, match=f"The tokenizer has {tokenizer.vocab_size} tokens, but the model knows 300"):
        make_env(CONVERSATIONS, memory=fitting, tokenizer=tokenizer)
    with pytest.raises(ConfigError, match="has encode and decode, got int"):
        make_env(CONVERSATIONS, tokenizer=7)


def test_rewards_come_by_name_mapping_file_or_function_and_see_the_models_embeddings(model, tokenizer, tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("def fixed(turns, embed=None):\n    return [7.0 if embed is not None else 1.0 for _ in turns]\n")
    named = f"{file}:fixed"

    def score(reward, **more):
        env = make_env(CONVERSATIONS, reward=reward, **more)
        env.reset(seed=1)
        return env.step("nothing")[1]

    assert score(named) == 1.0
    assert score(named, memory=model, tokenizer=tokenizer) == 7.0
    assert score(lambda turns: [3.0] * len(turns)) == 3.0
    assert score({named: 1, "mine": {"use": named, "weight": 3}}) == 1.0
    assert 0 <= score("classic", memory=model, tokenizer=tokenizer) <= 10
    with pytest.raises(ConfigError, match="Did you mean 'retention'"):
        make_env(CONVERSATIONS, reward="retenton")
    with pytest.raises(ConfigError, match=r"no file nowhere\.py"):
        make_env(CONVERSATIONS, reward="nowhere.py:f")


def test_embeddings_are_means_of_the_models_rows_and_follow_it(model):
    embed = TokenEmbeddings(model)
    table = model.embedding.weight.detach()
    torch.testing.assert_close(embed([[3, 4], [], [9]]), torch.stack([table[3:5].mean(0), torch.zeros_like(table[0]), table[9]]))
    assert copy.deepcopy(embed) is embed


@pytest.mark.parametrize("kind", ["none", "model", "backend", "checkpoint", "transcript"])
@pytest.mark.parametrize("env_id", [rxrl.ENV_ID, rxrl.TOKENS_ENV_ID])
@pytest.mark.filterwarnings("error")
def test_check_env_passes_and_copies_keep_the_model(kind: str, env_id: str, model, tokenizer, checkpoint, caplog, capsys):
    memory = {"none": None, "model": model, "backend": StmBackend(model), "checkpoint": checkpoint, "transcript": "transcript:2"}[kind]
    options = {"conversations": CONVERSATIONS, "memory": memory, "reward": "retention", "tokenizer": tokenizer}
    env = gymnasium.make(env_id, render_mode="human" if kind == "none" else "ansi", **options)
    check_env(env.unwrapped, skip_render_check=False)
    assert not caplog.records
    again = env.spec.make()
    twin = copy.deepcopy(env)
    played = [episode(each) for each in (env, again, twin)]
    assert played[0] == played[1] == played[2]
    assert str(CONVERSATIONS) not in str(env.spec)
    if kind in ("model", "backend"):
        assert again.unwrapped.batch.backend.model is model
        assert twin.unwrapped.batch.backend.model is model
        assert torch.equal(again.unwrapped.memory, env.unwrapped.memory)


def episode(env: gymnasium.Env) -> str:
    """What is seen and earned in an episode; the wrappers that `make` adds look at every step."""
    observation, info = env.reset(seed=5)
    seen = [observation, info["written"]]
    for _ in range(info["steps"]):
        ids = np.zeros_like(env.action_space["ids"].nvec) + 300 if isinstance(observation, dict) else None
        observation, reward, *ended, info = env.step("Rex." if ids is None else {"ids": ids, "length": np.int64(3)})
        seen += [observation, reward, ended, info["written"], info["reward_terms"]]
    assert ended == [True, False]
    return str(seen)


@pytest.mark.parametrize("env_id", [rxrl.ENV_ID, rxrl.TOKENS_ENV_ID])
@pytest.mark.filterwarnings("error")
def test_make_vec_gives_the_batched_environment_or_gymnasiums_own(env_id: str, model, tokenizer):
    options = {"conversations": CONVERSATIONS, "memory": model, "tokenizer": tokenizer}
    batched = gymnasium.make_vec(env_id, 3, vectorization_mode="vector_entry_point", **options)
    sync = gymnasium.make_vec(env_id, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": "Disabled"}, **options)
    assert isinstance(batched.unwrapped, ConversationVectorEnv)
    for envs in (batched, sync):
        envs.reset(seed=7)
    answer = tokenizer.encode("Rex.")
    ids = np.tile(np.array(answer + [0] * (batched.single_action_space["ids"].shape[0] - len(answer))), (3, 1))
    given = {"ids": ids, "length": np.full(3, len(answer))}
    rewards = [envs.step(each)[1].tolist() for envs, each in ((batched, given), (sync, ("Rex.",) * 3 if env_id == rxrl.ENV_ID else given))]
    assert rewards[0] == rewards[1]


def test_a_spec_of_plain_values_can_be_written_down(checkpoint):
    env = gymnasium.make(rxrl.ENV_ID, conversations=rows(), memory=str(checkpoint), reward={"classic": 1.0})
    kwargs = json.loads(env.spec.to_json())["kwargs"]
    assert kwargs["conversations"] == json.loads(json.dumps(rows()))
    assert kwargs["memory"] == str(checkpoint)


def test_make_vec_plays_with_a_live_model(model, tokenizer):
    envs = gymnasium.make_vec(
        rxrl.ENV_ID, 4, vectorization_mode="vector_entry_point", conversations=CONVERSATIONS, memory=model, tokenizer=tokenizer
    )
    assert envs.num_envs == 4
    observation, _ = envs.reset(seed=3)
    prompts = token_batch(observation)
    action = ModelPolicy(model, 6).act(prompts, envs.memory, None)
    before = envs.memory
    _, rewards, *_ = envs.step(action)
    assert rewards.shape == (4,)
    assert np.isfinite(rewards).all()
    assert not torch.equal(before, envs.memory)
    assert copy.deepcopy(envs.spec).kwargs["memory"].value is model


def test_vector_and_single_environment_play_alike(model, tokenizer):
    single = make_env(CONVERSATIONS, memory=model, tokenizer=tokenizer)
    envs = make_vector_env(3, conversations=CONVERSATIONS, memory=model, tokenizer=tokenizer, reward="retention")
    chosen, seeds = [4, 0, 2], [11, 12, 13]
    envs.reset(seed=0, options={"conversations": chosen, "stm_seeds": seeds})
    answer = tokenizer.encode("Lena has a duck.")
    ids = np.tile(np.array(answer, dtype=np.int64), (3, 1))
    _, rewards, *_ = envs.step({"ids": ids, "length": np.full(3, len(answer))})
    for row, (conversation, seed) in enumerate(zip(chosen, seeds, strict=True)):
        single.reset(options={"conversation": conversation, "stm_seed": seed})
        assert single.step("Lena has a duck.")[1] == rewards[row]
        torch.testing.assert_close(single.memory[:, 0], envs.memory[:, row])


def test_token_limits_follow_the_model(model, tokenizer):
    limits = make_env(CONVERSATIONS, memory=model, tokenizer=tokenizer).batch.limits
    length = model.config.max_length
    assert limits.interaction == length
    # Markers, [EOS] and an answer of at least one token fit behind the longest query.
    assert limits.query + 1 + 4 == length
    assert make_env(CONVERSATIONS, memory=model, tokenizer=tokenizer, max_answer_tokens=3).batch.limits.answer == 3
    long = [{"query": "word " * 300, "answer": "ok", "interactions": [{"query": "word " * 300, "answer": "word " * 300}]}]
    env = make_env(long, memory=model, tokenizer=tokenizer, write_last=True)
    env.reset(seed=0)
    assert len(env.step("word " * 300)[4]["written"]) <= length


def test_training_evaluation_play_and_gymnasium_have_the_same_limits(model, tokenizer, checkpoint, tmp_path: Path):
    """Whoever plays a checkpoint, from wherever, plays the environment that it was trained in."""
    source = GeneratedSource(level=1, seed=0, split="train")
    curriculum = Curriculum.custom([2], iterations=1)
    trainer = MRLTrainer(
        model, tokenizer, curriculum=curriculum, source=source, held_out=source, config=MRLConfig(), folder=tmp_path / "run"
    )
    trained = trainer.episodes.environment(0, 3).limits
    evaluated = model_play(model, tokenizer, CONVERSATIONS, reward=load_reward("retention"))
    played = make_play(str(checkpoint), CONVERSATIONS)
    made = make_vector_env(2, conversations=CONVERSATIONS, memory=checkpoint)
    assert trained == evaluated.envs.limits == played.envs.limits == made.limits
    assert trained.answer == ANSWER_TOKENS
    assert {
        name: inspect.signature(command).parameters["max_answer_tokens"].default for name, command in COMMANDS.items()
    } == dict.fromkeys(COMMANDS, ANSWER_TOKENS)


def test_each_reward_is_made_once(model, tokenizer, tmp_path: Path):
    made: list[int] = []

    class Counted:
        def __init__(self) -> None:
            made.append(1)

        def __call__(self, turns):
            return [5.0 for _ in turns]

    stages = [Stage(name="a", steps=1, iterations=1), Stage(name="b", steps=2, iterations=1), Stage(name="c", steps=2, reward="exact")]
    source = GeneratedSource(level=1, seed=0, split="train")
    config = MRLConfig(episodes=2, evaluation={"every": 1, "conversations": 2}, optimizer={"learning_rate": 1e-3})
    trainer = MRLTrainer(
        model,
        tokenizer,
        curriculum=Curriculum.custom(stages),
        source=source,
        held_out=source,
        config=config,
        folder=tmp_path / "run",
        reward=Counted,
    )
    for index, stage in enumerate(trainer.curriculum.stages):
        for _ in range(2):
            trainer.episodes.environment(index, 2)
            trainer.episodes.evaluation_environment(stage, CONVERSATIONS[:2])
    assert made == [1]
    assert set(trainer.episodes.rewards) == {"a", "b", "c"}


def test_a_checkpoint_comes_back_with_its_tokenizer(model, tokenizer, checkpoint):
    loaded, codec = load_checkpoint(checkpoint)
    assert codec.hash == tokenizer.hash
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_broken_checkpoint_gets_one_clear_sentence(model, tokenizer, tmp_path: Path):
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"No tokenizer.json"):
        load_checkpoint(tmp_path)
    ReactiveTransformer.from_preset("pico", vocab_size=300).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(CheckpointError, match=f"has {tokenizer.vocab_size} tokens, but its model knows 300"):
        load_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "config.json")


@pytest.mark.parametrize("policy", ["oracle", "parrot", "checkpoint", "hf", "own"])
def test_players_come_by_name_with_the_environment_that_suits_them(policy: str, checkpoint, tokenizer, tmp_path: Path):
    own = tmp_path / "mine.py"
    own.write_text(
        "from rxrl.policies import TextPolicy\n"
        "class Rex(TextPolicy):\n"
        "    def answer(self, dialogues, generators):\n"
        "        return [f'Rex {len(each.history)}' for each in dialogues]\n"
    )
    name = {"checkpoint": str(checkpoint), "own": f"{own}:Rex", "hf": "hf:nowhere"}.get(policy, policy)
    if policy == "hf":
        there = find_spec("transformers") is not None
        with pytest.raises(RxrlError, match="No causal language model can be loaded from nowhere" if there else "optional dependency"):
            make_play(name, CONVERSATIONS)
        return
    envs, player = make_play(name, CONVERSATIONS, num_envs=2, max_answer_tokens=8)
    observation, _ = envs.reset(seed=0)
    for turn in range(1, 4):
        observation, rewards, _, _, info = envs.step(player.act(token_batch(observation), envs.memory, None))
        assert ((rewards >= 0) & (rewards <= 10)).all()
        if policy == "own":
            assert info["turns"][0].answer == f"Rex {turn}"
    assert isinstance(player, ModelPolicy) == (policy == "checkpoint")
    if policy == "checkpoint":
        assert player.model is envs.backend.model


def test_wrong_players_get_one_clear_sentence(checkpoint, tmp_path: Path):
    with pytest.raises(ConfigError, match="Did you mean 'oracle'"):
        make_play("orakel", CONVERSATIONS)
    with pytest.raises(ConfigError, match="reads a Short-Term Memory of its own, not 'transcript'"):
        make_play(str(checkpoint), CONVERSATIONS, memory="transcript")
    with pytest.raises(ConfigError, match="The player parrot takes no system"):
        make_play("parrot", CONVERSATIONS, system="Be brief.")
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        make_play(str(tmp_path / "nowhere"), CONVERSATIONS)
    (tmp_path / "mine.py").write_text("""number = 5
def nothing(codec): return codec
def boom(codec): raise ValueError("boom")
class Sized:
    def __init__(self, size): self.size = size
""")
    mine = f"{tmp_path / 'mine.py'}"
    for name, message in (
        ("nothing", "must give a policy"),
        ("boom", r"boom' cannot be made, called with the codec: ValueError: boom\.$"),
        ("number", r"The policy .*number' must be a class or a function, but is int\.$"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_play(f"{mine}:{name}", CONVERSATIONS)
    with pytest.raises(ConfigError, match=r"The memory .*Sized' cannot be made, called with no arguments: TypeError: .*'size'\.$"):
        make_play("oracle", CONVERSATIONS, memory=f"{mine}:Sized")


def test_options_of_the_environment_are_checked_by_name() -> None:
    row = {"query": "Mia has a cat.", "answer": "Okay.", "interactions": [{"query": "What pet?", "answer": "A cat."}]}
    for name in ("rxrl/Conversation-v0", "rxrl/ConversationTokens-v0"):
        with pytest.raises(ConfigError, match=r"'rewrad'.*'reward'") as error:
            gymnasium.make(name, conversations=[row] * 50, rewrad="exact")
        assert len(str(error.value)) < 1000
        with pytest.raises(ConfigError, match="conversations is a path or a list"):
            gymnasium.make(name)


def test_a_reward_can_say_something_wherever_it_is_used(caplog: pytest.LogCaptureFixture) -> None:
    def noisy(turns: Any, notify: Any) -> list[float]:
        notify("The scale is odd.")
        return [1.0] * len(turns)

    assert [float(each) for each in load_reward({"use": noisy})([1, 2])] == [1.0, 1.0]
    assert "The scale is odd." in caplog.text


@pytest.mark.parametrize("stm", [None, np.zeros((1, 2)), torch.zeros(1)])
def test_memory_to_start_from_has_the_shape_of_the_models(stm: Any) -> None:
    row = {"query": "Mia has a cat.", "answer": "Okay.", "interactions": [{"query": "What pet?", "answer": "A cat."}]}
    env = make_vector_env(1, conversations=[row], memory=ReactiveTransformer.from_preset("pico"))
    with pytest.raises(ModelError, match="Memory to start from is a tensor of the shape"):
        env.reset(seed=0, options={"stm": stm})


def test_a_model_may_know_more_tokens_than_the_tokenizer() -> None:
    talk = {"query": "Mia has a cat.", "answer": "Okay.", "interactions": [{"query": "What pet?", "answer": "A cat."}]}
    codec = Tokenizer.train(["Mia has a cat. Okay."], 300)
    env = make_vector_env(1, conversations=[talk], memory=ReactiveTransformer.from_preset("pico"), tokenizer=codec)
    env.reset(seed=0)
    *_, info = env.step({"ids": np.array([[700, 3]]), "length": np.array([2])})
    assert info["turns"][0].answer_ids == (700,)

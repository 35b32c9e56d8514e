"""TRL's trainer on scenarios and rows: the page's ten lines learn, and a rollout holds what TRL and its trainer rely on."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
import trl
from typer.testing import CliRunner

from rxrl.cli import main as cli
from rxrl.data.world import GeneratedSource
from rxrl.envs.scenarios import load
from rxrl.errors import ConfigError, EpisodeError
from rxrl.integrations.dialogues import Dialogues
from rxrl.integrations.trl import conversation_environment, conversation_rollout, dialogue_mean, dialogue_sum, dialogue_turn, prompts_of
from rxrl.integrations.trl.chat import Chat
from rxrl.policies import Dialogue, HuggingFacePolicy
from tests.envs.worlds import CODEC
from tests.pages import DOCS, blocks, commands

PAGE = DOCS / "guides" / "trl.md"
BLOCKS = [block for block in blocks(PAGE) if block.language == "python"]
FILES = {block.file: block.text for block in BLOCKS if block.file}
TEN_LINES, TOOL = (block for block in BLOCKS if not block.file)
WAYS = {"north", "east", "south", "west"}
CHANCE, BEST = 2.5, 10.0


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working folder of a reader of the page, with its scenario and its tiny model."""
    path = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        for name, text in FILES.items():
            (path / name).write_text(text, encoding="utf-8")
        run(FILES["tiny_model.py"], {})
        yield path


def run(text: str, names: dict[str, Any]) -> dict[str, Any]:
    space = names | {"__name__": "snippet"}
    exec(compile(text, PAGE.name, "exec", dont_inherit=True), space)
    return space


def games(count: int = 8, steps: int = 2, **options: Any) -> list[Any]:
    return load("treasure.py:Treasure", **options).take(steps=steps, count=count)


def trainer(conversations: Any, folder: Path, *, rollout: Any = None, rewards: Any = dialogue_mean, **settings: Any) -> Any:
    """A trainer of the tiny model; it only trains when it is told to."""
    given = {"use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    args = trl.GRPOConfig(str(folder / "run"), **given | {"per_device_train_batch_size": 8, "num_generations": 4} | settings)
    rollout = rollout or conversation_rollout(conversations, max_answer_tokens=3)
    made = trl.GRPOTrainer("tiny-model", rewards, args, prompts_of(conversations), rollout_func=rollout)
    made.model.train()
    return made


def prompts(conversations: Any, copies: int = 1, **options: Any) -> list[Any]:
    return [prompt for prompt in prompts_of(conversations, **options)["prompt"] for _ in range(copies)]


def evaluated(model: str) -> dict[str, Any]:
    """What the command of the page finds for a model."""
    [line] = [each for each in commands(PAGE) if each.startswith("rxrl evaluate")]
    result = CliRunner().invoke(cli.app, line.replace("rxrl evaluate runs/treasure ", f"evaluate {model} ").split())
    assert result.exit_code == 0, (result.output, result.exception)
    found: dict[str, Any] = json.loads(Path("runs/evaluation/evaluation.json").read_text())["scenarios"]["treasure"]
    return found


@pytest.mark.slow
def test_the_ten_lines_learn_the_scenario_and_evaluation_plays_the_same_policy(reader: Path) -> None:
    assert len(TEN_LINES.lines) <= 10
    before = evaluated("tiny-model")
    run(TEN_LINES.text, {})
    after = evaluated("runs/treasure")
    assert before["score"] <= CHANCE
    assert (after["best"], after["steps"]) == (BEST, 2)
    assert after["score"] >= 0.9 * BEST
    assert after["empty_memory"] <= CHANCE + 1.0


def test_rows_and_scenarios_are_evaluated_together(reader: Path) -> None:
    line = "evaluate tiny-model --data scenario:treasure.py:Treasure --data world --steps 1 --conversations 4 --out runs/mix"
    result = CliRunner().invoke(cli.app, line.split())
    assert result.exit_code == 0, (result.output, result.exception)
    found = json.loads(Path("runs/mix/evaluation.json").read_text())
    assert found["scenarios"]["treasure"]["dialogues"] == 2
    assert found["controls"]["oracle"]["retention"] > found["retention"] == 0.0


def test_a_rollout_is_what_the_policy_would_read_and_only_sampled_tokens_count(reader: Path, tmp_path: Path) -> None:
    given = games(4)
    made = trainer(given, tmp_path)
    found = made.rollout_func(prompts(given, 2), made)
    policy = HuggingFacePolicy(made.model, made.processing_class, CODEC, max_new_tokens=3)
    assert {key: len(value) for key, value in found.items()} == dict.fromkeys(found, 8)
    for row, game in zip(range(0, 8, 2), given, strict=True):
        ids, mask, answers = found["completion_ids"][row], found["env_mask"][row], found["answers"][row]
        second = len(mask) - mask[::-1].index(0)
        first = mask.index(0)
        said = made.processing_class.decode(ids[first:second])
        way = re.fullmatch(r"(?:<end> ?)?<user> ?(No|Right), where is it ?\? ?<end> ?<assistant>", said)
        assert way, said
        assert (way[1] == "Right") == (set(answers[0].split()) & WAYS == {game.way}) == (found["turn_rewards"][row][0] == 10.0)
        history = (("The treasure lies " + game.way + ".", "Good."), ("Well, where is it?", answers[0]))
        if ids[first - 1] == made.processing_class.eos_token_id and "<" not in made.processing_class.decode(ids[: first - 1]):
            prompt = policy._prompt(Dialogue(f"{way[1]}, where is it?", history))
            assert found["prompt_ids"][row] + ids[:second] == prompt
        assert set(mask[:first]) == {1} == set(mask[second:])


def test_log_probabilities_are_those_of_the_sampled_tokens(reader: Path, tmp_path: Path) -> None:
    given = games(4)
    made = trainer(given, tmp_path, temperature=0.7)
    found = made.rollout_func(prompts(given, 2), made)
    columns = (found[key] for key in ("prompt_ids", "completion_ids", "env_mask", "logprobs"))
    for prompt, ids, mask, noted in zip(*columns, strict=True):
        with torch.no_grad():
            logits = made.model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1] / 0.7
        right = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0] * torch.tensor(mask)
        torch.testing.assert_close(torch.tensor(noted), right, atol=1e-5, rtol=1e-4)
    assert made.model.training


@pytest.mark.parametrize("copies", [1, 4])
def test_prompts_may_be_repeated_or_not(reader: Path, tmp_path: Path, copies: int) -> None:
    given = games(2)
    made = trainer(given, tmp_path)
    found = made.rollout_func(prompts(given, copies), made)
    assert len(found["completion_ids"]) == 8
    ways = [re.search(r"north|east|south|west", made.processing_class.decode(ids))[0] for ids in found["prompt_ids"]]  # type: ignore[index]
    assert ways == [game.way for game in given for _ in range(4)]


def test_held_out_conversations_are_evaluated_while_training(reader: Path, tmp_path: Path) -> None:
    train, held_out = games(2), games(3, split="test")
    seen: list[Any] = []

    def note(answers: list[list[str]], **columns: Any) -> list[float]:
        seen.extend(answers)
        return [7.0] * len(answers)

    rollout = conversation_rollout([*train, *held_out], max_answer_tokens=3)
    made = trainer(train, tmp_path, rollout=rollout, rewards=note)
    found = made.evaluate(prompts_of(held_out))
    assert len(seen) == 3 * 4
    assert {len(answers) for answers in seen} == {2}
    assert float(found["eval_reward"]) == 7.0


def test_the_seed_alone_decides_what_a_user_says(reader: Path) -> None:
    talks = load("preferences", level=2).take(steps=3, count=30)
    whole, first, rest = (list(Dialogues(each, seed=1).openings()) for each in (talks, talks[:3], talks[3:]))
    assert whole == first + rest
    assert whole != list(Dialogues(talks, seed=2).openings())


def test_rows_train_and_are_scored_turn_by_turn(reader: Path, tmp_path: Path) -> None:
    talks = GeneratedSource(level=1, seed=0, split="train").take(steps=3, strategy="multi-step", start=0, count=4)
    seen: list[Any] = []

    def note(turn_rewards: list[list[float | None]], answers: list[list[str]], **columns: Any) -> list[float]:
        seen.extend(zip(turn_rewards, answers, strict=True))
        return [0.0] * len(answers)

    rollout = conversation_rollout(talks, reward={"use": lambda turns: [None if turn.index == 2 else 1.0 for turn in turns]})
    rewards = [note, dialogue_mean, dialogue_sum, dialogue_turn(2), dialogue_turn(3)]
    made = trainer(talks, tmp_path, rollout=rollout, rewards=rewards, max_steps=1, max_completion_length=400)
    made.model.config.max_position_embeddings = 2048
    made.train()
    assert [given for given, _ in seen] == [[1.0, None, 1.0]] * 8
    assert {len(answers) for _, answers in seen} == {3}
    logged = next(line for line in made.state.log_history if "reward" in line)
    shown = [float(logged[f"rewards/{name}/mean"]) for name in ("dialogue_mean", "dialogue_sum", "dialogue_turn_3")]
    assert shown == [1.0, 2.0, 1.0]


def test_a_dialogue_that_does_not_fit_is_cut_and_loses_what_is_cut(reader: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = games(2, steps=4)
    reward = {"use": lambda turns: [8.0] * len(turns)}
    always = conversation_rollout(
        given, reward=reward, max_answer_tokens=3, generate=lambda made, rows, most: [([5, 2], [0.0, 0.0])] * len(rows)
    )
    made = trainer(given, tmp_path, rollout=always, max_completion_length=28)
    found = made.rollout_func(prompts(given, 4), made)
    assert all(len(ids) <= 28 for ids in found["completion_ids"])
    assert {tuple(rewards) for rewards in found["turn_rewards"]} == {(8.0, 8.0, 8.0, 0.0)}
    assert caplog.text.count("is cut after turn 3 of 4") == 1
    assert dialogue_mean(found["turn_rewards"]) == [6.0] * 8
    whole = trainer(given, tmp_path, rollout=always, max_completion_length=60)
    whole.model.config.max_position_embeddings = 256
    assert {len(rewards) for rewards in whole.rollout_func(prompts(given, 4), whole)["answers"]} == {4}


def test_what_does_not_fit_is_said(reader: Path, tmp_path: Path) -> None:
    given = games(2)

    def refused(match: str, wanted: Any = None, rollout: Any = None, **settings: Any) -> None:
        made = trainer(given, tmp_path, rollout=rollout, **settings)
        with pytest.raises((ConfigError, EpisodeError), match=match):
            made.rollout_func(prompts(given) if wanted is None else wanted, made)

    refused("top_k=5 changes it", top_k=5)
    refused("top_p=0.9 changes it", top_p=0.9)
    refused("room for 2, but an answer may take 3", max_completion_length=2)
    refused("a list of messages whose last one names its 'conversation'", ["Where is it?"])
    refused("a list of messages whose last one names its 'conversation'", [[{"role": "user", "content": "Where is it?"}]])
    refused("Unknown conversation", prompts(games(2, split="test")))
    elsewhere = [[*prompt[:-1], prompt[-1] | {"content": "Who?"}] for prompt in prompts(given)]
    refused("ends with another query than the conversation begins with", elsewhere)
    with pytest.raises(ConfigError, match="some share one: give each its own"):
        conversation_rollout([*given, given[0]])
    with pytest.raises(ConfigError, match="compares with reference answers"):
        conversation_rollout(given, reward="token_f1")
    with pytest.raises(ConfigError, match="Turns are counted from 1, got 0"):
        dialogue_turn(0)
    made = trainer(given, tmp_path)
    made.args.use_vllm = True
    with pytest.raises(ConfigError, match="leave use_vllm out, or give it `generate`"):
        made.rollout_func(prompts(given), made)
    made.processing_class.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        made.rollout_func(prompts(given), made)


def test_answers_may_come_from_elsewhere(reader: Path, tmp_path: Path) -> None:
    given = games(8)

    def right(made: Any, rows: list[list[int]], max_tokens: int) -> list[tuple[list[int], list[float]]]:
        texts = [made.processing_class.decode(row) for row in rows]
        answers = [re.search(r"lies (\w+)", text)[1] for text in texts]  # type: ignore[index]
        return [(made.processing_class(f"{answer}<end>")["input_ids"], [-0.5, -0.25]) for answer in answers]

    made = trainer(given, tmp_path, rollout=conversation_rollout(given, max_answer_tokens=2, generate=right))
    found = made.rollout_func(prompts(given), made)
    assert found["turn_rewards"] == [[10.0, 10.0]] * 8
    assert found["answers"] == [[game.way] * 2 for game in given]
    assert [value for value in found["logprobs"][0] if value] == [-0.5, -0.25] * 2


ENDS = {"qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "gemma3": "<end_of_turn>", "phi3": "<|end|>"}
"""What ends an answer in the chat templates of well-known models."""


def byte_tokenizer(template: str, special: list[str], **options: Any) -> Any:
    """A tokenizer of bytes with the chat template of a model that TRL knows."""
    found = tokenizers.Tokenizer(tokenizers.models.BPE())
    found.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([], trainer)
    text = (Path(trl.__file__).parent / "chat_templates" / f"{template}.jinja").read_text()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, chat_template=text, **options)


@pytest.mark.parametrize("template", ENDS)
@pytest.mark.parametrize("ended", [True, False])
def test_templates_of_well_known_models_go_on_behind_an_answer(reader: Path, tmp_path: Path, template: str, ended: bool) -> None:
    end = ENDS[template]
    made = trainer(games(1), tmp_path)
    tokenizer = made.processing_class = byte_tokenizer(template, ["<bos>", end], bos_token="<bos>", eos_token=end)
    chat = Chat(made)
    dialogue = Dialogue("Who am I?", (("I am Mia.", "Good."),)).messages()
    answer = tokenizer("Mia." + end * ended, add_special_tokens=False)["input_ids"]
    told = [*dialogue, {"role": "assistant", "content": "Mia."}]
    ids = [*chat.ids(dialogue), *answer, *chat.next(told, "Are you sure?", answer[-1])]
    assert ids == chat.ids([*told, {"role": "user", "content": "Are you sure?"}])


@pytest.fixture(scope="module")
def tool_model(reader: Path) -> str:
    """A tiny model whose chat template knows tools."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer("qwen3", special, pad_token="<|endoftext|>", eos_token="<|im_end|>")
    tokenizer.add_tokens(["<tool_call>", "</tool_call>"])
    tokenizer.save_pretrained("tool-model")
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, bos_token_id=None
    )
    transformers.LlamaForCausalLM(config).save_pretrained("tool-model")
    return "tool-model"


def test_the_trainer_of_trl_answers_through_the_tool(reader: Path, tool_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = TOOL.text.replace("Qwen/Qwen3-0.6B", tool_model)
    assert text != TOOL.text
    settings = {
        "use_cpu": True,
        "bf16": False,
        "report_to": "none",
        "save_strategy": "no",
        "num_generations": 2,
        "max_steps": 1,
        "logging_steps": 1,
    }
    config = functools.partial(trl.GRPOConfig, per_device_train_batch_size=2, disable_tqdm=True, **settings)
    names = {"games": games(1), "GRPOTrainer": trl.GRPOTrainer, "GRPOConfig": config}
    made = run(text, names | {"prompts_of": prompts_of, "conversation_environment": conversation_environment})["trainer"]
    tokenizer = made.processing_class
    read: list[str] = []

    def generate(input_ids: torch.Tensor, **given: Any) -> torch.Tensor:
        """The first sample answers right twice, the other one wrong once and then never again."""
        read.extend(tokenizer.batch_decode(input_ids))
        rows = []
        for place, text in enumerate(tokenizer.batch_decode(input_ids)):
            way = re.search(r"lies (\w+)", text)[1]  # type: ignore[index]
            turn = text.count("<tool_response>")
            answer = way if (place == 0 and not turn) or "Right" in text else "up"
            call = '<tool_call>\n{"name": "answer", "arguments": {"text": "' + answer + '"}}\n</tool_call>'
            done = "The conversation is over." in text or (turn and "Right" not in text)
            rows.append(tokenizer(("Bye." if done else call) + "<|im_end|>")["input_ids"])
        width = max(map(len, rows))
        padded = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
        return torch.cat([input_ids, padded], dim=1)

    monkeypatch.setattr(made.model, "generate", generate)
    made.train()
    logged = next(line for line in made.state.log_history if "reward" in line)
    assert float(logged["rewards/ConversationEnvironment/mean"]) == pytest.approx((10.0 + 0.0) / 2)
    assert float(logged["tools/failure_frequency"]) == 0.0
    assert any("Right, where is it?" in text for text in read)
    assert any("No, where is it?" in text for text in read)
    assert any("The conversation is over." in text for text in read)


def test_an_environment_counts_what_is_left_unanswered_and_begins_again(reader: Path) -> None:
    given = games(3, steps=3)
    env = conversation_environment(given)()
    for game, prompt in zip(given, prompts(given), strict=True):
        assert env.reset(prompt=prompt, conversation="a column of somebody else") is None
        assert env.get_reward() == 0.0
        assert env.answer("up.") == "No, where is it?"
        assert env.answer(f"{game.way}.") == "Right, where is it?"
        assert env.get_reward() == pytest.approx(10 / 3)
        assert env.answer(game.way) == "The conversation is over."
        assert env.get_reward() == pytest.approx(20 / 3)
        with pytest.raises(EpisodeError, match="no query to answer"):
            env.answer(game.way)
    with pytest.raises(ConfigError, match="make it with prompts_of"):
        env.reset()

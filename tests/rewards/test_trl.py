"""Rewards of TRL here, rewards of rxrl in TRL."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rxrl.errors import ConfigError, RewardError
from rxrl.rewards import Retention, from_trl, load_reward, samples, to_trl, trl_row
from rxrl.rewards.samples import sample_turn, saved
from rxrl.rewards.trl import RESERVED
from rxrl.scoring import score_turns

TURNS = [sample_turn(answer, extra={"solution": "cat"}) for answer in ("cat", "dog", "")]


def shorter(completions: list[str], **kwargs: Any) -> list[float]:
    """As TRL's documentation writes them: 0 to 1 by length."""
    return [1.0 / (1 + len(completion)) for completion in completions]


def solves(prompts: list[str], completions: list[str], solution: list[str], **kwargs: Any) -> list[float | None]:
    assert len(prompts) == len(completions) == len(solution) == len(kwargs["completion_ids"])
    return [float(right in answer) if answer else None for answer, right in zip(completions, solution, strict=True)]


def messages(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
    assert [message["role"] for message in prompts[0]] == ["user", "assistant", "user"]
    return [float(completion[0]["content"] == "cat") for completion in completions]


async def later(completions: list[str], reference: list[str], expected: list[dict[str, str]], **kwargs: Any) -> list[float]:
    return [float("cat" in completion) + 3 for completion in completions]


def values(reward: Any, turns: Any = TURNS) -> list[float | None]:
    return [score.value for score in score_turns(reward, turns)]


def test_functions_of_trl_run_unchanged() -> None:
    assert values(from_trl(shorter)) == pytest.approx([2.5, 2.5, 10.0])
    assert values(from_trl(solves)) == [10.0, 0.0, None]
    assert values(from_trl(messages, conversational=True)) == [10.0, 0.0, 0.0]
    assert values(from_trl(later, low=0, high=4)) == [10.0, 7.5, 7.5]
    renamed = from_trl(solves, columns={"solution": "reference"})
    assert values(renamed, [replace(turn, reference="cat") for turn in TURNS]) == [10.0, 0.0, None]
    assert values(pickle.loads(pickle.dumps(from_trl(shorter, high=2)))) == pytest.approx([1.25, 1.25, 5.0])


def test_they_are_named_in_yaml_like_other_rewards(tmp_path: Path) -> None:
    path = tmp_path / "theirs.py"
    path.write_text("def short(completions, **kwargs):\n    return [-float(len(c)) for c in completions]\n")
    reward = load_reward({"use": "from_trl", "function": f"{path}:short", "low": -4, "high": 0})
    assert values(reward) == [2.5, 2.5, 10.0]
    assert values(pickle.loads(pickle.dumps(reward))) == [2.5, 2.5, 10.0]
    mixed = load_reward({"retention": 1, "short": {"use": "from_trl", "function": f"{path}:short", "low": -4, "high": 0, "weight": 1}})
    assert values(mixed) == [6.25, 1.25, 5.0]


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(RewardError, match=r"shorter.* returned 0.25, not from low=0.5"):
        values(from_trl(shorter, low=0.5))
    with pytest.raises(RewardError, match=r"each of the 3 turns, but returned 1"):
        values(from_trl(lambda completions, **kwargs: [1.0]))
    with pytest.raises(ConfigError, match=r"column 'solution'.*Did you mean 'reference'"):
        values(from_trl(solves, columns={"solution": "referense"}))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_reward({"use": "from_trl", "function": "no.module:fn"})
    with pytest.raises(ConfigError, match="`high` must be above `low`"):
        load_reward({"use": "from_trl", "function": shorter, "low": 2})


@pytest.mark.parametrize("name", ["retention", "exact", "token_f1", "classic", "bleu"])
def test_our_rewards_score_the_same_in_trl(name: str) -> None:
    given = samples()
    function = to_trl(load_reward(name))
    rows = [trl_row(sample.turn) for sample in given]
    through = function(
        [row["prompt"] for row in rows], [sample.turn.answer for sample in given], completion_ids=[[1]] * len(given),
        turn=[row["turn"] for row in rows], trainer_state=None, log_metric=print,
    )  # fmt: skip
    assert through == values(load_reward(name), [sample.turn for sample in given])
    assert function.__name__ == name


def test_rows_are_texts_or_messages_and_leave_the_answer_out() -> None:
    turn = sample_turn("SECRET", saved=(saved("Mia has a cat.", "I see."),))
    row = trl_row(turn)
    assert row["prompt"] == "Mia has a cat.\nI see.\nWhat pet does Mia have?\n"
    assert "SECRET" not in json.dumps(row)
    roles = [(message["role"], message["content"]) for message in trl_row(turn, conversational=True)["prompt"]]
    assert roles == [("user", "Mia has a cat."), ("assistant", "I see."), ("user", "What pet does Mia have?")]


def test_columns_do_in_place_of_rows_and_messages_in_place_of_texts() -> None:
    function = to_trl(Retention())
    completions = [[{"role": "assistant", "content": answer}] for answer in ("cat", "dog")]
    columns = {
        "reference": ["Mia has a cat."] * 2,
        "expected": [{"mia.pet": "cat", "tom.pet": None}] * 2,
        "rivals": [{"mia.pet": ["dog", "fox"], "tom.pet": None}] * 2,
        "level": [1, 2],
    }
    prompts = [[{"role": "user", "content": "What pet does Mia have?"}]] * 2
    assert function(prompts, completions, **columns) == [10.0, 0.0]
    seen: list[Any] = []
    to_trl(lambda turns: (seen.extend(turns), [None for _ in turns])[1])(prompts, completions, **columns)
    assert [(turn.extra, turn.query, turn.asking) for turn in seen] == [({"level": n}, "What pet does Mia have?", True) for n in (1, 2)]


@pytest.mark.slow
def test_a_grpo_step_of_trl_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trl
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from rxrl.data import Tokenizer

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    turns = [sample.turn for sample in samples()[:4]]
    rows = [trl_row(turn) for turn in turns]
    own = Tokenizer.train([row["prompt"] for row in rows], 300)
    own.save(tmp_path)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tmp_path / "tokenizer.json"), pad_token="[PAD]", eos_token="[EOS]", bos_token="[BOS]"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    before = model.lm_head.weight.detach().clone()
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path / "grpo"), max_steps=1, per_device_train_batch_size=4, num_generations=4, max_completion_length=6,
        learning_rate=0.1, use_cpu=True, bf16=False, report_to=[], logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    # Random weights answer nonsense: how many letters come is a reward that differs from answer to answer.
    letters = to_trl(load_reward({"use": lambda turns: [min(10.0, len(turn.answer) / 4) for turn in turns]}))
    handed: set[str] = set()

    def note(completions: list[str], **given: Any) -> list[float]:
        handed.update(given)
        return [0.0] * len(completions)

    trainer = trl.GRPOTrainer(
        model=model,
        reward_funcs=[to_trl(Retention()), letters, note],
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    trainer.train()
    logged = next(line for line in trainer.state.log_history if "reward" in line)
    assert logged["rewards/retention/mean"] >= 0.0
    assert not torch.equal(before, model.lm_head.weight)
    # A name that a later version of TRL adds shows here.
    assert handed - {"turn"} <= RESERVED


def test_rewards_that_come_with_trl_run_here() -> None:
    reward = load_reward({"use": "from_trl", "function": "trl.rewards:think_format_reward", "conversational": True})
    turns = [sample_turn("<think>\nIt was a cat.\n</think>\ncat"), sample_turn("cat")]
    assert values(reward, turns) == [10.0, 0.0]


A = "assistant"
CALL = {"role": A, "tool_calls": [{"type": "function", "function": {"name": "look", "arguments": {}}}]}
TOOL = {"role": "tool", "name": "look", "content": "A cat."}


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("A cat.", "A cat."),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"role": A, "content": "A cat."}], "A cat."),
        ([{"content": "A cat."}], "A cat."),
        ([{"role": A, "content": None, "tool_calls": []}], ""),
        ([CALL], ""),
        ([{"role": A, "content": "I look it up."}, TOOL], "I look it up."),
        ([CALL, TOOL], ""),
        ([CALL, TOOL, {"role": A, "content": "It is a dog."}], "It is a dog."),
        ([CALL, TOOL, {"role": A, "content": "It is a dog."}, CALL, TOOL], ""),
        ([TOOL], ""),
        ([{"role": A, "content": "dog", "reasoning_content": "a cat, or a dog"}], "dog"),
        ([{"role": A, "content": [{"type": "text", "text": "A "}, {"type": "text", "text": "cat."}]}], "A cat."),
        ([{"role": A, "content": [{"type": "image", "image": object(), "text": None}, {"type": "text", "text": "cat"}, "s"]}], "cats"),
        ([{"role": A, "content": []}], ""),
    ],
)
def test_the_answer_is_what_the_assistant_said_last(completion: Any, answer: str) -> None:
    seen: list[str] = []
    function = to_trl(lambda turns: (seen.extend(turn.answer for turn in turns), [0.0 for _ in turns])[1])
    row = trl_row(sample_turn(""), conversational=True)
    function([row["prompt"]], [completion], turn=[row["turn"]])
    assert seen == [answer]


def test_the_query_is_what_the_user_said_last_though_trl_appends_the_tools() -> None:
    """TRL's loop over tools adds what was called and returned to the prompt itself."""
    seen: list[str] = []
    function = to_trl(lambda turns: (seen.extend(turn.query for turn in turns), [0.0 for _ in turns])[1])
    user = {"role": "user", "content": [{"type": "text", "text": "Which pet?"}]}
    function([[{"role": "system", "content": "Be brief."}, user, CALL, TOOL]], [[{"role": A, "content": "cat"}]])
    assert seen == ["Which pet?"]


@pytest.mark.parametrize(
    "completion", [7, [7], ["cat"], {"role": A, "content": "cat"}, [{"role": A, "content": 7}], [{"role": A, "content": [7]}]]
)
def test_what_is_no_completion_is_said(completion: Any) -> None:
    with pytest.raises(RewardError, match=r"is a text(,| or) a? ?list of (messages|parts).*, got"):
        to_trl(Retention())(["Which pet?"], [completion])


def test_trainers_hand_over_what_they_like_and_columns_what_they_hold() -> None:
    seen: list[Any] = []
    function = to_trl(lambda turns: (seen.extend(turns), [0.0 for _ in turns])[1])
    function(
        ["a", "b"], ["x", "y"], completion_ids=[[1], [2]], trainer_state=object(), log_extra=print, log_metric=print, environments=[1, 2],
        of_a_later_version=object(), prompt=["a", "b"], completion=["x", "y"], answer=["42", "43"], turn=[3, 4], reference=["r", None],
    )  # fmt: skip
    assert [turn.extra for turn in seen] == [{"answer": "42", "turn": 3}, {"answer": "43", "turn": 4}]
    assert [(turn.answer, turn.reference) for turn in seen] == [("x", "r"), ("y", "")]
    with pytest.raises(RewardError, match="column 'level' must have an entry for each of 2 completions, has 1"):
        function(["a", "b"], ["x", "y"], level=[1])
    with pytest.raises(RewardError, match=r"column 'expected' does not fit a turn .*got 'cat'.*rename it"):
        function(["a"], ["x"], expected=["cat"])


@pytest.mark.parametrize("column", ["prompt", "prompts", "completion", "completions", "completion_ids", "trainer_state", "log_metric"])
def test_columns_named_as_arguments_of_trl_are_left_out(column: str) -> None:
    handed: list[dict[str, Any]] = []

    def note(**given: Any) -> list[float]:
        handed.append(given)
        return [0.5 for _ in given["completions"]]

    turns = [sample_turn("cat", extra={column: "of the data set", "other": 1})]
    assert values(from_trl(note), turns) == [5.0]
    assert handed[0]["completions"] == ["cat"]
    assert handed[0]["other"] == [1]
    assert "of the data set" not in handed[0].values()
    assert not {"prompt", "completion", "answer"} & handed[0].keys()
    # Under another name it can be had.
    assert values(from_trl(note, columns={"theirs": column}), turns) == [5.0]
    assert handed[1]["theirs"] == ["of the data set"]
    with pytest.raises(ConfigError, match="cannot name a column 'completions'"):
        load_reward({"use": "from_trl", "function": note, "columns": {"completions": "other"}})


def test_what_trainers_have_beside_columns_is_there_or_said_to_be_missing() -> None:
    def logs(completions: list[str], log_metric: Any, log_extra: Any, trainer_state: Any = None, **kwargs: Any) -> list[float]:
        log_metric("length", 1.0)
        log_extra("seen", completions)
        return [float(trainer_state is None) for _ in completions]

    def needs(completions: list[str], trainer_state: Any, **kwargs: Any) -> list[float]:
        return [trainer_state.global_step for _ in completions]

    assert values(from_trl(logs)) == [10.0] * 3
    with pytest.raises(ConfigError, match="needs `trainer_state`, which only TRL's trainers have"):
        load_reward({"use": "from_trl", "function": needs})


@pytest.mark.parametrize(
    ("returned", "value"),
    [
        (np.float32(1) * np.float32(1.0000001), 10.0), (-1e-8, 0.0), (float("nan"), None), (np.float32("nan"), None), (None, None),
        (torch.tensor(float("nan")), None), (True, 10.0), (np.bool_(False), 0.0), (torch.tensor(0.5), 5.0), (np.int64(1), 10.0), (0, 0.0),
    ],
    ids=repr,
)  # fmt: skip
def test_numbers_are_read_as_trl_reads_them(returned: Any, value: float | None) -> None:
    assert values(from_trl(lambda completions, **kwargs: [returned for _ in completions])) == [value] * 3


def test_a_batch_of_numbers_may_be_an_array() -> None:
    assert values(from_trl(lambda completions, **kwargs: torch.tensor([0.0, 0.5, float("nan")]))) == [0.0, 5.0, None]
    assert values(from_trl(lambda completions, **kwargs: np.array([0.0, 0.5, 1.0], dtype=np.float16))) == [0.0, 5.0, 10.0]


@pytest.mark.parametrize("returned", [1.001, -0.01, float("inf"), "1.0", [1.0], 1j])
def test_what_is_no_such_number_is_said(returned: Any) -> None:
    with pytest.raises(RewardError, match=r"(not from low=0 to high=1|must return numbers or None)"):
        values(from_trl(lambda completions, **kwargs: [returned for _ in completions]))


def test_a_reward_for_trl_can_be_sent_to_another_process() -> None:
    """TRL's asynchronous workers are processes of their own, and refuse closures."""
    function = pickle.loads(pickle.dumps(to_trl(Retention())))
    row = trl_row(sample_turn(""))
    assert function([row["prompt"]], ["cat"], turn=[row["turn"]]) == [10.0]
    assert function.__name__ == "retention"


def test_a_generator_of_scores_and_one_for_every_row_are_told_apart() -> None:
    assert values(from_trl(lambda completions, **kwargs: (0.5 for _ in completions))) == [5.0] * 3
    with pytest.raises(RewardError, match="list with one score for each"):
        values(from_trl(lambda completions, **kwargs: 0.5))

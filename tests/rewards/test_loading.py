"""From a name, a path or a mapping to a reward; weights; and what is said when that fails."""

from __future__ import annotations

import asyncio
import functools
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from rxrl import registry
from rxrl.errors import ConfigError, RewardError, RxrlError
from rxrl.rewards import REWARDS, Weighted, load_reward, read_spec
from rxrl.scoring import score_turns
from rxrl.types import Turn
from tests.rewards.turns import make_turn

ROOT = Path(__file__).parents[2]
TURNS = [make_turn("Mia has a cat."), make_turn("dog")]
PLUG_IN = """
import asyncio
import functools
import time
from dataclasses import dataclass

from rxrl.types import Score


def constant(turns, level=4.0):
    return [level for _ in turns]


def broken(turns):
    raise ValueError("the judge is asleep")


def short(turns):
    return [1.0]


def nan(turns):
    return [float("nan") for _ in turns]


def high(turns):
    return [Score(5.0, {"part": 11.0}) for _ in turns]


def words(turns):
    return ["good" for _ in turns]


def generated(turns):
    for turn in turns:
        yield 10.0 / len(turn.answer.replace("dog", ""))


def exits(turns):
    raise SystemExit("no key")


def no_terms(turns):
    return [Score(5.0, None) for _ in turns]


def listed_terms(turns):
    return [Score(5.0, [1.0]) for _ in turns]


def keyed(turns):
    return {index: 5.0 for index, _ in enumerate(turns)}


def mixed(turns):
    return {5.0, 6.0}


async def later(turns):
    return [3.0 for _ in turns]


def hangs(turns):
    time.sleep(60)


async def hangs_later(turns):
    await asyncio.sleep(60)


def sometimes(turns):
    return [10.0 if "cat" in turn.answer else None for turn in turns]


@dataclass
class Level:
    level: float = 1.0

    def __call__(self, turns):
        return [self.level for _ in turns]


class Gone:
    def __init__(self):
        raise KeyError("key of the judge")


class Needy:
    def __init__(self, level):
        self.level = level


NUMBER = 5
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> str:
    path = tmp_path / "my_rewards.py"
    path.write_text(PLUG_IN)
    return str(path)


def values(reward: Any, turns: list[Turn] = TURNS) -> list[float | None]:
    return [score.value for score in score_turns(reward, turns)]


@pytest.mark.parametrize("name", ["retention", "classic", "bleu", "cosine", "exact", "token_f1", "length", "repetition", "format"])
def test_built_in_rewards_load_by_name_and_score_themselves_in_range(name: str) -> None:
    reward = load_reward(name)
    ids = {"answer_ids": (10, 11), "reference_ids": (10, 11, 12)}
    scores = values(reward, [make_turn("Mia has a cat.", **ids), make_turn("", **{**ids, "answer_ids": ()})])
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > scores[1]
    assert pickle.loads(pickle.dumps(reward))(TURNS) == reward(TURNS)


def test_exact_and_token_f1() -> None:
    turns = [make_turn(answer) for answer in ("mia has a CAT", "the cat", "Mia has a dog", "")]
    assert values(load_reward("exact"), turns) == [10.0, 10.0, 0.0, 0.0]
    assert values(load_reward("token_f1"), turns) == pytest.approx([10.0, 10 * 2 / 6, 10 * 6 / 8, 0.0])


def test_a_function_of_a_file_of_a_module_and_one_handed_over(plug_in: str) -> None:
    assert values(load_reward(f"{plug_in}:constant")) == [4.0, 4.0]
    assert values(load_reward({"use": f"{plug_in}:constant", "level": 2})) == [2.0, 2.0]
    assert values(load_reward(f"{plug_in}:Level")) == [1.0, 1.0]
    assert values(load_reward({"use": f"{plug_in}:Level", "level": 7.0})) == [7.0, 7.0]
    assert values(load_reward(f"{plug_in}:later")) == [3.0, 3.0]
    assert values(load_reward(lambda turns: [1 for _ in turns])) == [1.0, 1.0]
    assert values(load_reward("rxrl.rewards.simple:Exact")) == [10.0, 0.0]
    reward = load_reward(f"{plug_in}:constant")
    assert values(pickle.loads(pickle.dumps(reward))) == [4.0, 4.0]


def test_installed_packages_register_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint(name, f"rxrl.rewards.{place}", "rxrl.rewards") for name, place in (("strict", "simple:Exact"), ("gone", "no:One"))
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [entry for entry in entries if group == entry.group])
    assert {"strict", "gone"} < set(REWARDS.names())
    reward = load_reward("strict")
    assert values(reward) == [10.0, 0.0]
    assert values(pickle.loads(pickle.dumps(reward))) == [10.0, 0.0]
    with pytest.raises(ConfigError, match="'gone' of an installed package cannot be loaded: ModuleNotFoundError"):
        load_reward("gone")


def test_a_name_that_two_packages_register_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("polite", place, "rxrl.rewards") for place in ("two.rewards:fn", "one:fn")]
    monkeypatch.setattr(registry, "entry_points", lambda group: entries)
    with pytest.raises(ConfigError, match=r"'polite' is registered by several.* uninstall all but one.* one:fn and two"):
        load_reward("polite")


def test_rewards_take_what_is_handed_in_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "hungry.py"
    path.write_text("def eats(turns, embed=None):\n    return [2.0 if embed == 'food' else 1.0 for _ in turns]\n")
    assert values(load_reward(f"{path}:eats", embed="food", other="ignored")) == [2.0, 2.0]
    assert values(load_reward("exact", embed="food")) == [10.0, 0.0]

    def starves(turns, embed):
        return [3.0 if embed == "food" else 1.0 for _ in turns]

    for spec in (starves, {"use": starves}):
        assert values(load_reward(spec, embed="food")) == [3.0, 3.0]
    made = load_reward("classic")
    assert load_reward(made, embed="food") is made


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("retenton", "Did you mean 'retention'"),
        ("no.such.module:fn", "no.such.module:fn.*cannot be loaded.*ModuleNotFoundError"),
        ("missing.py:fn", r"missing.py:fn.*there is no file missing.py"),
        ("json:dumpz", "json.*dumpz.*Did you mean 'dump'"),
        ({"use": "classic", "decey": 1}, "classic.*decey.*Did you mean 'decay'"),
        ({"use": "classic", "decay": 3}, "classic.*decay.*less than 1.*3"),
        ({"retention": -1}, "retention.*at least 0.*-1"),
        ({"retention": 0, "length": 0}, "above 0"),
        ({"retention": "much"}, "retention.*much"),
        ({"retention": float("nan")}, "retention.*nan"),
        ({}, "must not be empty"),
        (5, "a name, a mapping or a function, got int"),
    ],
)
def test_a_broken_spec_gets_one_clear_sentence(spec: Any, message: str) -> None:
    with pytest.raises(RxrlError, match=f"(?s){message}") as caught:
        load_reward(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "ValueError: the judge is asleep"),
        ("short", "each of the 2 turns, but returned 1"),
        ("nan", r"\[0, 10\], but returned nan for turn 3 of conversation 'c'"),
        ("high", r"part.*\[0, 10\], but returned 11"),
        ("words", "numbers from 0 to 10.*'good'"),
        ("generated", r"failed on a batch of 2 turns: ZeroDivisionError: .*\.$"),
        ("exits", r"failed on a batch of 2 turns: SystemExit: no key\.$"),
        ("no_terms", "terms of a Score in a mapping.*got NoneType"),
        ("listed_terms", "terms of a Score in a mapping.*got list"),
        ("keyed", "list with one score for each turn, but returned dict"),
        ("mixed", "list with one score for each turn, but returned set"),
    ],
)
def test_a_plug_in_that_misbehaves_is_named(plug_in: str, name: str, message: str) -> None:
    for spec in (f"{plug_in}:{name}", {"retention": 1.0, "mine": {"use": f"{plug_in}:{name}", "weight": 0}}):
        with pytest.raises(RewardError, match=f"my_rewards.py:{name}.*{message}"):
            score_turns(load_reward(spec), TURNS)


@pytest.mark.parametrize("name", ["hangs", "hangs_later"])
def test_a_plug_in_that_hangs_is_ended_and_named(plug_in: str, name: str) -> None:
    given = f"{plug_in}:{name}"
    limited = {"use": given, "time_limit": 0.2}
    for reward in (
        load_reward(given, time_limit=0.2),
        load_reward(limited),
        load_reward({"retention": 1, "mine": {**limited, "weight": 0}}),
    ):
        with pytest.raises(RewardError, match=f"my_rewards.py:{name}.*2 turns within its time_limit of 0.2 s"):
            score_turns(reward, TURNS)


def test_scores_may_come_from_a_generator(plug_in: str) -> None:
    assert values(load_reward(f"{plug_in}:generated"), [make_turn("a pet")] * 2) == [2.0, 2.0]


def test_a_reward_cannot_take_turns_away_from_the_others() -> None:
    def clears(turns):
        turns.clear()
        return []

    given = list(TURNS)
    with pytest.raises(RewardError, match="each of the 2 turns, but returned 0") as caught:
        score_turns(clears, given)
    assert list(caught.value.turns) == given == TURNS


def test_a_time_limit_changes_nothing_else(plug_in: str) -> None:
    assert values(load_reward({"use": f"{plug_in}:later", "time_limit": 30})) == [3.0, 3.0]
    for seconds in (float("inf"), 1e300):
        assert values(load_reward({"use": f"{plug_in}:later", "time_limit": seconds})) == [3.0, 3.0]
    limited = load_reward({"use": f"{plug_in}:broken", "time_limit": 30})
    with pytest.raises(RewardError, match=r"my_rewards.py:broken.*the judge is asleep"):
        score_turns(pickle.loads(pickle.dumps(limited)), TURNS)
    with pytest.raises(ConfigError, match=r"constant.*number of seconds above 0, got 0"):
        load_reward({"use": f"{plug_in}:constant", "time_limit": 0})


def test_an_error_holds_the_turns_that_were_to_be_scored(plug_in: str) -> None:
    for spec in (f"{plug_in}:broken", {"retention": 1, "mine": {"use": f"{plug_in}:nan", "weight": 0}}):
        with pytest.raises(RewardError) as caught:
            score_turns(load_reward(spec), TURNS)
        assert caught.value.turns == tuple(TURNS)


def test_asynchronous_rewards_score_where_a_loop_runs_already(plug_in: str) -> None:
    async def notebook() -> list[float | None]:
        return values(load_reward(f"{plug_in}:later"))

    assert asyncio.run(notebook()) == [3.0, 3.0]


def test_other_processes_load_a_plug_in_anew(plug_in: str, tmp_path: Path) -> None:
    rewards = [load_reward({"use": f"{plug_in}:{name}", "level": 6.0}) for name in ("constant", "Level")]
    (tmp_path / "rewards.pickle").write_bytes(pickle.dumps((rewards, TURNS)))
    program = "import pickle, sys; rewards, turns = pickle.load(open(sys.argv[1], 'rb')); print([list(r(turns)) for r in rewards])"
    command = [sys.executable, "-c", program, str(tmp_path / "rewards.pickle")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[[6.0, 6.0], [6.0, 6.0]]"


def test_a_spec_is_read_as_it_is_written_on_a_command_line(tmp_path: Path) -> None:
    assert read_spec("retention") == "retention"
    assert read_spec("{retention: 1, length: 0.5}") == {"retention": 1, "length": 0.5}
    (tmp_path / "own.yaml").write_text("seed: 3\nreward: {use: classic, decay: 0.3}\n")
    assert read_spec(str(tmp_path / "own.yaml")) == {"use": "classic", "decay": 0.3}
    for wrong, message in ((str(tmp_path / "no.yaml"), "There is no file"), ("{a: [", "not valid YAML"), ("{reward: 3}", "got int")):
        with pytest.raises(ConfigError, match=message):
            read_spec(wrong)


def test_a_spec_is_read_like_every_configuration(tmp_path: Path) -> None:
    assert read_spec("{retention: 1, length: 1e-1}") == {"retention": 1, "length": 0.1}
    (tmp_path / "twice.yaml").write_text("reward:\n  length: 1\n  length: 0\n")
    with pytest.raises(ConfigError, match=r"twice.yaml, line 3: not valid YAML: key 'length' is given twice; keep one of the two\.$"):
        read_spec(str(tmp_path / "twice.yaml"))


def test_what_is_no_function_and_unknown_options_are_refused(plug_in: str) -> None:
    with pytest.raises(RewardError, match=r"NUMBER.*must be a function or a class, but is int"):
        load_reward(f"{plug_in}:NUMBER")
    with pytest.raises(ConfigError, match=r"Gone' cannot be made, called with no options: KeyError: 'key of the judge'\.$"):
        load_reward({"retention": 1, "mine": {"use": f"{plug_in}:Gone"}})
    with pytest.raises(ConfigError, match=r"Needy' cannot be made, called with no options: TypeError: .*'level'\.$"):
        load_reward(f"{plug_in}:Needy")
    with pytest.raises(ConfigError, match=r"levl.*Did you mean 'level'"):
        load_reward({"use": f"{plug_in}:constant", "levl": 1})


def test_weights_are_normalised_zero_only_logs_and_none_drops_out(plug_in: str) -> None:
    spec = {"exact": 3, "none": {"use": f"{plug_in}:sometimes", "weight": 1}, "fixed": {"use": f"{plug_in}:constant", "weight": 0}}
    reward = load_reward(spec)
    assert isinstance(reward, Weighted)
    turns = [make_turn("the cat sat"), make_turn("cat"), make_turn("dog")]
    scores = score_turns(reward, turns)
    assert [score.value for score in scores] == [pytest.approx(2.5), 10.0, 0.0]
    assert [score.terms["none"] for score in scores] == [10.0, 10.0, None]
    assert {score.terms["fixed"] for score in scores} == {4.0}
    nothing = load_reward({"none": {"use": f"{plug_in}:sometimes"}})
    assert values(nothing) == [10.0, None]


def test_terms_of_terms_keep_their_names() -> None:
    [score] = load_reward({"retention": 1.0, "length": 0})([make_turn("cat")])
    assert set(score.terms) == {"retention", "retention.held", "retention.form", "retention.gate", "length"}


def test_an_empty_batch_is_not_handed_to_the_function() -> None:
    assert score_turns(lambda turns: pytest.fail("called"), []) == []


def test_what_a_decorator_supplies_is_no_missing_option() -> None:
    def supplied(function):
        @functools.wraps(function)
        def inner(turns):
            return function(turns, limit=3.0)

        return inner

    @supplied
    def brief(turns, limit):
        return [limit] * len(turns)

    def needy(turns, limit):
        return [limit] * len(turns)

    assert load_reward({"use": brief})([1, 2]) == [3.0, 3.0]
    with pytest.raises(ConfigError, match="needs the option 'limit'"):
        load_reward({"use": needy})
    assert load_reward({"use": needy, "limit": 2.0})([1]) == [2.0]

"""The environment for verifiers: its tasks, and a whole conversation with an agent that stands in for a model."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rxrl.data.rows import write_conversations
from rxrl.data.world import GeneratedSource
from rxrl.envs.scenarios import load
from rxrl.errors import RxrlError
from rxrl.integrations.dialogues import Dialogues
from rxrl.seeding import Draws
from tests import skips
from tests.pages import DOCS, blocks, commands, table

vf = pytest.importorskip("verifiers.v1", reason=skips.VERIFIERS)

Answer = Callable[[Sequence[str]], str]
"""From what was said so far, the query last, to the answer."""


class Interaction:
    """What an agent of verifiers opens, without a model: an answer for each turn, up to a limit."""

    def __init__(self, task: Any, answer: Answer, limit: int) -> None:
        self.said = [message.content for message in task.data.prompt]
        self.answer, self.limit, self.trace = answer, limit, Trace()

    async def turn(self, message: str | None = None) -> SimpleNamespace:
        """Says a query and hears its answer; without one, the prompt's."""
        self.said += [] if message is None else [message]
        self.limit -= 1
        if self.limit < 0:
            return SimpleNamespace(terminated=True, last_reply="")
        reply = self.answer(self.said)
        self.said.append(reply)
        return SimpleNamespace(terminated=False, last_reply=reply)


class Trace:
    """What a run leaves."""

    def __init__(self) -> None:
        self.info, self.rewards, self.metrics = dict[str, Any](), dict[str, float](), dict[str, float]()

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        self.rewards[name] = value * weight

    def record_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value


def opened(**settings: Any) -> Any:
    """The environment as verifiers makes it."""
    return vf.load_environment(vf.resolve_env_config({"taskset": {"id": "rxrl_verifiers", **settings}}))


def played(env: Any, task: Any, answer: Answer, limit: int = 100) -> Interaction:
    """A conversation of a task."""
    found = []

    @asynccontextmanager
    async def interaction(task: Any) -> AsyncIterator[Interaction]:
        found.append(Interaction(task, answer, limit))
        yield found[0]

    asyncio.run(env.run(task, SimpleNamespace(player=SimpleNamespace(interaction=interaction))))
    return found[0]


def best(said: Sequence[str]) -> str:
    """The best player of `preferences`."""
    pairs = tuple(zip(said[:-1:2], said[1::2], strict=True))
    return load("preferences").game.best(1, said[-1], pairs, Draws(0, len(said), said[-1]))


def test_tasks_begin_as_the_conversations_do():
    env = opened(conversations="scenario:preferences", steps=3, count=5, seed=4)
    tasks = list(env.taskset)
    games = load("preferences", seed=4).take(steps=3, count=5)
    assert [task.data.id for task in tasks] == [game.id for game in games]
    expected = [[message["content"] for message in each] for each in Dialogues(games, seed=4).openings()]
    assert [[message.content for message in task.data.prompt] for task in tasks] == expected
    assert [message.role for message in tasks[0].data.prompt] == ["user", "assistant", "user"]
    assert tasks[1].data.prompt != tasks[2].data.prompt or tasks[0].data.prompt != tasks[1].data.prompt
    assert json.loads(tasks[0].data.model_dump_json())["id"] == games[0].id


def test_the_best_player_earns_what_the_scenario_says():
    env = opened(conversations="scenario:preferences", steps=12, count=60)
    means = []
    for task in env.taskset:
        trace = played(env, task, best).trace
        rewards = trace.info["turn_rewards"]
        assert len(rewards) == 12
        assert trace.metrics["mean_reward"] == pytest.approx(sum(rewards) / 12)
        assert trace.rewards["score"] == pytest.approx(trace.metrics["mean_reward"] / 10)
        means.append(trace.metrics["mean_reward"])
    assert sum(means) / len(means) == pytest.approx(6.4, abs=0.5)


def test_turns_that_were_not_answered_earn_nothing():
    env = opened(conversations="scenario:instructions", steps=6, count=1)
    [task] = env.taskset
    found = played(env, task, lambda said: "yes", limit=2)
    assert found.trace.info["turn_rewards"][2:] == [0.0] * 4
    assert len(found.said) == 2 + 2 * 2 + 1
    again = played(env, task, lambda said: "yes", limit=2)
    assert again.said == found.said


def test_a_file_of_conversations_is_scored_by_its_references(tmp_path: Path):
    rows = GeneratedSource(level=1, seed=0, split="train").take(steps=4, strategy="multi-step", start=0, count=3)
    write_conversations(tmp_path / "rows.jsonl", rows)
    env = opened(conversations=str(tmp_path / "rows.jsonl"), max_answer_tokens=40)
    references = {turn.query: turn.answer for row in rows for turn in row.interactions}
    for task in env.taskset:
        assert played(env, task, lambda said: references[said[-1]]).trace.rewards == {"score": pytest.approx(1.0)}
    dull = [played(env, task, lambda said: "no").trace.metrics["mean_reward"] for task in env.taskset]
    assert max(dull) < 5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conversations": "no.jsonl"}, "no file"),
        ({"conversations": "no.jsonl", "steps": 3}, "steps"),
        ({"conversations": "scenario:nothing"}, "nothing"),
        ({"steps": 0}, "steps"),
        ({"level": 9}, "level"),
        ({"reward": "nothing"}, "nothing"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises((RxrlError, ValueError), match=message):
        opened(**settings)


def test_the_page_is_right():
    page = DOCS / "guides" / "verifiers.md"
    [snippet] = [block for block in blocks(page) if block.language == "python"]
    space: dict[str, Any] = {}
    exec(compile(snippet.text, page.name, "exec"), space)
    assert len(space["tasks"]) == 100
    [command] = commands(page)
    named = re.findall(r"--env\.taskset\.(\w+)", command)
    fields = type(space["environment"].taskset.config).model_fields
    assert set(named) <= set(fields)
    own = set(fields) - set(vf.TasksetConfig.model_fields)
    assert set(table(page, "| setting |")) == own

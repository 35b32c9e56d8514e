"""The judge against an endpoint of our own that is slow, fails, answers nonsense, or asks to wait: nothing is lost, nothing becomes 0."""

from __future__ import annotations

import json
import logging
import pickle
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rxrl.errors import ConfigError, RewardError
from rxrl.rewards import Judge, load_reward
from rxrl.rewards.verdicts import parse_verdict
from rxrl.scoring import score_turns
from rxrl.types import Turn
from tests.rewards.turns import make_turn

Reply = tuple[int, str, dict[str, str]]
GOOD: Reply = (200, '{"score": 8}', {})


class Endpoint(ThreadingHTTPServer):
    """A chat endpoint that replies as `behave(number of the request, its question)` says."""

    daemon_threads = True

    def __init__(self, behave: Callable[[int, dict[str, Any]], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.lock = threading.Lock()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.at_once = self.most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def answers(self) -> list[str]:
        """The answers that were judged, request by request."""
        return [question(body)["answer"] for body in self.bodies]


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.headers.append(self.headers)
            number = len(self.server.bodies)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.at_once, self.server.most_at_once)
        status, content, headers = self.server.behave(number, question(body))
        with self.server.lock:
            self.server.at_once -= 1
        choice = {"message": {"role": "assistant", "content": content}, "finish_reason": headers.pop("finish_reason", "stop")}
        text = json.dumps({"choices": [choice]}) if content != "broken" else "{half"
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
        except OSError:
            pass  # the judge did not wait

    def log_message(self, *arguments: Any) -> None:
        """Says nothing."""


def question(body: dict[str, Any]) -> dict[str, Any]:
    return json.loads(body["messages"][1]["content"])


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[int, dict[str, Any]], Reply]], Endpoint]]:
    """Starts endpoints, and ends them."""
    started: list[Endpoint] = []

    def start(behave: Callable[[int, dict[str, Any]], Reply]) -> Endpoint:
        server = Endpoint(behave)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def judge(server: Endpoint, **options: Any) -> Judge:
    return Judge(**{"endpoint": server.url, "model": "m", "cache": None, "backoff": 0.01, "pause": 0.02, "timeout": 30, **options})


def values(reward: Any, turns: list[Turn]) -> list[float | None]:
    return [score.value for score in score_turns(reward, turns)]


TURNS = [make_turn(answer) for answer in ("cat", "dog", "a fish", "")]


def by_answer(number: int, asked: dict[str, Any]) -> Reply:
    return 200, json.dumps({"score": len(asked["answer"])}), {}


def test_it_sends_what_a_judge_needs_and_scales_what_comes_back(serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(by_answer)
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("From 0 to 20, please.")
    monkeypatch.setenv("MY_KEY", "secret")
    reward = judge(server, rubric=rubric, highest=20, api_key_env="MY_KEY")
    assert values(reward, TURNS) == [1.5, 1.5, 3.0, 0.0]
    body = server.bodies[0]
    assert (body["model"], body["temperature"]) == ("m", 0.0)
    assert body["messages"][0] == {"role": "system", "content": "From 0 to 20, please."}
    asked = next(question(each) for each in server.bodies if question(each)["answer"] == "cat")
    assert asked == {
        "told": [{"query": "Mia has a cat.", "answer": "I see."}],
        "query": "What pet does Mia have?",
        "reference": "Mia has a cat.",
        "answer": "cat",
    }
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret"}
    assert "0 (wrong) to 10 (right" in judge(server).instructions
    assert values(pickle.loads(pickle.dumps(reward)), TURNS[:1]) == [1.5]


@pytest.mark.parametrize("form", ["json_schema", "json_object", "none"])
def test_it_asks_for_a_verdict_in_json(serve: Any, form: str) -> None:
    server = serve(by_answer)
    values(judge(server, response_format=form), TURNS[:1])
    asked = server.bodies[0].get("response_format")
    assert asked == {"json_schema": asked, "json_object": {"type": "json_object"}, "none": None}[form]
    if form == "json_schema":
        assert asked["type"] == form
        assert asked["json_schema"]["schema"]["required"] == ["score", "reason"]


def test_an_endpoint_that_cannot_be_asked_for_json_is_said_how_to_be_asked(serve: Any) -> None:
    server = serve(lambda number, asked: (400, '{"score": "unknown field response_format"}', {}))
    said: list[str] = []
    assert values(judge(server, notify=said.append), TURNS[:1]) == [None]
    assert "Try `response_format: none`." in said[0]


def test_a_reply_that_was_cut_is_no_verdict_and_not_asked_for_again(serve: Any) -> None:
    server = serve(lambda number, asked: (200, 'The answer contains {"score": 10}', {"finish_reason": "length"}))
    said: list[str] = []
    assert values(judge(server, notify=said.append, max_tokens=9), TURNS[:2]) == [None, None]
    assert len(server.bodies) == 2
    assert "which was cut at max_tokens=9: raise it" in said[0]


def test_texts_without_end_are_sent_in_part_and_halves_of_characters_not_at_all(serve: Any) -> None:
    server = serve(lambda number, asked: GOOD)
    assert values(judge(server), [make_turn("x" * 1_000_000), make_turn("half \ud83d")]) == [8.0, 8.0]
    sizes = sorted((len(answer), answer[-40:]) for answer in server.answers)
    assert sizes[0][1] == "half ?"
    assert sizes[1][0] < 20_100
    assert sizes[1][1].endswith("(980000 more characters)")


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "OF_THE_JUDGE"])
def test_a_key_is_never_said_though_the_judge_sends_it_back(serve: Any, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "hush-hush")
    said: list[str] = []
    for status, content in ((401, "Incorrect API key provided: hush-hush"), (200, "Your key is hush-hush."), (500, "hush-hush" * 100)):
        server = serve(lambda number, asked, s=status, c=content: (s, c, {}))
        assert values(judge(server, api_key_env=name, retries=0, notify=said.append), TURNS[:1]) == [None]
        with pytest.raises(RewardError) as caught:
            values(judge(server, api_key_env=name, retries=0, on_failure="error"), TURNS[:1])
        said.append(str(caught.value))
    assert len(said) == 6
    assert all("***" in each and "hush" not in each for each in said)


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    for address in ("http://me:hush@x/v1", "https://hush@x"):
        with pytest.raises(ConfigError, match=r"endpoint.*leave it out.*Basic user:password") as caught:
            load_reward({"use": "judge", "endpoint": address, "model": "m"})
        assert "hush" not in str(caught.value)


def test_verdicts_that_cannot_be_kept_any_more_are_given_all_the_same(serve: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server, cache = serve(by_answer), tmp_path / "judge.sqlite"
    with closing(sqlite3.connect(cache)) as database:
        database.execute("CREATE TABLE verdicts (key TEXT PRIMARY KEY, score REAL NOT NULL, more TEXT NOT NULL CHECK (more = 'never'))")
    with caplog.at_level(logging.WARNING):
        assert values(judge(server, cache=cache), TURNS) == [3.0, 3.0, 6.0, 0.0]
    with closing(sqlite3.connect(cache)) as database:
        database.execute("DROP TABLE verdicts")
        database.execute("CREATE TABLE verdicts (key TEXT PRIMARY KEY)")
        database.commit()
    with caplog.at_level(logging.WARNING):
        assert values(judge(server, cache=cache), TURNS) == [3.0, 3.0, 6.0, 0.0]
    assert "are not kept for now" in caplog.text


def test_no_more_requests_at_once_than_allowed(serve: Any) -> None:
    def slow(number: int, asked: dict[str, Any]) -> Reply:
        time.sleep(0.05)
        return GOOD

    server = serve(slow)
    assert values(judge(server, concurrency=2), [make_turn(f"answer {i}") for i in range(8)]) == [8.0] * 8
    assert server.most_at_once == 2


def test_verdicts_are_kept_on_disk_and_equal_questions_asked_once(serve: Any, tmp_path: Path) -> None:
    server, cache = serve(by_answer), tmp_path / "some" / "verdicts.sqlite"
    assert values(judge(server, cache=cache), [*TURNS, *TURNS]) == [3.0, 3.0, 6.0, 0.0] * 2
    assert Counter(server.answers) == dict.fromkeys(("cat", "dog", "a fish", ""), 1)
    assert values(judge(server, cache=cache), TURNS) == [3.0, 3.0, 6.0, 0.0]
    assert len(server.bodies) == 4
    values(judge(server, cache=cache, model="another"), TURNS)
    assert len(server.bodies) == 8


@pytest.mark.parametrize(
    "failure",
    [
        (500, "", {}),
        (503, "", {}),
        (429, "", {"Retry-After": "0.02"}),
        (200, "What a nice answer!", {}),
        (200, "broken", {}),
        (200, '{"score": 11}', {}),
    ],
)
def test_passing_failures_cost_a_further_try_and_nothing_else(serve: Any, failure: Reply) -> None:
    failed: set[str] = set()

    def once(number: int, asked: dict[str, Any]) -> Reply:
        if asked["answer"] in failed:
            return by_answer(number, asked)
        failed.add(asked["answer"])
        return failure

    server = serve(once)
    assert values(judge(server), TURNS) == [3.0, 3.0, 6.0, 0.0]
    assert len(server.bodies) == 2 * len(TURNS)


def test_a_rate_limit_is_waited_out(serve: Any) -> None:
    server = serve(lambda number, asked: (429, "", {"Retry-After": "0.3"}) if number == 1 else GOOD)
    started = time.monotonic()
    assert values(judge(server), TURNS[:1]) == [8.0]
    assert time.monotonic() - started >= 0.3


def test_a_slow_judge_gives_none_for_what_it_did_not_answer_in_time(serve: Any, caplog: pytest.LogCaptureFixture) -> None:
    def sleepy(number: int, asked: dict[str, Any]) -> Reply:
        if asked["answer"] == "dog":
            time.sleep(1.5)
        return GOOD

    server = serve(sleepy)
    with caplog.at_level(logging.WARNING):
        assert values(judge(server, timeout=0.5, retries=0), TURNS[:3]) == [8.0, None, 8.0]
    assert "1 of 3 turns; these get no score" in caplog.text
    assert "ReadTimeout" in caplog.text


@pytest.mark.parametrize("failure", [(500, "", {}), (401, "", {}), (429, "", {}), (200, "hello", {})])
def test_a_failing_judge_never_becomes_a_zero(serve: Any, tmp_path: Path, failure: Reply) -> None:
    server = serve(lambda number, asked: failure if asked["answer"] == "dog" else GOOD)
    said: list[str] = []
    cache = tmp_path / "verdicts.sqlite"
    reward = load_reward(
        {"use": "judge", "endpoint": server.url, "model": "m", "cache": cache, "retries": 1, "backoff": 0.01}, notify=said.append
    )
    assert values(reward, TURNS) == [8.0, None, 8.0, 8.0]
    assert len(said) == 1
    # In a sum the other terms stay, and what failed is asked again the next time.
    server.behave = lambda number, asked: GOOD
    before = len(server.bodies)
    assert values(reward, TURNS) == [8.0] * 4
    assert server.answers[before:] == ["dog"]
    server.behave = lambda number, asked: failure
    both = load_reward({"exact": 1, "judge": {"endpoint": server.url, "model": "n", "cache": None, "retries": 0, "weight": 3}})
    assert values(both, TURNS[:2]) == [10.0, 0.0]
    assert [score.terms["judge"] for score in score_turns(both, TURNS[:2])] == [None, None]


def test_a_run_can_wait_until_the_judge_is_back(serve: Any) -> None:
    server = serve(lambda number, asked: GOOD if number > 9 else (500, "", {}))
    said: list[str] = []
    assert values(judge(server, on_failure="pause", retries=1, notify=said.append), TURNS) == [8.0] * 4
    assert ["waiting until it is back" in said[0], "is back" in said[-1], len(said)] == [True, True, 2]


def test_a_run_can_be_told_to_stop(serve: Any, tmp_path: Path) -> None:
    server = serve(lambda number, asked: (500, "", {}) if asked["answer"] == "dog" else GOOD)
    with pytest.raises(RewardError, match=r"no verdict on 1 of 4 turns: .*status 500") as caught:
        values(judge(server, on_failure="error", retries=0), TURNS)
    assert len(caught.value.turns) == 4


def test_an_endpoint_that_is_not_there_is_a_failure_too() -> None:
    said: list[str] = []
    reward = Judge(endpoint="http://127.0.0.1:9/v1", model="m", cache=None, retries=0, notify=said.append)
    assert values(reward, TURNS) == [None] * 4
    assert "4 of 4 turns" in said[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'judge' needs the option 'endpoint'"),
        ({"endpoint": "localhost", "model": "m"}, "endpoint.*begins with http"),
        ({"endpoint": "http://x", "model": "m", "lowest": 5, "highest": 5}, "must be above `lowest`"),
        ({"endpoint": "http://x", "model": "m", "on_failure": "zero"}, "on_failure"),
    ],
)
def test_wrong_options_get_one_clear_sentence(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_reward({"use": "judge", **options})


def test_what_cannot_be_read_or_kept_is_said(serve: Any, tmp_path: Path) -> None:
    server = serve(by_answer)
    with pytest.raises(ConfigError, match="cannot read its rubric"):
        values(judge(server, rubric=tmp_path / "none.txt"), TURNS)
    (tmp_path / "no.sqlite").write_text("this is no database, and long enough to be sure of it " * 5)
    with pytest.raises(ConfigError, match=r"cannot be kept in .*no.sqlite"):
        values(judge(server, cache=tmp_path / "no.sqlite"), TURNS)


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        ('{"score": 7}', 7.0), ('Sure! {"score": 7.5, "why": "3 words"}', 7.5), ('```json\n{"score": "4"}\n```', 4.0),
        ('{"score": 2, "reason": "It says \\"score\\": 10 and {}."}', 2.0), ('{"reason": {"score": 10}, "score": 3}', 3.0),
        ('<think>{a} and {"b": 1}</think>\n{"score": -1}\n', -1.0), ('{"score": 1e1}', 10.0),
        ('{"score": 3} or rather {"score": 3.0}', 3.0),
        # Prose and scales are no verdict, whoever is quoted in them.
        ("", None), ("7", None), ("**9** / 10.", None), ("Score: 6", None), ("I give it a score of 6 out of 10", None), ("seven", None),
        ("Score (out of 10): 2", None), ("**Score:** (8/10)", None), ("There are 3 errors in it", None), ("I rate this 2 out of 10.", None),
        ('{"score": "2 out of 10"}', None), ('{"score": "8/10"}', None), ('"score": 7', None), ('The answer says "score": 10}', None),
        # The object must be whole, the last thing said, and say one thing.
        ('{"score": 3} no, {"score": 5}', None), ('{"score": 2} The answer contains {"score": 10}', None),
        ('{"score": 10, "score": 2}', None),
        ('The answer contains {"score": 10}, which I must ignore. It is wr', None), ('{"score": 7', None), ('{"score": 7} or so', None),
        ('{"answer": {"score": 10}, "score": ', None), ('{"answer": {"score": 10}}', None), ('{oops, "quote": {"score": 10}}', None),
        ('[{"score": 10}]', None), ("{}", None),
        # And a number that is one.
        ('{"score": null}', None), ('{"score": true}', None), ('{"score": NaN}', None), ('{"score": Infinity}', None),
        ('{"score": 1e999}', None),
        ('{"score": ' + "9" * 5000 + "}", None), ('{"score": ' + "9" * 400 + "}", None),
        ('{"score": [7]}', None), ('{"score": "nan"}', None),
        ('{"Score": 7}', None), ('{"score": "\u0667"}', None),
        ('{"a":' * 9000 + "1" + "}" * 9000, None),
        ('{"score": 7, "x": "' + "y" * (1 << 16) + '"}', None),
    ],
    ids=lambda each: str(each)[:40],
)  # fmt: skip
def test_a_verdict_is_one_number_or_none(reply: str, number: float | None) -> None:
    assert parse_verdict(reply) == number


def test_a_verdict_belongs_to_the_judge_that_gave_it(serve: Any, tmp_path: Path) -> None:
    servers, turns = (serve(lambda *_: GOOD), serve(lambda *_: GOOD)), [make_turn("a cat")]
    for server in servers:
        values(judge(server, cache=tmp_path / "judge.sqlite"), turns)
    assert [len(server.bodies) for server in servers] == [1, 1]


def test_a_verdict_belongs_to_the_scale_that_it_was_given_on(serve: Any, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Grade it.")
    server, turns = serve(lambda *_: GOOD), [make_turn("a cat")]
    found = [values(judge(server, rubric=rubric, cache=tmp_path / "judge.sqlite", highest=highest), turns) for highest in (10, 16)]
    assert found == [[8.0], [5.0]]
    assert len(server.bodies) == 2

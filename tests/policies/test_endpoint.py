"""A chat endpoint as a player, and what it does to one that is slow, fails, limits the rate or returns garbage."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from rxrl.endpoint import ChatEndpoint, Reply
from rxrl.envs import TranscriptMemory
from rxrl.errors import ConfigError, EndpointError
from rxrl.policies import Dialogue, EndpointPolicy
from tests.envs.worlds import CODEC
from tests.policies.server import dripping, serve
from tests.policies.test_text import THREE, make, played

HELLO = [[{"role": "user", "content": "Hello?"}]]


def ask(url: str, count: int = 1, **options: Any) -> list[str | EndpointError]:
    endpoint = ChatEndpoint(url, **{"backoff": 0.01, **options})
    return texts(endpoint.complete(HELLO * count, [{"temperature": 0.0}] * count))


def texts(replies: list[Reply | EndpointError]) -> list[str | EndpointError]:
    return [each.text if isinstance(each, Reply) else each for each in replies]


def test_it_sends_the_transcript_and_plays_what_comes_back() -> None:
    with serve(lambda number, body: f" Echo: {body['messages'][-1]['content']}\n") as server:
        policy = EndpointPolicy(ChatEndpoint(server.url, key="secret"), CODEC, system="Be brief.", max_tokens=9)
        infos = played(make(TranscriptMemory()), policy)
    longest = THREE[2]
    assert [info["turns"][2].answer for info in infos] == [f"Echo: {turn.query}" for turn in longest.follow_ups]
    last = server.requests[-1]
    assert (last["model"], last["max_tokens"], last["temperature"]) == ("first-model", 9, 0.0)
    assert "seed" not in last
    assert [message["content"] for message in last["messages"]] == [
        "Be brief.",
        *(longest.first.query, longest.first.answer),
        *(text for turn in longest.follow_ups[:3] for text in (turn.query, f"Echo: {turn.query}")),
        longest.follow_ups[3].query,
    ]
    assert set(server.keys) == {"Bearer secret"}


def test_sampled_answers_send_the_seeds_of_their_rows() -> None:
    with serve(lambda number, body: "x") as server:
        policy = EndpointPolicy(ChatEndpoint(server.url, "mine", concurrency=1), CODEC, temperature=0.7)
        policy.answer([Dialogue("a"), Dialogue("b")], [torch.Generator().manual_seed(seed) for seed in (5, 2**40 + 6)])
    assert [(body["seed"], body["temperature"], body["model"]) for body in server.requests] == [(5, 0.7, "mine"), (6, 0.7, "mine")]


@pytest.mark.parametrize(
    "bad",
    [
        (429, {"Retry-After": "0.01"}, "slow down"),
        (503, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, "busy"),
        (200, {}, "<html>not json"),
        (200, {}, "{}"),
        (200, {}, '{"choices": [{"message": {"content": null}}]}'),
        0.6,
    ],
)
def test_what_fails_is_tried_again(bad: Any) -> None:
    with serve(lambda number, body: bad if number < 2 else "fine") as server:
        assert ask(server.url, timeout=0.3) == ["fine"]
    assert len(server.requests) == 3


def test_what_keeps_failing_is_an_error_for_its_conversation_alone() -> None:
    seen = threading.Lock()

    def sometimes(number: int, body: Any) -> Any:
        with seen:
            return (500, {}, "broken") if body["temperature"] else "fine"

    with serve(sometimes) as server:
        endpoint = ChatEndpoint(server.url, retries=2, backoff=0.0)
        found = texts(endpoint.complete(HELLO * 3, [{"temperature": 0.0}, {"temperature": 1.0}, {"temperature": 0.0}]))
        assert found[0] == found[2] == "fine"
        assert "gave no answer in 3 tries (status 500: 'broken')" in str(found[1])
        assert len(server.requests) == 5
        policy = EndpointPolicy(endpoint, CODEC)
        with pytest.raises(EndpointError, match="status 500"):
            policy.answer([Dialogue("a")], [torch.Generator()])


def test_what_is_refused_is_not_tried_again() -> None:
    with serve(lambda number, body: (401, {}, "who are you?")) as server:
        (found,) = ask(server.url)
    assert "refused the request (status 401: 'who are you?')" in str(found)
    assert len(server.requests) == 1


def test_no_more_than_the_allowed_number_are_under_way_at_once() -> None:
    with serve(lambda number, body: 0.05) as server:
        assert ask(server.url, 9, concurrency=3) == ["late"] * 9
    assert 1 < server.most <= 3


def test_an_endpoint_that_is_not_there_says_so() -> None:
    (found,) = ask("http://127.0.0.1:9/v1", retries=1)
    assert "http://127.0.0.1:9/v1 gave no answer in 2 tries" in str(found)
    assert ask("http://127.0.0.1:9/v1", 0) == []


def test_wrong_settings_are_refused_and_the_key_is_never_shown() -> None:
    with pytest.raises(ConfigError, match="begins with http"):
        ChatEndpoint("localhost:8000")
    with pytest.raises(ConfigError, match=r"concurrency of at least 1 .*got 60\.0, 4, 0 and 0\.5"):
        ChatEndpoint("http://x", concurrency=0)
    for options in ({"timeout": float("nan")}, {"backoff": -1.0}):
        with pytest.raises(ConfigError, match="a timeout above 0"):
            ChatEndpoint("http://x", **options)
    for address in ("http://localhost:80a0/v1", "http://a..b/v1", "http://", "http://[::1/v1"):
        with pytest.raises(ConfigError, match="is no address"):
            ChatEndpoint(address)
    assert "secret" not in repr(ChatEndpoint("http://x", key="secret"))
    assert ChatEndpoint("http://x", key="secret\n").key == "secret"
    for key in ("s\u00e9cret", "sec\nret"):
        with pytest.raises(ConfigError, match="printable ASCII") as error:
            ChatEndpoint("http://x", key=key)
        assert "cret" not in str(error.value)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": float("nan")}, {"max_tokens": 0}])
def test_what_no_model_can_answer_with_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        EndpointPolicy(ChatEndpoint("http://x"), CODEC, **options)


def test_the_time_limit_is_that_of_the_whole_answer() -> None:
    """A byte now and then keeps each read within its limit, and must not keep a request alive for ever."""
    with dripping(seconds=0.05, pieces=200) as url:
        started = time.monotonic()
        (found,) = ask(url, model="any", timeout=0.3, retries=0)
    assert "ReadTimeout" in str(found)
    assert time.monotonic() - started < 5  # of 10 that the answer takes


def test_an_interrupt_ends_the_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    tried, ended = threading.Event(), threading.Semaphore(0)

    async def refuse(*_: object) -> None:
        tried.set()
        raise httpx.ConnectError("no")

    async def pause(seconds: float) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.release()

    def interrupt(*_: object) -> None:
        assert tried.wait(20)
        raise KeyboardInterrupt

    monkeypatch.setattr(ChatEndpoint, "_sent", refuse)
    monkeypatch.setattr("rxrl.endpoint.asyncio", SimpleNamespace(**{**vars(asyncio), "sleep": pause}))
    with monkeypatch.context() as patch:
        patch.setattr("concurrent.futures.Future.result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ask("http://x", 3, model="any")
    # None of the three waits for its next try any more.
    assert all(ended.acquire(timeout=20) for _ in range(3))

"""Endpoints that nobody should trust: they trickle, never end, send too much, something else, or the key."""

from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from rxrl.endpoint import LARGEST_REPLY, ChatEndpoint, Reply, _certificates
from rxrl.errors import EndpointError
from tests.policies.server import serve

Send = Callable[[bytes], None]


@contextmanager
def raw(answer: Callable[[Send], None]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that reads a request and then sends what `answer` says; its base address and what it was sent."""
    listening = socket.create_server(("127.0.0.1", 0))
    requests: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            requests.append(connection.recv(1 << 20))
            answer(connection.sendall)
            # Closed at once, what is still unread would reset the connection.
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    def listen() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=listen, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1", requests
    finally:
        listening.close()


def ask(url: str, **options: Any) -> Reply | EndpointError:
    endpoint = ChatEndpoint(url, "m", **{"retries": 0, "timeout": 20.0, **options})
    return endpoint.complete([[{"role": "user", "content": "Hello?"}]], [{}])[0]


def body_of(content: Any, **choice: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}, **choice}]}).encode()


def response(body: bytes, *, headers: str = "Content-Type: application/json", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def trickle(send: Send, first: bytes) -> None:
    send(first)
    while True:
        send(b"a")
        time.sleep(0.02)


@pytest.mark.parametrize(
    "first",
    [b"", b"HTTP/1.1 200 OK\r\nX-A: ", b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"],
    ids=["status", "headers", "body", "body without end"],
)
def test_what_trickles_is_given_up_at_the_deadline(first: bytes) -> None:
    with raw(lambda send: trickle(send, first)) as (url, _):
        started = time.monotonic()
        found = ask(url, timeout=0.3)
    assert "the answer was not complete after 0.3 s" in str(found) or "RemoteProtocolError" in str(found)
    assert isinstance(found, EndpointError)
    assert time.monotonic() - started < 20  # it would never end


def test_what_says_nothing_is_given_up_at_the_deadline() -> None:
    with raw(lambda send: time.sleep(60)) as (url, _):
        assert "not complete after 0.3 s" in str(ask(url, timeout=0.3))


def test_what_never_ends_is_given_up_at_the_largest_size() -> None:
    sent = 0

    def flood(send: Send) -> None:
        nonlocal sent
        send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            send(b" " * 65536)
            sent += 65536

    with raw(flood) as (url, _):
        assert f"sent more than {LARGEST_REPLY >> 20} MB" in str(ask(url))
    assert sent < 16 * LARGEST_REPLY  # what the sockets hold, not a gigabyte


def test_compressed_answers_are_not_asked_for_and_not_unpacked() -> None:
    bomb = gzip.compress(b" " * (1 << 24))
    with raw(lambda send: send(response(bomb, headers="Content-Encoding: gzip"))) as (url, requests):
        assert "no chat completion came back" in str(ask(url))
    assert b"accept-encoding: identity" in requests[0].lower()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        ("fine", "fine"),
        ([{"type": "text", "text": "fi"}, {"type": "text", "text": "ne"}], "fine"),
        ([{"type": "image_url", "image_url": {}}, {"text": "fine"}], "fine"),
        ([], ""),
        ("half \ud83d", "half \ud83d"),
    ],
)
def test_an_answer_is_text_or_parts_of_it(content: Any, text: str) -> None:
    with raw(lambda send: send(response(body_of(content)))) as (url, _):
        assert ask(url) == Reply(text)


def test_an_answer_says_whether_it_was_cut() -> None:
    for why, cut in (("stop", False), ("length", True), (None, False)):
        with raw(lambda send, why=why: send(response(body_of("x", finish_reason=why)))) as (url, _):
            assert ask(url) == Reply("x", cut)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (response(b""), "but nothing"),
        (response(b"<!DOCTYPE html><p>Welcome</p>", headers="Content-Type: text/html; charset=utf-8"), "but text/html '<!DOCTYPE html>"),
        (response(b'data: {"choices": []}\n\n', headers="Content-Type: text/event-stream"), "but text/event-stream 'data: "),
        (response(b"\xff\xfe\x00\x01\x02"), "no chat completion came back"),
        (response(b"[" * 100_000), "no chat completion came back"),
        (response(b'{"choices": []}'), "no chat completion came back"),
        (response(b"[]"), "no chat completion came back"),
        (response(b"null"), "no chat completion came back"),
        (response(b'{"choices": {"0": 1}}'), "no chat completion came back"),
        (response(body_of(None)), "no chat completion came back"),
        (response(body_of(7)), "no chat completion came back"),
        (response(body_of([7])), "no chat completion came back"),
        (response(body_of([{"type": "text"}])), "no chat completion came back"),
        (response(b"{}", status="302 Found", headers="Location: http://127.0.0.1:9/"), "refused the request (status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "RemoteProtocolError"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "RemoteProtocolError"),
        (b"", "RemoteProtocolError"),
    ],
    ids=lambda each: str(each)[-40:],
)  # fmt: skip
def test_what_is_no_answer_is_one_sentence(sent: bytes, said: str) -> None:
    with raw(lambda send: send(sent)) as (url, _):
        found = ask(url)
    assert isinstance(found, EndpointError)
    assert said in str(found)
    assert len(str(found)) < 500


@pytest.mark.parametrize(
    ("key", "header", "secrets"),
    [
        ("sk-abcdef", "Bearer sk-abcdef", ["sk-abcdef"]),
        ("Basic me:hush-hush", "Basic bWU6aHVzaC1odXNo", ["me:hush-hush", "hush-hush", "bWU6aHVzaC1odXNo"]),
        ("Bearer sk-abcdef", "Bearer sk-abcdef", ["sk-abcdef"]),
    ],
)
def test_a_key_that_is_sent_back_is_never_shown(key: str, header: str, secrets: list[str]) -> None:
    for secret in secrets:
        with serve(lambda number, body, secret=secret: (401, {}, "x" * 195 + f" wrong key: {secret}")) as server:
            refused = ask(server.url, key=key)
        with serve(lambda number, body, secret=secret: f"Your key is {secret}.") as other:
            answered = ask(other.url, key=key)
        assert server.keys == [header]
        assert secret not in str(refused)
        assert secret[:4] not in str(refused)
        assert answered == Reply("Your key is ***.")


def test_requests_hold_no_half_characters() -> None:
    with serve(lambda number, body: body["messages"][0]["content"]) as server:
        endpoint = ChatEndpoint(server.url, "m")
        assert endpoint.complete([[{"role": "user", "content": "half \ud83d, whole \U0001f600"}]], [{}]) == [
            Reply("half ?, whole \U0001f600")
        ]


def test_certificates_are_read_once_whatever_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading them takes longer than a request to a machine nearby: a user played by a language model asks at every turn."""
    read: list[float] = []
    made = ssl.create_default_context
    monkeypatch.setattr(ssl, "create_default_context", lambda *args, **kwargs: read.append(time.monotonic()) or made(*args, **kwargs))
    _certificates.cache_clear()
    with serve(lambda number, body: "yes") as server:
        assert [ask(server.url) for _ in range(4)] == [Reply("yes")] * 4
    assert len(read) == 1

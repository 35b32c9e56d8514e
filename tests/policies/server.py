"""A chat endpoint on this machine that can be slow, fail, limit the rate and return garbage."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Behaviour = Callable[[int, Mapping[str, Any]], Any]
"""From the number of the request (from 0) and its body to the answer: a text, (status, headers, body), or seconds to wait."""


class ChatServer:
    """What a test looks at afterwards.

    Attributes:
        url: Base address.
        requests: Bodies of all requests, in order of arrival.
        keys: The `Authorization` header of each.
        most: Most requests that were answered at once.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most = 0
        self.url = ""
        self._now = 0
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any], key: str | None) -> tuple[int, dict[str, str], str]:
        with self._lock:
            number = len(self.requests)
            self.requests.append(body)
            self.keys.append(key)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            given = self.behaviour(number, body)
            if isinstance(given, tuple):
                return given
            if isinstance(given, float):
                time.sleep(given)
                given = "late"
            return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": given}}]})
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[ChatServer]:
    """Runs the endpoint in a thread."""
    chat = ChatServer(behaviour)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(200, {}, json.dumps({"data": [{"id": "first-model"}, {"id": "other"}]}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(*chat.answer(body, self.headers.get("Authorization")))

        def _reply(self, status: int, headers: dict[str, str], text: str) -> None:
            try:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text.encode()))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    chat.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield chat
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def dripping(*, seconds: float, pieces: int) -> Iterator[str]:
    """An endpoint whose answers come byte by byte, with pauses; its base address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", str(pieces))
            self.end_headers()
            with suppress(OSError):
                for _ in range(pieces):
                    self.wfile.write(b" ")
                    self.wfile.flush()
                    time.sleep(seconds)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()

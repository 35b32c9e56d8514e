"""A live view of a run for a browser on this machine: one page, read-only, on the loopback interface alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from rxrl.errors import ConfigError, RxrlError
from rxrl.evaluation.live import live_page
from rxrl.terminal import visible

LOOPBACK: Final = "127.0.0.1"
REFRESH: Final = 10
"""Seconds between two looks of the browser."""


class LiveView(BaseHTTPRequestHandler):
    """Answers `GET /` with the page of a run.

    Args:
        folder: Of the run.
        arguments: Of the request, as the server gives them.
    """

    server_version = "rxrl"
    sys_version = ""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        """Answers with the page; with 404 to any other path, and with 403 to a request that came by another name."""
        # A page from elsewhere whose name is pointed at this machine must not read along.
        port = self.connection.getsockname()[1]
        if self.headers.get("Host") not in (f"{LOOPBACK}:{port}", f"localhost:{port}"):
            self._answer(403, "text/plain", "This view is for a browser on this machine.")
        elif self.path.partition("?")[0] != "/":
            self._answer(404, "text/plain", "There is one page, at /.")
        else:
            try:
                self._answer(200, "text/html", live_page(self.folder, REFRESH))
            except RxrlError as error:
                self._answer(500, "text/plain", visible(str(error)))

    def _answer(self, status: int, kind: str, text: str) -> None:
        body = text.encode(errors="replace")
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing: each look of the browser would be a line."""


def live_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of the live view on the loopback interface.

    Args:
        folder: Of the run.
        port: 0 takes any that is free.

    Raises:
        ConfigError: The port is taken.
    """
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(LiveView, folder))
    except OSError as error:
        raise ConfigError(f"Port {port} cannot be used ({error.strerror}): choose another one with --port, or 0 for any.") from error


def serve(folder: Path, port: int, say: Callable[[str], None]) -> None:
    """Serves the live view until it is interrupted."""
    with live_server(folder, port) as server:
        say(f"Live view of {folder}: http://{LOOPBACK}:{server.server_port}/ (Ctrl-C ends it).")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("The live view has ended.")

"""An OpenAI-compatible chat endpoint, asked by policies and judges: several at once, with retries, back-off and a time limit."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rxrl.errors import ConfigError, EndpointError

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes after which asking again may help."""
LONGEST_PAUSE = 60.0
_SHOWN = 200

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Where to ask, and how patiently.

    Attributes:
        url: Base address, such as `http://localhost:8000/v1`.
        model: Name of the model; None takes the first that the endpoint lists.
        key: Secret that is sent as bearer token; None sends none.
        timeout: Seconds after which a request is given up, above 0: where nothing comes, and where an answer that comes in pieces is not
            whole by then.
        retries: Times that a request which failed is sent again, at least 0.
        backoff: Seconds before the first of them, at least 0; doubles with each. A `Retry-After` of the endpoint goes first.
        concurrency: Requests that are sent at once, at least 1.
    """

    url: str
    model: str | None = None
    key: str | None = field(default=None, repr=False)
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 0.5
    concurrency: int = 8

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"The address of an endpoint begins with http:// or https://, got {self.url!r}.")
        _check_address(self.url)
        if self.key is not None:
            object.__setattr__(self, "key", _checked_key(self.key))
        if not self.timeout > 0 or self.retries < 0 or self.concurrency < 1 or not self.backoff >= 0:
            raise ConfigError(
                "An endpoint needs a timeout above 0, at least 0 retries, a concurrency of at least 1 and a backoff of at least 0, "
                f"got {self.timeout}, {self.retries}, {self.concurrency} and {self.backoff}."
            )

    def complete(self, conversations: Sequence[Sequence[Message]], options: Sequence[Mapping[str, Any]]) -> list[str | EndpointError]:
        """Asks for an answer to each conversation.

        Args:
            conversations: Messages (`role`, `content`) of each, oldest first.
            options: Further fields of each request, such as `temperature`.

        Returns:
            For each conversation its answer, or the error that the last try ended with.
        """
        if not conversations:
            return []
        import httpx  # noqa: PLC0415

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        stop, pool = Event(), ThreadPoolExecutor(self.concurrency)
        with httpx.Client(base_url=self.url.rstrip("/") + "/", headers=headers, timeout=self.timeout) as client:
            try:
                model = self.model or self._first_model(client, stop)
                bodies = [{"model": model, "messages": list(each), **extra} for each, extra in zip(conversations, options, strict=True)]
                return list(pool.map(lambda body: self._answer(client, stop, body), bodies))
            except EndpointError as error:
                return [error] * len(conversations)
            finally:
                # Nothing is left to do, or Ctrl-C came: then no further try is made.
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _first_model(self, client: httpx.Client, stop: Event) -> str:
        return self._patiently(client, stop, "GET", "models", None, lambda body: str(body["data"][0]["id"]))

    def _answer(self, client: httpx.Client, stop: Event, body: Mapping[str, Any]) -> str | EndpointError:
        try:
            return self._patiently(client, stop, "POST", "chat/completions", body, _content)
        except EndpointError as error:
            return error

    def _patiently(self, client: httpx.Client, stop: Event, method: str, path: str, body: Any, read: Any) -> str:
        """The answer to a request, after as many tries as are allowed."""
        import httpx  # noqa: PLC0415

        problem, pause = "", self.backoff
        for attempt in range(self.retries + 1):
            if attempt:
                stop.wait(min(pause, LONGEST_PAUSE))
                pause = self.backoff * 2**attempt
            if stop.is_set():
                raise EndpointError(f"{self.url} was not asked any more.")
            try:
                response, content = self._sent(client, method, path, body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            shown = content.decode("utf-8", errors="replace")[:_SHOWN]
            if response.is_success:
                try:
                    return str(read(json.loads(content)))
                except (ValueError, LookupError, TypeError, AttributeError):
                    problem = f"no chat completion came back, but {shown!r}"
                    continue
            problem = f"status {response.status_code}: {shown!r}"
            if response.status_code not in RETRIED:
                raise EndpointError(f"{self.url} refused the request ({problem}): check address, model and key.")
            pause = max(pause, _retry_after(response))
        raise EndpointError(f"{self.url} gave no answer in {self.retries + 1} tries ({problem}): is it running, and fast enough?")

    def _sent(self, client: httpx.Client, method: str, path: str, body: Any) -> tuple[httpx.Response, bytes]:
        """Response and its content, within the time limit: that of the client is one for each piece that comes."""
        import httpx  # noqa: PLC0415

        deadline, content = time.monotonic() + self.timeout, bytearray()
        with client.stream(method, path, json=body) as response:
            for piece in response.iter_bytes():
                content += piece
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"the answer was not complete after {self.timeout:g} s")
        return response, bytes(content)


def _check_address(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
        valid = bool(host) and bool((host or "").encode("idna"))
    except ValueError:
        valid = False
    if not valid:
        raise ConfigError(f"{url!r} is no address: expected one such as http://localhost:8000/v1.")


def _checked_key(key: str) -> str:
    """The key without the space around it; never shown, because it is a secret."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError("The key of an endpoint holds characters that a header cannot carry: expected printable ASCII, copy it again.")
    return key


def _content(body: Any) -> str:
    content = body["choices"][0]["message"]["content"]
    if not isinstance(content, str):
        raise TypeError("an answer is text")
    return content


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the endpoint asks to wait; 0 where it does not say, or names a date."""
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0

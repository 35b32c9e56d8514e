"""An OpenAI-compatible chat endpoint, asked by policies and judges: several at once, with retries, back-off and a time limit."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

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
        timeout: Seconds that one request may take, above 0.
        retries: Times that a request which failed is sent again, at least 0.
        backoff: Seconds before the first of them; doubles with each. A `Retry-After` of the endpoint goes first.
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
        if self.timeout <= 0 or self.retries < 0 or self.concurrency < 1:
            raise ConfigError(
                "An endpoint needs a timeout above 0, at least 0 retries and a concurrency of at least 1, "
                f"got {self.timeout}, {self.retries} and {self.concurrency}."
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
        with (
            httpx.Client(base_url=self.url.rstrip("/") + "/", headers=headers, timeout=self.timeout) as client,
            ThreadPoolExecutor(self.concurrency) as pool,
        ):
            try:
                model = self.model or self._first_model(client)
            except EndpointError as error:
                return [error] * len(conversations)
            bodies = [{"model": model, "messages": list(each), **extra} for each, extra in zip(conversations, options, strict=True)]
            return list(pool.map(lambda body: self._answer(client, body), bodies))

    def _first_model(self, client: httpx.Client) -> str:
        data = self._patiently(client, "GET", "models", None, lambda body: str(body["data"][0]["id"]))
        return data

    def _answer(self, client: httpx.Client, body: Mapping[str, Any]) -> str | EndpointError:
        try:
            return self._patiently(client, "POST", "chat/completions", body, _content)
        except EndpointError as error:
            return error

    def _patiently(self, client: httpx.Client, method: str, path: str, body: Any, read: Any) -> str:
        """The answer to a request, after as many tries as are allowed."""
        import httpx  # noqa: PLC0415

        problem, pause = "", self.backoff
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(min(pause, LONGEST_PAUSE))
                pause = self.backoff * 2**attempt
            try:
                response = client.request(method, path, json=body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if response.is_success:
                try:
                    return str(read(response.json()))
                except (ValueError, LookupError, TypeError, AttributeError):
                    problem = f"no chat completion came back, but {response.text[:_SHOWN]!r}"
                    continue
            problem = f"status {response.status_code}: {response.text[:_SHOWN]!r}"
            if response.status_code not in RETRIED:
                raise EndpointError(f"{self.url} refused the request ({problem}): check address, model and key.")
            pause = max(pause, _retry_after(response))
        raise EndpointError(f"{self.url} gave no answer in {self.retries + 1} tries ({problem}): is it running, and fast enough?")


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

"""An OpenAI-compatible chat endpoint, asked by policies and judges: several at once, with retries, back-off and a time limit.

What comes back is not trusted: it has a deadline, a largest size and a form, and is never shown before keys are taken out of it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from rxrl.errors import ConfigError, EndpointError
from rxrl.eventloop import wait_for
from rxrl.reading import json_value
from rxrl.secrets import has_user_info, redacted

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Status codes after which asking again may help."""
LONGEST_PAUSE = 60.0
LARGEST_REPLY = 1 << 22
"""Bytes of a response; what is larger is no answer."""
_SHOWN = 200

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of an endpoint.

    Attributes:
        text: What it says; may be empty.
        cut: Whether it ended because it reached its token limit.
    """

    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class ChatEndpoint:
    """Where to ask, and how patiently.

    Attributes:
        url: Base address, such as `http://localhost:8000/v1`, without user and password.
        model: Name of the model; None takes the first that the endpoint lists.
        key: Secret that is sent as bearer token, or `Basic user:password`; None sends none.
        timeout: Seconds, above 0, after which a request is given up whose answer is not whole: from the connection to the last byte.
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
        check_address(self.url)
        if self.key is not None:
            object.__setattr__(self, "key", _checked_key(self.key))
        if not self.timeout > 0 or self.retries < 0 or self.concurrency < 1 or not self.backoff >= 0:
            raise ConfigError(
                "An endpoint needs a timeout above 0, at least 0 retries, a concurrency of at least 1 and a backoff of at least 0, "
                f"got {self.timeout}, {self.retries}, {self.concurrency} and {self.backoff}."
            )

    def complete(self, conversations: Sequence[Sequence[Message]], options: Sequence[Mapping[str, Any]]) -> list[Reply | EndpointError]:
        """Asks for an answer to each conversation.

        Args:
            conversations: Messages (`role`, `content`) of each, oldest first.
            options: Further fields of each request, such as `temperature`.

        Returns:
            For each conversation its answer, or the error that the last try ended with.
        """
        if not conversations:
            return []
        found: list[Reply | EndpointError] = wait_for(self._complete(conversations, options))
        return found

    def shown(self, content: str | bytes) -> str:
        """The beginning of what the endpoint sent, fit for a message: in quotes, without secrets."""
        text = content if isinstance(content, str) else content.decode("utf-8", errors="replace")
        return repr(self._without_key(text)[:_SHOWN]) if text else "nothing"

    async def _complete(
        self, conversations: Sequence[Sequence[Message]], options: Sequence[Mapping[str, Any]]
    ) -> list[Reply | EndpointError]:
        # Imported late: it takes a while, and most runs ask nobody.
        import httpx  # noqa: PLC0415

        # Nothing compressed: a few bytes could stand for gigabytes.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json", **self._authorization()}
        turnstile = asyncio.Semaphore(self.concurrency)

        async def answer(body: Mapping[str, Any]) -> Reply | EndpointError:
            try:
                async with turnstile:
                    return await self._patiently(client, "POST", "chat/completions", body, self._reply)
            except EndpointError as error:
                return error

        address = self.url.rstrip("/") + "/"
        async with httpx.AsyncClient(base_url=address, headers=headers, timeout=None, verify=_certificates()) as client:
            try:
                model = self.model or (await self._patiently(client, "GET", "models", None, _first_model)).text
            except EndpointError as error:
                return [error] * len(conversations)
            bodies = [{"model": model, "messages": list(each), **extra} for each, extra in zip(conversations, options, strict=True)]
            return list(await asyncio.gather(*map(answer, bodies)))

    async def _patiently(self, client: httpx.AsyncClient, method: str, path: str, body: Any, read: Callable[[Any], Reply]) -> Reply:
        """The answer to a request, after as many tries as are allowed."""
        import httpx  # noqa: PLC0415

        problem, pause = "", self.backoff
        for attempt in range(self.retries + 1):
            if attempt:
                await asyncio.sleep(min(pause, LONGEST_PAUSE))
                pause = self.backoff * 2**attempt
            try:
                response, content = await self._sent(client, method, path, body)
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {self._without_key(str(error))}"
                continue
            if response.is_success:
                try:
                    return read(json_value(content, halves=True, numbers="any"))
                except (ValueError, LookupError, TypeError, AttributeError):
                    problem = f"no chat completion came back, but {_kind(response)}{self.shown(content)}"
                    continue
            problem = f"status {response.status_code}: {self.shown(content)}"
            if response.status_code not in RETRIED:
                raise EndpointError(f"{self.url} refused the request ({problem}): check address, model and key.")
            pause = max(pause, _retry_after(response))
        raise EndpointError(f"{self.url} gave no answer in {self.retries + 1} tries ({problem}): is it running, and fast enough?")

    async def _sent(self, client: httpx.AsyncClient, method: str, path: str, body: Any) -> tuple[httpx.Response, bytes]:
        """Response and its content; one deadline holds for connection, headers and content, however slowly their bytes come."""
        import httpx  # noqa: PLC0415

        # Halves of characters, which some tokenizers produce, cannot be sent.
        sent = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace")
        received = bytearray()
        try:
            async with asyncio.timeout(self.timeout), client.stream(method, path, content=sent) as response:
                async for piece in response.aiter_raw():
                    received += piece
                    if len(received) > LARGEST_REPLY:
                        raise httpx.DecodingError(f"it sent more than {LARGEST_REPLY >> 20} MB")
        except TimeoutError:
            raise httpx.ReadTimeout(f"the answer was not complete after {self.timeout:g} s") from None
        return response, bytes(received)

    def _reply(self, body: Any) -> Reply:
        choice = body["choices"][0]
        return Reply(self._without_key(_text(choice["message"]["content"])), choice.get("finish_reason") == "length")

    def _authorization(self) -> dict[str, str]:
        if not self.key:
            return {}
        scheme, _, rest = self.key.partition(" ")
        if scheme == "Basic" and ":" in rest:
            return {"Authorization": f"Basic {base64.b64encode(rest.strip().encode()).decode()}"}
        return {"Authorization": self.key if scheme in ("Basic", "Bearer") and rest else f"Bearer {self.key}"}

    def _without_key(self, text: str) -> str:
        if not self.key:
            return text
        scheme, _, rest = self.key.partition(" ")
        known = (self.key, rest.strip(), rest.partition(":")[2]) if scheme in ("Basic", "Bearer") else (self.key,)
        return redacted(text, *known, *(header.partition(" ")[2] for header in self._authorization().values()))


class EndpointOptions(BaseModel):
    """Options of whatever asks a chat endpoint: where it is, and how patiently it is asked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(description="Base address of the API, such as http://localhost:8000/v1.")
    model: str = Field(description="Name of the model, as the endpoint knows it.")
    api_key_env: str = Field("OPENAI_API_KEY", description="Environment variable that holds the key; not set: no key is sent.")
    temperature: float = Field(0.0, ge=0, description="Temperature of the model.")
    timeout: float = Field(30.0, gt=0, description="Seconds for one request.")
    retries: int = Field(4, ge=0, description="Further tries for a request that failed.")
    backoff: float = Field(1.0, ge=0, description="Seconds before the first further try; doubles with each, up to a minute.")

    def chat(self, concurrency: int = 8) -> ChatEndpoint:
        """The endpoint.

        Args:
            concurrency: Requests that are sent at once, at least 1.

        Raises:
            ConfigError: The address is none, or the key cannot be sent.
        """
        key, patience = os.environ.get(self.api_key_env), {"retries": self.retries, "concurrency": concurrency}
        return ChatEndpoint(self.endpoint, self.model, key, timeout=self.timeout, backoff=self.backoff, **patience)


@cache
def _certificates() -> ssl.SSLContext:
    """Whom to trust. Reading the certificates takes longer than a request to a machine nearby, so it is done once."""
    import httpx  # noqa: PLC0415

    return httpx.create_ssl_context()


def check_address(url: str) -> None:
    """Refuses what is no address, and an address with a password.

    Raises:
        ConfigError: It is one of these.
    """
    if has_user_info(url):
        raise ConfigError(
            "The address of an endpoint holds a user or password, which would be saved with the settings: leave it out, and put "
            f"'Basic user:password' into the environment variable that holds the key, got {url!r}."
        )
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


def _text(content: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(content, list):
        return "".join(_text(part["text"]) for part in content if part.get("type", "text") == "text")
    if not isinstance(content, str):
        raise TypeError("an answer is text")
    return content


def _first_model(body: Any) -> Reply:
    return Reply(_text(body["data"][0]["id"]))


def _kind(response: httpx.Response) -> str:
    """What the response says that it is, where that is not JSON."""
    kind = str(response.headers.get("Content-Type", "")).partition(";")[0].strip()
    return "" if not kind or "json" in kind else f"{kind[:40]} "


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the endpoint asks to wait; 0 where it does not say, or names a date."""
    try:
        return float(response.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0

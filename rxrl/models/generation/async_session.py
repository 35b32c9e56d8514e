"""A conversation inside an asyncio program: what computes runs in a thread of its own, so that the event loop stays free."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from rxrl.errors import ModelError
from rxrl.models.generation.session import Event, MemoryUpdated, ReactiveSession

T = TypeVar("T")


class AsyncReactiveSession:
    """Does what a `ReactiveSession` does, awaited.

    One thread does everything in the order of the calls, so that a query that comes while memory is being written waits for it. Of answers
    that stream at the same time, each reads the memory from before: let one end before the next is asked for.
    Used in `async with`, it ends its thread.

    Args:
        session: The conversation; from now on only to be used through this object.
    """

    def __init__(self, session: ReactiveSession) -> None:
        self._session = session
        self._thread = ThreadPoolExecutor(1, "session")
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def ask(self, text: str, **sampling: Any) -> AsyncIterator[Event]:
        """Answers a query and then writes memory; arguments, events and errors as in `ReactiveSession.ask`.

        An iterator that is left before its `AnswerEnd` leaves the memory as it was.
        """
        events: Iterator[Event] = await self._run(lambda: self._session.ask(text, **sampling))
        while (event := await self._run(lambda: next(events, None))) is not None:
            yield event

    async def write(self, query: str, answer: str) -> MemoryUpdated:
        """Writes an interaction that was not generated, for example a system prompt."""
        return await self._run(lambda: self._session.write(query, answer))

    async def wait(self) -> MemoryUpdated | None:
        """Waits for a write in the background; None where nothing was being written."""
        return await self._run(self._session.wait)

    async def reset(self) -> None:
        """Forgets the conversation."""
        await self._run(self._session.reset)

    async def save(self, path: str | Path) -> None:
        """Writes the memory to a file."""
        await self._run(lambda: self._session.save(path))

    async def load(self, path: str | Path) -> None:
        """Replaces the memory by a saved one."""
        await self._run(lambda: self._session.load(path))

    async def close(self) -> None:
        """Waits for what is being written and ends the thread; once is enough."""
        if self._closed:
            return
        try:
            await self._run(self._session.wait)
        finally:
            self._closed = True
            self._thread.shutdown()

    async def _run(self, work: Callable[[], T]) -> T:
        if self._closed:
            raise ModelError("This conversation was closed: make another AsyncReactiveSession of its session.")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

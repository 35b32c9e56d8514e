"""One event loop for everything asynchronous, so that clients stay connected from one batch of turns to the next."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any

_CLOSING = 5.0
"""Most seconds to wait for tasks that do not end when they are cancelled."""


def wait_for(awaitable: Awaitable[Any]) -> Any:
    """Waits for an awaitable on the event loop of this process and returns its result.

    The loop runs in a thread of its own from the first call to the end of the process: HTTP clients, locks and tasks that one call has
    made can be used by the next. It works from every thread, and where a loop of somebody else runs already (a notebook).

    Args:
        awaitable: Awaited once. What it waits for is cancelled where the caller is interrupted (Ctrl-C, a time limit).

    Returns:
        What it returns; what it raises is raised here.
    """
    loop = _event_loop()
    if not loop.usable:
        _event_loop.cache_clear()
        loop = _event_loop()
    if not loop.is_current:
        return loop.run(awaitable)
    # An asynchronous reward calls another one as a function: its own loop must not be waited for.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, _awaited(awaitable)).result()


class EventLoop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="rxrl-event-loop", daemon=True)
        self._thread.start()

    @property
    def usable(self) -> bool:
        """Whether it still runs."""
        return self._thread.is_alive() and not self._loop.is_closed()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on it."""
        return threading.current_thread() is self._thread

    def run(self, awaitable: Awaitable[Any]) -> Any:
        """Result of the awaitable."""
        future = asyncio.run_coroutine_threadsafe(_outcome(awaitable), self._loop)
        try:
            result, error = future.result()
        except BaseException:
            future.cancel()
            raise
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Cancels what still runs and ends the thread."""
        if not self.usable:
            return
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(_finish(), self._loop).result(_CLOSING)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSING)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()


@cache
def _event_loop() -> EventLoop:
    loop = EventLoop()
    atexit.register(loop.close)
    return loop


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: the child makes a loop of its own.
    os.register_at_fork(after_in_child=_event_loop.cache_clear)


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _outcome(awaitable: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """Result or error. An error is returned: SystemExit raised in a task would end the loop for everybody."""
    try:
        return await awaitable, None
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        return None, error


async def _finish() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()

"""An event loop in a thread of its own, for code that has none."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from takeoff.errors import NotReady

Result = TypeVar("Result")


class LoopThread:
    """Runs coroutines for other threads, until it is closed.

    The thread is a daemon: it holds up no interpreter's end. The child processes are its children, so
    they end with it even where nobody says so (see `takeoff.ipc.lifeline`).
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="takeoff", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether this process can run something in it: a fork has the object, but not the thread."""
        return not self._loop.is_closed() and self._pid == os.getpid()

    def run(self, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """The result of the coroutine that `make` makes. Who stops waiting (Ctrl-C) cancels it.

        Raises:
            NotReady: the thread is closed, or belongs to the process that this one was forked from.
        """
        if not self.is_open:
            why = (
                "was closed"
                if self._pid == os.getpid()
                else "belongs to the process this one was forked from"
            )
            raise NotReady(f"the model {why}", hint="make another")
        future = asyncio.run_coroutine_threadsafe(make(), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # nothing, if it is done

    def close(self, end: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run `end`, then end the thread. Idempotent. Inside the thread itself it waits for neither."""
        if not self.is_open:
            return
        if threading.current_thread() is self._thread:  # the garbage collector may run anywhere
            ending = self._loop.create_task(end())
            ending.add_done_callback(lambda _: self._loop.stop())
            return
        self.run(end)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

"""A second engine process that waits: it has its libraries and the weights, and memory for no sequence.

When the first dies it only has to make room for sequences: a tenth of a second instead of most of one. The
weights are mapped, and so in memory once for both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable

import msgspec

from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import FromEngine, Load, LoadFailed, ToEngine
from takeoff.service.child import Child

DELAY_S = 1.0  # from when an engine is loaded: what waited for it goes first

EngineChild = Child[FromEngine, ToEngine]

logger = logging.getLogger(__name__)


class Standby:
    """At most one process at a time. `stop` must be called."""

    def __init__(self, name: str, start: Callable[[Load], Awaitable[EngineChild]]) -> None:
        """`start` makes a process for what it will be told."""
        self._name = name
        self._start = start
        self._task: asyncio.Task[None] | None = None
        self._child: EngineChild | None = None  # once it is ready
        self._purpose: Hashable = None

    @property
    def pid(self) -> int | None:
        """Of one that is ready."""
        return None if self._child is None else self._child.pid

    def prepare(self, load: Load, purpose: Hashable) -> None:
        """Have one for engines of this purpose, in a while; one that cannot be had is done without."""
        self._purpose = purpose
        self._task = asyncio.create_task(self._prepare(load), name=f"standby {self._name}")

    async def take(self, purpose: Hashable) -> EngineChild | None:
        """The process, which waits for TakeOver; None: there is none for this purpose."""
        child, self._child = self._child, None
        await self.stop()
        if child is None:
            return None
        if purpose != self._purpose or not child.is_alive:
            await child.kill()
            return None
        return child

    async def stop(self) -> None:
        """End it. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()

    async def _prepare(self, load: Load) -> None:
        """Start one, and keep it if it becomes ready."""
        await asyncio.sleep(DELAY_S)
        try:
            child = await self._start(load)
        except OSError as exc:
            logger.warning("%s: no engine stands by: %s", self._name, exc)
            return
        try:
            child.channel.send(msgspec.structs.replace(load, stands_by=True))
            answer = await child.channel.receive()
        except ChannelClosed as exc:
            answer = LoadFailed(str(exc))
        except BaseException:
            await child.kill()
            raise
        if isinstance(answer, LoadFailed):
            logger.warning("%s: no engine stands by: %s", self._name, answer.error)
            await child.kill()
        else:
            self._child = child
            logger.info("%s: engine %d stands by", self._name, child.pid)

"""Readers that are loaded when a request for them comes, and unloaded for others or when time is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

from takeoff.errors import NoRoom
from takeoff.service.changes import Changes
from takeoff.service.reader import Reader, ReaderState
from takeoff.service.residency import RETRY_S, Residency

logger = logging.getLogger(__name__)


class OnDemand:
    """Loads and unloads; those who wait for it watch the readers' states."""

    def __init__(
        self,
        changes: Changes,
        residency: Residency,
        launching: asyncio.Lock,
        start: Callable[[Reader], Awaitable[None]],
        unload: Callable[[Reader], Awaitable[None]],
        in_background: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        """`launching` is held while something is loaded; `start` returns when it is, or can't be."""
        self._changes = changes
        self._residency = residency
        self._launching = launching
        self._start = start
        self._unload = unload
        self._in_background = in_background
        self._waking: set[Reader] = set()
        self._num_waiting: Counter[Reader] = Counter()

    def is_barred(self, reader: Reader) -> bool:
        """Whether it could not be loaded a moment ago."""
        is_unloaded = reader.state is ReaderState.UNLOADED
        return is_unloaded and self._residency.use(reader).not_before > time.monotonic()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Callable[[Reader], None]]:
        """Who is in the block may ask again and again for a reader to be loaded, and counts once."""
        wanted: set[Reader] = set()

        def wake(reader: Reader) -> None:
            if reader not in wanted:
                wanted.add(reader)
                self._num_waiting[reader] += 1
            if reader not in self._waking:
                self._waking.add(reader)
                task = self._in_background(self._load(reader), f"load {reader.reader_id}")
                task.add_done_callback(lambda _: self._waking.discard(reader))

        try:
            yield wake
        finally:
            self._num_waiting.subtract(wanted)

    def loaded(self, reader: Reader) -> None:
        """It is; from now on its keep-alive counts, if it has one."""
        keep_alive_s = reader.settings.keep_alive_s
        if keep_alive_s is not None:
            self._in_background(self._unload_when_idle(reader, keep_alive_s), f"idle {reader.reader_id}")

    async def _load(self, reader: Reader) -> None:
        async with self._launching:
            try:
                is_wanted = await self._residency.make_room(reader, lambda: self._num_waiting[reader] > 0)
            except NoRoom as exc:
                self._bar(reader, exc.told)
                return
            if is_wanted and reader.state is ReaderState.UNLOADED:
                reader.is_awaited = True
                await self._start_or_bar(reader)
                reader.is_awaited = False

    async def _start_or_bar(self, reader: Reader) -> None:
        await self._start(reader)
        if reader.state is ReaderState.FAILED:
            self._bar(reader, reader.error or "it could not be loaded")
            await self._unload(reader)

    def _bar(self, reader: Reader, error: str) -> None:
        """Who waits for it is told; for a while nobody tries again."""
        logger.warning("reader %s: %s", reader.reader_id, error)
        reader.error = error
        self._residency.use(reader).not_before = time.monotonic() + RETRY_S
        self._changes.tell()

    async def _unload_when_idle(self, reader: Reader, keep_alive_s: float) -> None:
        """Unload it when it has served nobody for so long."""
        use = self._residency.use(reader)
        loaded_at = use.loaded_at
        while use.loaded_at == loaded_at:
            if reader.num_open:
                await self._changes.until(lambda: reader.num_open == 0)
                use.used_at = time.monotonic()
            idle_since = max(use.used_at, loaded_at)
            await asyncio.sleep(max(0.0, idle_since + keep_alive_s - time.monotonic()))
            await self._changes.until(lambda: reader.state is not ReaderState.LOADING)
            async with self._launching:
                if not reader.is_live or use.loaded_at != loaded_at:
                    return
                if reader.num_open == 0 and use.used_at <= idle_since:
                    reader.become(ReaderState.UNLOADING)
                    await self._unload(reader)
                    return

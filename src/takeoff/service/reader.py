"""A loaded model in an engine process: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from takeoff.errors import ModelError
from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import (
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    Step,
    ToEngine,
)
from takeoff.request import TokenEvent
from takeoff.service.backoff import Backoff
from takeoff.service.child import Child

SILENCE_S = 5.0  # a live engine beats twice a second
LOAD_SILENCE_S = 300.0  # a huge model from a slow disk may go this long between two signs of progress
_WATCHES_PER_SILENCE = 5

logger = logging.getLogger(__name__)


class ReaderState(StrEnum):
    LOADING = "loading"
    LIVE = "live"
    FAILED = "failed"  # its first load failed: it will not be tried again
    STOPPED = "stopped"


class Reader:
    """One engine process at a time. Its events and deaths are told by callbacks, in the event loop."""

    def __init__(
        self,
        name: str,
        load: Load,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        on_events: Callable[[list[TokenEvent]], None],
        on_heartbeat: Callable[[Heartbeat], None],
        on_death: Callable[[str], None],
        silence_s: float = SILENCE_S,
    ) -> None:
        """`on_death` gets the reason, once for each process that dies, live or loading."""
        self.name = name
        self.load = load
        self.state = ReaderState.LOADING
        self.error: str | None = None  # why the last process ended
        self.loaded: Loaded | None = None  # what the last engine that loaded said of itself
        self.progress = 0.0  # share of the present loading that is done, 0..1
        self.num_restarts = 0
        self.num_open = 0  # requests that it serves now; the service counts
        self.changed = asyncio.Condition()
        self._command = command
        self._environ = environ
        self._on_events = on_events
        self._on_heartbeat = on_heartbeat
        self._on_death = on_death
        self._silence_s = silence_s
        self._silent_watches = 0
        self._child: Child[FromEngine, ToEngine] | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: str | None = None  # why we killed the present process ourselves

    @property
    def is_live(self) -> bool:
        return self.state is ReaderState.LIVE

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start and watch engines in the background, until `stop`."""
        self._task = asyncio.create_task(self._run(), name=f"reader {self.name}")

    async def wait_live(self) -> None:
        """Return when requests can be sent.

        Raises:
            ModelError: the model could not be loaded, or the reader was stopped meanwhile.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.state is not ReaderState.LOADING)
        if not self.is_live:
            raise ModelError(self.error or "the server is shutting down")

    def send(self, message: ToEngine) -> None:
        """Send to the engine; if it has just died, `on_death` tells, and the message is lost."""
        if self._child is not None:
            try:
                self._child.channel.send(message)
            except ChannelClosed:
                logger.debug("%s was not sent: the engine is gone", type(message).__name__)

    async def stop(self) -> None:
        """End the process. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._child is not None:
            child, self._child = self._child, None
            await child.stop()
        if self.state is not ReaderState.FAILED:
            await self._become(ReaderState.STOPPED)

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            started_at = time.monotonic()
            self.error = await self._live_once()
            has_served = self.loaded is not None
            await self._become(ReaderState.LOADING if has_served else ReaderState.FAILED)
            self._on_death(self.error)
            if not has_served:
                logger.error("%s", self.error)
                return
            wait_s = backoff.after(time.monotonic() - started_at)
            logger.warning("%s; starting another engine in %g s", self.error, wait_s)
            self.num_restarts += 1
            await asyncio.sleep(wait_s)

    async def _live_once(self) -> str:
        """One engine process from start to death; returns why it ended."""
        self._verdict = None
        self._silent_watches = 0
        self.progress = 0.0
        try:
            child: Child[FromEngine, ToEngine] = await Child.start(self._command, FromEngine, self._environ)
        except OSError as exc:
            return f"the engine could not be started: {exc}"
        self._child = child
        watch = asyncio.create_task(self._watch(child), name=f"watch {self.name}")
        try:
            child.channel.send(self.load)
            while True:
                message = await child.channel.receive()
                self._silent_watches = 0
                await self._take(message)
        except ChannelClosed:
            doing = "serving" if self.is_live else "loading the model"
            ending = await child.kill()
            return self._verdict or f"the engine died while {doing}: {ending}"
        except ModelError as exc:
            await child.stop()
            return exc.message
        finally:
            watch.cancel()

    async def _take(self, message: FromEngine) -> None:
        match message:
            case Step(events=events):
                self._on_events(events)
            case Heartbeat():
                self._on_heartbeat(message)
            case Progress(share=share):
                self.progress = share
            case LoadFailed(error=error):
                raise ModelError(error)
            case Loaded():
                self.loaded = message
                self.error = None
                logger.info("engine %d loaded the model in %.1f s", message.pid, message.load_s)
                await self._become(ReaderState.LIVE)

    async def _watch(self, child: Child[FromEngine, ToEngine]) -> None:
        """Kill an engine that has gone silent.

        Counts looks, not seconds: when this very process was stopped for a while, one look passes
        and the engine's messages of that time are still to be read.
        """
        pause_s = self._silence_s / _WATCHES_PER_SILENCE
        while True:
            await asyncio.sleep(pause_s)
            self._silent_watches += 1
            limit_s = self._silence_s if self.is_live else LOAD_SILENCE_S
            if self._silent_watches * pause_s > limit_s:
                self._verdict = f"the engine gave no sign of life for {limit_s:g} s and was killed"
                child.kill_soon()
                return

    async def _become(self, state: ReaderState) -> None:
        self.state = state
        async with self.changed:
            self.changed.notify_all()

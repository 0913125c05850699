"""An engine process: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from takeoff.errors import ModelError
from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import (
    EncoderLoaded,
    FromEncoder,
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadEncoder,
    LoadFailed,
    Progress,
    ToEncoder,
    ToEngine,
)
from takeoff.service.backoff import Backoff
from takeoff.service.child import Child

SILENCE_S = 5.0  # a live engine beats twice a second
LOAD_SILENCE_S = 300.0  # a huge model from a slow disk may go this long between two signs of progress
_WATCHES_PER_SILENCE = 5

logger = logging.getLogger(__name__)

FromAny = FromEngine | FromEncoder
ToAny = ToEngine | ToEncoder


@dataclass(frozen=True, slots=True)
class EngineCalls:
    """What is told of an engine, in the event loop."""

    on_message: Callable[[FromAny], None]  # its news and answers, and its heartbeats
    on_loaded: Callable[[], None]
    on_death: Callable[[str, bool], None]  # why, and whether another will be started
    next_load: Callable[[bool], Load | LoadEncoder]  # for another; told whether the last one was loaded


class EngineWatch:
    """One engine process at a time."""

    def __init__(
        self,
        name: str,
        load: Load | LoadEncoder,
        command: Sequence[str],
        calls: EngineCalls,
        *,
        environ: Mapping[str, str],
    ) -> None:
        """`load` is the first message to the first process; the next ones get what `calls.next_load` says."""
        self.loaded: Loaded | EncoderLoaded | None = None  # what the last that loaded said of itself
        self.progress = 0.0  # share of the present loading that is done, 0..1
        self.num_restarts = 0
        self.last_heartbeat_at = time.time()
        self._name = name
        self._load = load
        self._command = command
        self._calls = calls
        self._environ = environ
        self._silent_watches = 0
        self._is_loaded = False  # the present process
        self._child: Child[FromAny, ToAny] | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: str | None = None  # why we killed the present process ourselves

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start and watch engines in the background, until `stop`."""
        self._task = asyncio.create_task(self._run(), name=f"engine {self._name}")

    def send(self, message: ToAny) -> None:
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

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            started_at = time.monotonic()
            error = await self._live_once()
            has_served = self.loaded is not None
            was_loaded, self._is_loaded = self._is_loaded, False
            self._calls.on_death(error, has_served)
            if not has_served:
                logger.error("%s: %s", self._name, error)
                return
            wait_s = backoff.after(time.monotonic() - started_at)
            logger.warning("%s: %s; starting another engine in %g s", self._name, error, wait_s)
            self.num_restarts += 1
            await asyncio.sleep(wait_s)
            self._load = self._calls.next_load(was_loaded)

    async def _live_once(self) -> str:
        """One engine process from start to death; returns why it ended."""
        self._verdict = None
        self._silent_watches = 0
        self.progress = 0.0
        incoming = FromEncoder if isinstance(self._load, LoadEncoder) else FromEngine
        keep = () if self._load.turns_fd is None else (self._load.turns_fd,)
        try:
            child: Child[FromAny, ToAny] = await Child.start(
                self._command, incoming, self._environ, keep_fds=keep
            )
        except OSError as exc:
            return f"the engine could not be started: {exc}"
        self._child = child
        watch = asyncio.create_task(self._watch(child), name=f"watch {self._name}")
        try:
            child.channel.send(self._load)
            while True:
                message = await child.channel.receive()
                self._silent_watches = 0
                self._take(message)
        except ChannelClosed:
            doing = "serving" if self._is_loaded else "loading the model"
            ending = await child.kill()
            return self._verdict or f"the engine died while {doing}: {ending}"
        except ModelError as exc:
            await child.stop()
            return exc.message
        finally:
            watch.cancel()

    def _take(self, message: FromAny) -> None:
        match message:
            case Progress(share=share):
                self.progress = share
            case LoadFailed(error=error):
                raise ModelError(error)
            case Loaded() | EncoderLoaded():
                self.loaded = message
                self._is_loaded = True
                logger.info("%s: engine %d loaded in %.1f s", self._name, message.pid, message.load_s)
                self._calls.on_loaded()
            case _:
                if isinstance(message, Heartbeat):
                    self.last_heartbeat_at = time.time()
                self._calls.on_message(message)

    async def _watch(self, child: Child[FromAny, ToAny]) -> None:
        """Kill an engine that has gone silent.

        Counts looks, not seconds: when this very process was stopped for a while, one look passes
        and the engine's messages of that time are still to be read.
        """
        pause_s = SILENCE_S / _WATCHES_PER_SILENCE
        while True:
            await asyncio.sleep(pause_s)
            self._silent_watches += 1
            limit_s = SILENCE_S if self._is_loaded else LOAD_SILENCE_S
            if self._silent_watches * pause_s > limit_s:
                self._verdict = f"the engine gave no sign of life for {limit_s:g} s and was killed"
                child.kill_soon()
                return

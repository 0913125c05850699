"""An engine process: started, watched, started again when it dies."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from takeoff.errors import ModelError
from takeoff.ipc.beacon import Beacon, make_beacon_file
from takeoff.ipc.channel import ChannelClosed
from takeoff.ipc.messages import (
    Encoded,
    EncoderLoaded,
    FromEncoder,
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadEncoder,
    LoadFailed,
    Progress,
    Step,
    TakeOver,
    ToEncoder,
    ToEngine,
)
from takeoff.sandbox.policy import Mode
from takeoff.service.backoff import Backoff
from takeoff.service.child import Child
from takeoff.service.kept_prefixes import KeptPrefixes, Origin, origin_of
from takeoff.service.policies import policy_of
from takeoff.service.pulse import LOOK_S, Pulse, Verdict
from takeoff.service.replicas import ReplicaFacts
from takeoff.service.standby import Standby

HOPELESS_CRASHES = 3  # while loading, one after the other: it is the weights

logger = logging.getLogger(__name__)

FromAny = FromEngine | FromEncoder
ToAny = ToEngine | ToEncoder


# Nothing in a process sends itself these: it was somebody else, or a kernel short of memory.
FROM_OUTSIDE = frozenset(
    {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
)


@dataclass(frozen=True, slots=True)
class Death:
    """How an engine ended."""

    error: str
    is_crash: bool = False  # it may have died of what it computed; False: it was ended from outside
    in_call: frozenset[int] = frozenset()  # ids of the requests in the call that was running
    is_refusal: bool = False  # it said itself that it can't load the model


class Purpose(NamedTuple):
    """What engines have in common that can take each other's place."""

    origin: Origin
    prefixes: int  # number of the file of their prefix cache


@dataclass(frozen=True, slots=True)
class EngineCalls:
    """What is told of an engine, in the event loop."""

    on_message: Callable[[FromAny], None]  # its news and answers, and its heartbeats
    on_loaded: Callable[[], None]
    on_death: Callable[[Death, bool], None]  # how, and whether another will be started
    next_load: Callable[[bool], Load | LoadEncoder]  # for another; told whether the last one could be loaded


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
        sandbox: Mode = "auto",
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
        self._sandbox = sandbox
        self._beacon_file = make_beacon_file()
        self._beacon = Beacon(self._beacon_file.fileno())
        self._prefixes = KeptPrefixes()
        self._standby = Standby(name, self._start)
        self._told = load  # to the present engine: `load` with the files that it inherits
        self._purpose: Purpose | None = None  # of the present engine, if it generates
        self._proven: Purpose | None = None  # of the last engine that loaded
        self._is_loaded = False  # the present process
        self._was_useful = False  # it has told news of its work
        self._child: Child[FromAny, ToAny] | None = None
        self._task: asyncio.Task[None] | None = None
        self._verdict: Verdict | None = None  # why we killed the present process ourselves

    @property
    def pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    @property
    def standby_pid(self) -> int | None:
        return self._standby.pid

    @property
    def replicas(self) -> list[ReplicaFacts]:
        """None: it is alone."""
        return []

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
        await self._standby.stop()
        self._beacon_file.close()
        self._prefixes.close()

    async def _run(self) -> None:
        backoff, crashed_loads = Backoff(), 0
        while True:
            started_at = time.monotonic()
            death = await self._live_once()
            has_served = self.loaded is not None
            crashed_loads = 0 if self._is_loaded else crashed_loads + death.is_crash
            could_load = crashed_loads < HOPELESS_CRASHES and not death.is_refusal
            self._is_loaded = False
            self._calls.on_death(death, has_served)
            if not has_served:
                logger.error("%s: %s", self._name, death.error)
                return
            has_worked = not death.is_crash and self._beacon.num_calls > 1  # and was ended before its news
            was_useful = self._was_useful or has_worked
            self._prefixes.note_death(was_useful=was_useful, is_crash=death.is_crash)
            wait_s = backoff.after(time.monotonic() - started_at, was_useful=was_useful)
            logger.warning("%s: %s; starting another engine in %g s", self._name, death.error, wait_s)
            self.num_restarts += 1
            await asyncio.sleep(wait_s)
            self._load = self._calls.next_load(could_load)

    async def _live_once(self) -> Death:
        """One engine process from start to death; returns how it ended."""
        self._verdict = None
        self._was_useful = False
        self._beacon.clear()
        self.progress = 0.0
        try:
            child, order = await self._next_process()
        except OSError as exc:
            return Death(f"the engine could not be started: {exc}")
        self._child = child
        pulse = Pulse(self._beacon, Path(f"/proc/{child.pid}"))
        watch = asyncio.create_task(self._watch(child, pulse), name=f"watch {self._name}")
        try:
            child.channel.send(order)
            while True:
                message = await child.channel.receive()
                pulse.heard()
                self._take(message)
        except ChannelClosed:
            doing = "serving" if self._is_loaded else "loading the model"
            ending = await child.kill()
            told = f"the engine died while {doing}: {ending}"
            verdict = self._verdict or Verdict(told, is_crash=child.signal not in FROM_OUTSIDE)
            return Death(verdict.error, verdict.is_crash, self._beacon.in_work)
        except ModelError as exc:
            await child.stop()
            return Death(exc.message, is_refusal=True)
        finally:
            watch.cancel()

    async def _next_process(self) -> tuple[Child[Any, Any], ToAny]:
        """One that stands by, or a new one; and what to tell it.

        Raises OSError: no process or no memory is to be had.
        """
        self._told = msgspec.structs.replace(self._load, beacon_fd=self._beacon_file.fileno())
        if isinstance(self._told, Load):
            self._told = self._inheriting(self._told)
            child = await self._standby.take(self._purpose)
            if child is not None:
                return child, TakeOver()
        return await self._start(self._told), self._told

    def _inheriting(self, load: Load) -> Load:
        """With what the last engine has left behind for one that computes the same."""
        origin = origin_of(load)
        arena_fd = self._prefixes.fd_for(origin)
        self._purpose = Purpose(origin, self._prefixes.number)
        is_checked = self._proven is not None and self._proven.origin == origin
        return msgspec.structs.replace(load, arena_fd=arena_fd, is_checked=is_checked)

    async def _start(self, load: Load | LoadEncoder) -> Child[Any, Any]:
        keep = [load.turns_fd, load.beacon_fd, load.arena_fd if isinstance(load, Load) else None]
        incoming = FromEngine if isinstance(load, Load) else FromEncoder
        return await Child.start(
            self._command,
            incoming,
            self._environ,
            policy_of(load, self._sandbox),
            keep_fds=[fd for fd in keep if fd is not None],
        )

    def _engine_loaded(self, load: Load) -> None:
        """From now on another may stand by, and what this one has proved need not be proved again."""
        self._proven = self._purpose
        if load.has_standby:
            self._standby.prepare(msgspec.structs.replace(load, is_checked=True), self._purpose)

    def _take(self, message: FromAny) -> None:
        match message:
            case Progress(share=share):
                self.progress = share
            case LoadFailed(error=error):
                raise ModelError(error)
            case Loaded() | EncoderLoaded():
                self.loaded = message
                self._is_loaded = True
                if isinstance(self._told, Load):
                    self._engine_loaded(self._told)
                logger.info("%s: engine %d loaded in %.1f s", self._name, message.pid, message.load_s)
                self._calls.on_loaded()
            case _:
                if isinstance(message, Heartbeat):
                    self.last_heartbeat_at = time.time()
                self._was_useful |= isinstance(message, Step | Encoded)
                self._calls.on_message(message)

    async def _watch(self, child: Child[FromAny, ToAny], pulse: Pulse) -> None:
        """Kill an engine that does not live, or does not get on."""
        while self._verdict is None:
            await asyncio.sleep(LOOK_S)
            self._verdict = pulse.look(is_loaded=self._is_loaded)
        child.kill_soon()

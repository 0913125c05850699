"""`takeoff demo unbreakable`: the same streams twice, undisturbed and with an engine that is killed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from takeoff.bench.told import ON_ITS_WAY_S, Told
from takeoff.demo.server import own_server
from takeoff.demo.streams import Door, bodies, listen
from takeoff.errors import StartError

TICK_S = 0.1  # between two looks at the streams
PROMPT_TOKENS = 64  # more than any opening has


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be shown."""

    model: str
    streams: int
    tokens: int  # of each stream
    every_s: float  # seconds of text between two kills
    max_kills: int | None = None  # None: as many as come
    is_exact: bool = True  # every text must be that of the undisturbed run
    has_replay: bool = True

    def flags(self) -> list[str]:
        """Of a server that has a slot for each stream."""
        return [
            *("--model", self.model),
            *("--max-slots", str(self.streams), "--long-slots", "0"),
            *("--context", str(PROMPT_TOKENS + self.tokens)),
            "--deterministic" if self.is_exact else "--no-deterministic",
            "--replay" if self.has_replay else "--no-replay",
        ]


@dataclass(eq=False, slots=True)
class Kill:
    """One engine that was killed."""

    at: float  # of time.monotonic
    pid: int
    resumed_at: float | None = None  # when every open stream had text again


class Watch(Protocol):
    """Somebody who sees the show."""

    def note(self, text: str) -> None:
        """Something has happened."""

    def draw(self) -> None:
        """Time has passed."""


class Killable(Protocol):
    """A server whose engine may be killed."""

    def kill_engine(self) -> int | None:
        """Returns the process id; None: none is there to be killed."""


@dataclass(eq=False, slots=True)
class Show:
    """What has happened until now."""

    plan: Plan
    server_said: str = ""  # last
    undisturbed: list[Told] = field(default_factory=list)
    disturbed: list[Told] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)
    flows_since: float | None = None  # every open stream has had text since the last kill; None: not yet

    @property
    def streams(self) -> list[Told]:
        """Those of the run that is on."""
        return self.disturbed or self.undisturbed

    @property
    def num_tokens(self) -> int:
        return sum(told.num_tokens for told in self.streams)

    @property
    def next_kill_at(self) -> float | None:
        """When it is due; None: no one knows, or there is none."""
        if self.flows_since is None or len(self.kills) == self.plan.max_kills:
            return None
        return self.flows_since + self.plan.every_s


async def perform(show: Show, home_flags: list[str], watch: Watch) -> None:
    """Start a server, run the streams undisturbed, then with kills. Cancelling this ends all of it.

    Raises:
        StartError: the server did not start, or a stream failed while nothing was disturbed.
    """
    plan = show.plan

    def say(line: str) -> None:
        show.server_said = line
        watch.draw()

    watch.note(f"starting a server of {plan.streams} slots with {plan.model}")
    async with own_server(*plan.flags(), *home_flags) as server:
        door = await server.ready(say)
        show.undisturbed = [Told() for _ in range(plan.streams)]
        watch.note(f"first undisturbed: {plan.streams} streams of {plan.tokens} tokens")
        began = time.monotonic()
        await _stream(show, door, watch.draw)
        if failed := [told.error for told in show.undisturbed if told.error is not None]:
            raise StartError(f"{len(failed)} streams failed before anything was killed: {failed[0]}")
        watch.note(f"done after {time.monotonic() - began:.1f} s; now the same, and its engine is killed")
        show.disturbed = [Told() for _ in range(plan.streams)]
        killer = Killer(show, server, watch)
        await _stream(show, door, killer.look)


async def _stream(show: Show, door: Door, look: Callable[[], None]) -> None:
    """Ask for all streams at once and read them to their ends; `look` is called again and again."""
    asked = bodies(show.plan.streams, show.plan.tokens)
    pairs = zip(asked, show.streams, strict=True)
    listening = [asyncio.create_task(listen(door, body, told)) for body, told in pairs]
    try:
        left = set(listening)
        while left:
            _, left = await asyncio.wait(left, timeout=TICK_S)
            look()
        for task in listening:
            task.result()
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)


class Killer:
    """Kills the engine whenever all streams have had text for long enough since the last time.

    So no stream is killed twice in one pause, however long a machine takes to compute again what was said.
    """

    def __init__(
        self, show: Show, server: Killable, watch: Watch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show = show
        self._server = server
        self._watch = watch
        self._clock = clock

    def look(self) -> None:
        """To be called again and again; kills when it is time."""
        show, now = self._show, self._clock()
        left = [told for told in show.disturbed if not told.is_over]
        if show.flows_since is None:
            self._see_whether_it_goes_on(left, now)
        elif left and show.next_kill_at is not None and now >= show.next_kill_at:
            self._kill()
        self._watch.draw()

    def _see_whether_it_goes_on(self, left: list[Told], now: float) -> None:
        show = self._show
        killed_at = show.kills[-1].at + ON_ITS_WAY_S if show.kills else 0.0
        if not all(told.news and told.last_news_at > killed_at for told in left):
            return
        show.flows_since = now
        if show.kills:
            kill = show.kills[-1]
            kill.resumed_at = now
            what = "the text goes on" if left else "the streams are over"
            self._watch.note(f"{what} {now - kill.at:.2f} s after the kill")

    def _kill(self) -> None:
        show = self._show
        if (pid := self._server.kill_engine()) is None:
            return
        show.kills.append(Kill(self._clock(), pid))
        show.flows_since = None
        whole = show.plan.streams * show.plan.tokens
        self._watch.note(f"kill {len(show.kills)}: engine {pid}, at {show.num_tokens} of {whole} tokens")

"""A server of the demo's own, and the means to kill its engine."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import psutil

from takeoff.bench.machine import descendants
from takeoff.demo.streams import Door
from takeoff.errors import StartError

STOPPING_S = 5.0  # then it is killed
LINES_KEPT = 50

_ENGINE = "takeoff.engine.process"  # the module that an engine's process runs
_PROGRAM = """\
from takeoff.ipc.lifeline import end_with_stdin
end_with_stdin()  # however we end
from takeoff.cli.main import main
main()
"""
_READY = "ready at "


class OwnServer:
    """A running `takeoff serve`. `door` is known once it has said that it is ready."""

    def __init__(self, process: asyncio.subprocess.Process, key: str) -> None:
        self._process = process
        self._key = key
        self._said: deque[str] = deque(maxlen=LINES_KEPT)
        self._reading: asyncio.Task[None] | None = None

    async def ready(self, say: Callable[[str], None]) -> Door:
        """Wait for its door; `say` gets each line that it says until then.

        Raises:
            StartError: it ended before; with its own message and hint.
        """
        async for line in self._lines():
            say(line)
            if line.startswith(_READY):
                self._reading = asyncio.create_task(self._read_on())
                url = urlsplit(line.split()[2])
                return Door(str(url.hostname), int(url.port or 80), self._key)
        raise self._error()

    def kill_engine(self) -> int | None:
        """Send SIGKILL to this server's engine. Returns its process id; None: none is there to be killed."""
        with contextlib.suppress(psutil.Error):
            for child in descendants(self._process.pid):
                if _ENGINE in child.cmdline() and child.status() not in ("zombie", "dead"):
                    child.kill()
                    return child.pid
        return None

    async def stop(self) -> None:
        """End it and its processes. Idempotent."""
        if self._reading is not None:
            self._reading.cancel()
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), STOPPING_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()

    async def _lines(self) -> AsyncIterator[str]:
        assert self._process.stderr is not None
        async for data in self._process.stderr:
            line = data.decode("utf-8", "replace").strip()
            self._said.append(line)
            yield line

    async def _read_on(self) -> None:
        """So that it never waits for a reader of what it says."""
        async for _ in self._lines():
            pass

    def _error(self) -> StartError:
        told = {
            word: line.removeprefix(f"{word}: ")
            for line in self._said
            for word in ("error", "hint")
            if line.startswith(f"{word}: ")
        }
        last = self._said[-1] if self._said else "it said nothing"
        return StartError(f"the server did not start: {told.get('error', last)}", hint=told.get("hint"))


@contextlib.asynccontextmanager
async def own_server(*flags: str) -> AsyncIterator[OwnServer]:
    """Start `takeoff serve` with `flags` on a free port of this machine's own, and end it with the block.

    Only the caller can use it: it asks for a key that was drawn now. No `TAKEOFF_` variable has an effect.
    """
    key = secrets.token_urlsafe(24)
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TAKEOFF_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _PROGRAM, "serve", "--host", "127.0.0.1", "--port", "0"),
        *(f"--{door}-port=off" for door in ("takeoff", "management", "openai")),
        *flags,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**environ, "TAKEOFF_API_KEY": key, "NO_COLOR": "1", "TERM": "dumb"},
        start_new_session=True,  # a terminal's Ctrl-C is for us alone
    )
    server = OwnServer(process, key)
    try:
        yield server
    finally:
        await server.stop()

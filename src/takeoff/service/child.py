"""A child process and the channel to it: started, told, ended, never left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Generic, TypeVar

from takeoff.errors import EngineFailed, InvalidRequest, PreparerFailed, PromptTooLong, TakeoffError
from takeoff.ipc.channel import AsyncChannel, socket_pair
from takeoff.sandbox.policy import Policy, child_environment

DYING_S = 0.1  # between the closing of its socket and the end of a process
EXIT_GRACE_S = 2.0  # a child whose socket closed has this long before it is killed

# What went wrong in a child, as it says it -> the error that a client sees.
ERRORS: Mapping[str, type[TakeoffError]] = MappingProxyType(
    {kind.code: kind for kind in (InvalidRequest, PromptTooLong, PreparerFailed, EngineFailed)}
)

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class Child(Generic[Incoming, Outgoing]):
    """One running child. Create it with `start`; whoever does must call `stop` or `kill`."""

    def __init__(
        self, process: asyncio.subprocess.Process, channel: AsyncChannel[Incoming, Outgoing]
    ) -> None:
        self._process = process
        self.channel = channel

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        incoming: type[Incoming] | object,
        environ: Mapping[str, str],
        policy: Policy,
        *,
        keep_fds: Sequence[int] = (),
    ) -> Child[Incoming, Outgoing]:
        """Run `command` with the number of its end of a socket pair as last argument.

        Of our open files it gets `keep_fds` only, under their own numbers; of our environment what
        `child_environment` names, and `environ`: it parses strangers' files.

        The child gets a session of its own: Ctrl-C in the terminal is for us, who drain it.

        Raises:
            OSError: no process or no file descriptor is to be had.
        """
        ours, theirs = socket_pair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), *keep_fds),
                start_new_session=True,
                env=child_environment(os.environ, policy) | dict(environ),
            )
        except BaseException:  # also when whoever starts it is cancelled
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            return cls(process, await AsyncChannel.open(ours, incoming))
        except BaseException:
            ours.close()
            process.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.returncode is None

    @property
    def signal(self) -> int | None:
        """That ended it; None: it runs, or ended by itself."""
        code = self._process.returncode
        return -code if code is not None and code < 0 else None

    async def stop(self) -> str:
        """Close the socket, which is the order to end; kill what does not. Returns how it ended."""
        self.channel.close()
        try:
            await asyncio.wait_for(self._process.wait(), EXIT_GRACE_S)
        except TimeoutError:
            return await self.kill()
        return self._ending()

    async def kill(self) -> str:
        """End it now, whatever it does (a stopped process too). Returns how it ended.

        One that is dying already is left the time to: to signal it would be to reap it behind
        asyncio's back, and its own ending would be lost.
        """
        self.channel.close()
        try:
            await asyncio.wait_for(self._process.wait(), DYING_S)
        except TimeoutError:
            self.kill_soon()
            await self._process.wait()
        return self._ending()

    def kill_soon(self) -> None:
        """Send the kill; the channel closes when it took effect."""
        if self._process.returncode is None:
            self._process.kill()

    def _ending(self) -> str:
        code = self._process.returncode
        if code is not None and code < 0:
            return f"it was killed by signal {-code} ({signal.Signals(-code).name})"
        return f"it ended with exit code {code}"

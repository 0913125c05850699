"""The doors of a running server: their sockets, and the servers behind them."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import TYPE_CHECKING

from takeoff.errors import StartError

if TYPE_CHECKING:
    from takeoff.http.server import DoorServer
    from takeoff.keys.keyring import Keyring
    from takeoff.observe.lines import Logs
    from takeoff.service.service import Service
    from takeoff.settings import Settings

FRONT = "port"
TITLES = {  # by the setting that holds the port; the front door comes first
    FRONT: "front door",
    "takeoff_port": "Takeoff API",
    "management_port": "management",
    "openai_port": "OpenAI API",
}
CLOSING_S = 2.0  # for responses that have ended to reach their clients
OWN_DESCRIPTORS = 256  # files, and pipes to the readers' processes, also to those that follow dead ones


class Doors:
    """All places to listen at. The front door is always there."""

    def __init__(self, settings: Settings, *, shares_ports: bool = False) -> None:
        """Take the ports. One that nobody named and that is taken is done without; see `notes`.

        `shares_ports`: other processes of this user may listen at them too, and each gets its part of the
        connections.

        Raises:
            StartError: a port that was named is taken, or the front door's is.
        """
        self.notes: list[str] = []
        self._settings = settings
        self._shares_ports = shares_ports
        self._sockets: dict[str, socket.socket] = {}
        self._servers: list[DoorServer] = []
        self._tasks: list[asyncio.Task[None]] = []
        try:
            for name in TITLES:
                self._listen(name)
        except StartError:
            self._close_sockets()
            raise
        wanted = len(self._sockets) * settings.max_connections + OWN_DESCRIPTORS
        if (most := _raise_open_files(wanted)) < wanted:
            self.notes.append(
                f"the system allows {most} open files, and connections may take {wanted}: raise its limit, "
                "or set a smaller --max-connections"
            )

    @property
    def ports(self) -> dict[str, int]:
        """The port of every open door, by the name of its setting."""
        return {name: sock.getsockname()[1] for name, sock in self._sockets.items()}

    async def serve(self, service: Service, keys: Keyring, logs: Logs) -> None:
        """Answer at every door until `close`, those who have one of `keys`."""
        from takeoff.http.app import make_app, make_management_app, make_openai_app, make_takeoff_app
        from takeoff.http.request_log import RequestLog
        from takeoff.http.resuming import KeptStreams
        from takeoff.http.server import DoorServer

        streams = KeptStreams(self._settings)
        makers = {
            FRONT: make_app,
            "takeoff_port": make_takeoff_app,
            "management_port": make_management_app,
            "openai_port": make_openai_app,
        }
        log = RequestLog.of(logs, self._settings)
        for name, sock in self._sockets.items():
            app = makers[name](
                service, self._settings, ports=self.ports, keys=keys, streams=streams, logs=logs
            )
            server = DoorServer(app, self._settings, sock, log)
            self._servers.append(server)
            self._tasks.append(asyncio.create_task(server.serve(), name=TITLES[name]))
        await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)

    def accept_no_more(self) -> None:
        """Close what is idle, and let what is in work end."""
        for server in self._servers:
            server.stop()

    async def close(self) -> None:
        """Accept nothing more; cut what does not end by itself. Idempotent."""
        self.accept_no_more()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=CLOSING_S)
            if late:
                for server in self._servers:
                    server.cut()
            await asyncio.gather(*self._tasks)
        self._close_sockets()

    def _listen(self, name: str) -> None:
        from takeoff.http.server import listen

        port = getattr(self._settings, name)
        if port is None:
            return
        try:
            flag = f"--{name.replace('_', '-')}"
            shares = self._shares_ports
            self._sockets[name] = listen(self._settings.host, port, flag=flag, shares_port=shares)
        except StartError as exc:
            if name == FRONT or name in self._settings.named:
                raise
            self.notes.append(f"no {TITLES[name]}: {exc.message}")

    def _close_sockets(self) -> None:
        for sock in self._sockets.values():
            sock.close()


def _raise_open_files(wanted: int) -> int:
    """Let this process have so many open files, as far as the system allows it; returns how many it may.

    The usual limit is 1,024, which connections could use up: then no engine could be started.
    """
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most

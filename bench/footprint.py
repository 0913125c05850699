"""What the processes of a server hold: memory, file descriptors, threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psutil

from takeoff.bench.growth import Holding
from takeoff.bench.machine import descendants

FRONT = "front"
ROLES = {
    "takeoff.engine.process": "engine",
    "takeoff.engine.encoder.process": "encoder",
    "takeoff.prepare.process": "preparer",
}


def holdings(server_pid: int) -> list[Holding]:
    """Of a server's front and of all its children that live."""
    return list(_holdings(psutil.Process(server_pid)))


def _holdings(server: psutil.Process) -> Iterator[Holding]:
    has_engine = False
    for process in (server, *descendants(server.pid)):
        with contextlib.suppress(psutil.Error, OSError):  # it may end meanwhile
            role = FRONT if process == server else role_of(process)
            if role is None or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_STOPPED):
                continue
            if role == "engine":
                role, has_engine = "standby" if has_engine else role, True
            memory_mb = process.memory_full_info().pss / 1e6
            yield Holding(role, process.pid, memory_mb, process.num_fds(), process.num_threads())


def role_of(child: psutil.Process) -> str | None:
    """None: of a process that is just being started, or is none of the server's own kinds."""
    return next((ROLES[word] for word in child.cmdline() if word in ROLES), None)

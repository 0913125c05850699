"""What the processes of a server hold: memory, file descriptors, threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

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
            own_mb, shared_mb = memory_mb(process.pid)
            yield Holding(role, process.pid, own_mb, shared_mb, process.num_fds(), process.num_threads())


def memory_mb(pid: int) -> tuple[float, float]:
    """A process's own memory, and its share of shared memory; files that it has mapped are nobody's.

    Source: proc_pid_smaps_rollup(5). Raises OSError: it has ended.
    """
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, _, told = line.partition(":")
        kilobytes[name] = int(told.split()[0])
    own = kilobytes["Pss_Anon"] + kilobytes["SwapPss"]
    return own * 1.024 / 1e3, kilobytes["Pss_Shmem"] * 1.024 / 1e3


def role_of(child: psutil.Process) -> str | None:
    """None: of a process that is just being started, or is none of the server's own kinds."""
    return next((ROLES[word] for word in child.cmdline() if word in ROLES), None)

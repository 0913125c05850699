"""What the machine is, what a server's processes hold of its memory, and what the client itself takes."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

SHORTEST_SPAN_S = 0.1
_SECRET_WORDS = ("key", "token", "password", "secret")


def machine() -> dict[str, Any]:
    """Processor, memory in bytes, system."""
    return {
        "processor": _processor(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def listener_pid(host: str, port: int) -> int | None:
    """The process of this machine that listens there; None where we can't see one.

    Of a parent and its children that listen together it is the parent.
    """
    if not host.startswith("127."):
        return None
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    pids = [
        c.pid
        for c in connections
        if c.status == psutil.CONN_LISTEN and tuple(c.laddr)[1:] == (port,) and c.pid
    ]
    return min(pids, default=None)


def descendants(pid: int) -> list[psutil.Process]:
    """The processes below one, the oldest first: of a reader's two engines the younger one stands by.

    Raises psutil.Error: it is gone, or not ours.
    """
    return sorted(psutil.Process(pid).children(recursive=True), key=psutil.Process.create_time)


def tree_memory(pid: int | None) -> int | None:
    """Proportional set size of a process and all its descendants, in bytes; None where nobody can tell."""
    if pid is None:
        return None
    try:
        root = psutil.Process(pid)
        return sum(each.memory_full_info().pss for each in [root, *root.children(recursive=True)])
    except (psutil.Error, AttributeError, OSError):  # gone, not ours, or a system that counts otherwise
        return None


def command_line(pid: int | None) -> list[str] | None:
    """With which flags a server runs, its secrets left out; None where nobody can tell."""
    if pid is None:
        return None
    try:
        words = psutil.Process(pid).cmdline()
    except (psutil.Error, OSError):
        return None
    return without_secrets(words)


class CpuShare:
    """How much of one core this process has taken since it was made; the client is one thread.

    0 in a span that is too short to tell.
    """

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> float:
        seconds = time.perf_counter() - self._wall
        return (time.process_time() - self._cpu) / seconds if seconds >= SHORTEST_SPAN_S else 0.0


class OthersShare:
    """How many cores' worth of time other programs have taken since it was made: those that are neither the
    servers, which `pids` and their children are, nor this process.

    None where nobody can tell, and in a span that is too short.
    """

    def __init__(self, pids: Sequence[int | None]) -> None:
        self._pids = pids
        self._wall, self._busy, self._ours = time.perf_counter(), _busy_s(), self._ours_s()

    def read(self) -> float | None:
        seconds, ours = time.perf_counter() - self._wall, self._ours_s()
        if ours is None or self._ours is None or seconds < SHORTEST_SPAN_S:
            return None
        return max(0.0, (_busy_s() - self._busy - (ours - self._ours)) / seconds)

    def _ours_s(self) -> float | None:
        own = time.process_time()
        for pid in self._pids:
            try:
                root = psutil.Process(pid) if pid is not None else None
                times = [each.cpu_times() for each in [root, *root.children(recursive=True)]] if root else []
            except (psutil.Error, OSError):
                return None
            if not times:
                return None
            own += sum(each.user + each.system for each in times)
        return own


def _busy_s() -> float:
    """Seconds of all cores that were not idle since the machine was started."""
    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


def without_secrets(words: list[str]) -> list[str]:
    shown: list[str] = []
    is_secret = False
    for word in words:
        name, equals, _ = word.partition("=")
        names_secret = name.startswith("-") and any(each in name.lower() for each in _SECRET_WORDS)
        shown.append("…" if is_secret else f"{name}=…" if names_secret and equals else word)
        is_secret = names_secret and not equals
    return shown


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

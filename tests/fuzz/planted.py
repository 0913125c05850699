"""Targets with a bug each, of every kind that the driver is to find."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench.fuzzing.target import Place

BAD = b"!"  # what the bug waits for


class Planted:
    """Takes any text, and does what it must not at the one with BAD in it."""

    limit_s = 0.3
    may_be_late = False
    memory_bytes = None
    watches_caller = True

    def __init__(self, bug: Callable[[], object]) -> None:
        self._bug = bug

    def make(self, chance: random.Random) -> bytes:
        return bytes(chance.choices(b"abcdefgh", k=40)) + (BAD if chance.random() < 0.5 else b"") + b"end"

    def run(self, case: bytes) -> bool:
        if BAD in case:
            self._bug()
        return case.startswith((b"a", b"b"))


def an_error(_place: Place) -> Planted:
    def bug() -> None:
        raise KeyError("planted")

    return Planted(bug)


def a_hang(_place: Place) -> Planted:
    return Planted(lambda: time.sleep(60))


def a_native_hang(_place: Place) -> Planted:
    """One that no signal ends, like a loop in a library."""

    def bug() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)

    return Planted(bug)


def a_crash(_place: Place) -> Planted:
    return Planted(lambda: os.kill(os.getpid(), signal.SIGSEGV))


def an_exhaustion(_place: Place) -> Planted:
    target = Planted(lambda: bytearray(1 << 30))
    target.memory_bytes = 1 << 28  # type: ignore[assignment]
    return target


def a_read(_place: Place) -> Planted:
    return Planted(lambda: Path("/etc/hostname").read_bytes())


def a_written_file(place: Place) -> Planted:
    return Planted(lambda: (place.folder.parent / "outside").write_text("x"))


def a_hidden_read(_place: Place) -> Planted:
    """Whoever opens it catches what comes of it."""

    def bug() -> None:
        with contextlib.suppress(OSError):
            Path("/etc/nothing-of-this-name").read_bytes()

    return Planted(bug)


def a_connection(_place: Place) -> Planted:
    def bug() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9), timeout=0.1)

    return Planted(bug)


def a_process(_place: Place) -> Planted:
    return Planted(lambda: subprocess.run([sys.executable, "-c", ""], check=True))

"""What a process opens, connects to and starts, seen by Python's audit hooks; and what of it is forbidden.

It sees what Python does, in every thread but those of the driver itself. What native code opens it does not
see: such code reads strangers' data in the confined processes only, which tests/sandbox tries.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

READS, WRITES = os.O_RDONLY, os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = frozenset(
    {
        *("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"),
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown"),
        *(
            "os.truncate",
            "shutil.rmtree",
            "shutil.copyfile",
            "shutil.move",
            "ctypes.dlopen",
            "urllib.Request",
        ),
    }
)
MODULES = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]))  # Python, libraries and our own code
STARTED = "subprocess.Popen"
OWN_CHILD = "takeoff.sandbox.launch"  # what every process of ours is started by


class Watcher:
    """Notes what is forbidden, in order. One per process, for good: audit hooks can't be taken back."""

    def __init__(
        self, *, readable: Iterable[Path] = (), writable: Iterable[Path] = (), startable: str = ""
    ) -> None:
        """Files under `readable` may be read, and modules; those under `writable` written and removed, too.

        `startable`: what a command may have in it that is started.
        """
        self._writable = (os.devnull, *(str(path.resolve()) for path in writable))
        self._readable = (*MODULES, *self._writable, *(str(path.resolve()) for path in readable))
        self._startable = startable
        self._exempt = {threading.get_ident()}
        self._is_armed = False
        self.seen: list[str] = []
        sys.addaudithook(self._heard)

    def arm(self, *, this_thread: bool) -> None:
        """Begin; `this_thread`: watch the calling thread, too, and not the process's others only."""
        self._exempt = set() if this_thread else {threading.get_ident()}
        self._is_armed = True

    def disarm(self) -> None:
        self._is_armed = False

    def taken(self) -> list[str]:
        """What was seen since it was asked last."""
        seen, self.seen = self.seen, []
        return seen

    def _heard(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._is_armed or event not in _LOOKED_AT or threading.get_ident() in self._exempt:
            return
        if event == "open":
            self._opened(args[0], args[2])
        elif event == STARTED:
            command = " ".join(map(os.fsdecode, args[1]))
            if not self._startable or self._startable not in command:
                self.seen.append(f"started {command!r}")
        elif not (event in _OF_FILES and self._is_below(args[0], self._writable)):
            self.seen.append(f"{event} {args!r}")

    def _opened(self, path: object, flags: object) -> None:
        if isinstance(path, int):  # a descriptor that somebody has opened before
            return
        is_written = isinstance(flags, int) and bool(flags & WRITES)
        if not self._is_below(path, self._writable if is_written else self._readable):
            self.seen.append(f"opened {path!r} to {'write' if is_written else 'read'}")

    def _is_below(self, path: object, roots: tuple[str, ...]) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        full = os.path.realpath(os.fsdecode(path))
        return any(full == root or full.startswith(f"{root}/") for root in roots)


_OF_FILES = frozenset({"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod"})
_LOOKED_AT = FORBIDDEN | {"open", STARTED}

"""A child process must not outlive its parent, however the parent dies."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends; elsewhere do nothing.

    The closed socket says the same to a process that still runs. This reaches one that is stopped,
    or stuck in code that holds the interpreter's lock.

    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_with_stdin() -> None:
    """End this process when its standard input does: for a child that has no socket, on every system."""

    def wait() -> None:
        while os.read(0, 1):  # not by sys.stdin: its lock is wanted when the interpreter ends
            pass
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()

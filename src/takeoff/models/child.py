"""Runs one of the engine's modules to its end, for work on a model that may end its process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator

_KEPT_LINES = 5


class ChildFailed(Exception):
    """What it said last, or how it ended."""


def lines_of(module: str, *arguments: object) -> Iterator[str]:
    """The lines that `python -m module` writes, as they come.

    The module is named, not imported, because imports point the other way. Its standard input stays
    open as long as we are there. It gets none of our settings: it reads a stranger's file.

    Raises:
        ChildFailed: it ended with anything but 0.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(("TAKEOFF_", "LICENSE_"))
    }
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environ,
    ) as child:
        assert child.stdout is not None, "a pipe"
        try:
            for line in map(str.strip, child.stdout):
                if line:
                    last.append(line)
                    yield line
        except BaseException:  # whoever reads has stopped, or was told to
            child.kill()
            raise
    if child.returncode != 0:
        raise ChildFailed(" / ".join(last) or f"it ended with {child.returncode}")

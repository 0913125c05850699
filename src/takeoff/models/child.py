"""Runs one of the engine's modules to its end, for work on a model that may end its process."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Iterator

from takeoff.sandbox.launch import command
from takeoff.sandbox.policy import Policy, child_environment

_KEPT_LINES = 5


class ChildFailed(Exception):
    """What it said last, or how it ended."""


def lines_of(policy: Policy, module: str, *arguments: object) -> Iterator[str]:
    """The lines that a module of ours writes, as they come; it may open what `policy` says.

    The module is named, not imported, because imports point the other way. Its standard input stays
    open as long as we are there. It gets none of our settings: it reads a stranger's file, in the sandbox.

    Raises:
        ChildFailed: it ended with anything but 0.
    """
    last: deque[str] = deque(maxlen=_KEPT_LINES)
    with subprocess.Popen(
        [*command(module), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=child_environment(os.environ, policy),
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

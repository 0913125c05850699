"""Files without a name, which processes inherit, and which end with the last of their users."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
from typing import IO


def nameless_file(name: str, size_bytes: int) -> IO[bytes]:
    """`size_bytes` of zeros; on Linux in memory, and of this size for good. `name` is what /proc shows."""
    file = _file(name)
    file.truncate(size_bytes)
    if sys.platform == "linux":  # who has it mapped would be killed if another made it shorter
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _file(name: str) -> IO[bytes]:
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b")
    return tempfile.TemporaryFile()

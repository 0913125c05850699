"""`lacking NUMBERS COMMAND`: runs COMMAND as on a kernel that lacks some system calls.

NUMBERS: joined by commas.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

from takeoff.sandbox.seccomp import ALLOW, ERROR, install_filter

LANDLOCK = 444
SECCOMP = {"x86_64": 317, "aarch64": 277}[platform.machine()]
NO_NEW_PRIVS = 38


def main() -> None:
    numbers = [int(number) for number in sys.argv[1].split(",")]
    ctypes.CDLL(None).prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    refused = [
        step for number in numbers for step in ((0x15, 0, 1, number), (0x06, 0, 0, ERROR | errno.ENOSYS))
    ]
    install_filter([(0x20, 0, 0, 0), *refused, (0x06, 0, 0, ALLOW)])
    os.execv(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()

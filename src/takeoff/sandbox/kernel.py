"""System calls that Python has no function for."""

from __future__ import annotations

import ctypes
import os


def call(number: int, *arguments: object) -> int:
    """Make a system call.

    Raises:
        OSError: as the kernel answered.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    result = int(libc.syscall(ctypes.c_long(number), *map(_word, arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _word(argument: object) -> object:
    """Integers as wide as a register: a variadic function is told no types."""
    return ctypes.c_long(argument) if isinstance(argument, int) else argument

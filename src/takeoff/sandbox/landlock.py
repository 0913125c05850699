"""Landlock: from here on, this process opens nothing but what lies below the paths that it names.

Source: Documentation/userspace-api/landlock.rst and linux/landlock.h. Numbers of the calls are the same
on all machines.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable

from takeoff.sandbox.kernel import call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1

# Rights, LANDLOCK_ACCESS_FS_*
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
_REMOVE_FILE, _MAKE_DIR, _MAKE_REG = 1 << 5, 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_FIRST_RIGHTS = (1 << 13) - 1  # of ABI 1
_OF_FILES = 1 | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_TCP = 0b11  # bind, connect
_SCOPES = 0b11  # abstract Unix sockets, signals: none that lead out of the sandbox

READ = _READ_FILE | _READ_DIR
WRITE = READ | _WRITE_FILE | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE
NAMES = READ | _WRITE_FILE | _TRUNCATE  # as a thread's, which are written into files that are there
DEVICE = READ | _WRITE_FILE | _IOCTL_DEV


def abi() -> int:
    """The version of Landlock that this kernel has.

    Raises:
        OSError: it has none, or it is switched off, or refused here.
    """
    return call(_CREATE_RULESET, None, 0, _VERSION)


def restrict(paths: Iterable[tuple[str, int]]) -> str | None:
    """Restrict this thread, and those that it starts, for good; why not, if that can't be.

    Args:
        paths: each with its rights; one that does not exist is left out, rights that this kernel does
            not know are not asked for.

    The process must have no_new_privs, and one thread.
    """
    try:
        version = abi()
        ruleset = _make_ruleset(version)
    except OSError as exc:
        return _why(exc)
    try:
        for path, rights in paths:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                _allow(ruleset, path, rights & _rights(version))
        call(_RESTRICT_SELF, ruleset, 0)
    except OSError as exc:
        return _why(exc)
    finally:
        os.close(ruleset)
    return None


def _make_ruleset(version: int) -> int:
    """A file descriptor; everything that this version can refuse is refused."""
    words = [_rights(version)]
    if version >= 4:
        words.append(_TCP)
    if version >= 6:
        words.append(_SCOPES)
    attributes = struct.pack(f"={len(words)}Q", *words)
    return call(_CREATE_RULESET, ctypes.c_char_p(attributes), len(attributes), 0)


def _rights(version: int) -> int:
    newer = {2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
    return _FIRST_RIGHTS | sum(right for since, right in newer.items() if version >= since)


def _allow(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        attributes = struct.pack("=Qi", rights, descriptor)  # struct landlock_path_beneath_attr
        call(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.c_char_p(attributes), 0)
    finally:
        os.close(descriptor)


def _why(error: OSError) -> str:
    reasons = {
        errno.ENOSYS: "the kernel was built without Landlock",
        errno.EOPNOTSUPP: "Landlock is switched off when the kernel starts",
        errno.EPERM: "Landlock is refused here, as by a container",
    }
    return reasons.get(error.errno or 0, f"Landlock does not work here ({error.strerror})")

"""A filter of system calls: assembled here, run by the kernel before each call of the process.

Source: Documentation/userspace-api/seccomp_filter.rst; linux/seccomp.h, linux/filter.h, linux/audit.h.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from collections.abc import Sequence

from takeoff.sandbox.kernel import call
from takeoff.sandbox.syscalls import ALLOWED, BOUND, CLONE3, FOR_GPU, LAST_KNOWN, Check, Numbers, checks

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
KILL = 0x80000000  # SECCOMP_RET_KILL_PROCESS
ERROR = 0x00050000  # SECCOMP_RET_ERRNO, the number in the low 16 bits

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the numbers, AUDIT_ARCH_*

_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; both machines are little-endian
_LOAD, _EQUAL, _GREATER, _HAS_BIT, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER = 1
_TSYNC = 1  # all threads, whichever there are
_SPEC_ALLOW = 4  # without it, kernels before 5.16 slow the whole process down

Instruction = tuple[int, int, int, int]  # code, steps to skip if true, if false, operand


def make_filter(machine: str, pid: int, *, gpu: bool = False) -> list[Instruction]:
    """The program for the process `pid`; `gpu`: with what a GPU's driver needs.

    A call of another machine ends the process; one that is not allowed fails with EPERM, one that is
    unknown, or has a form that can be looked at, with ENOSYS: a program then does without it.
    """
    column, arch = MACHINES[machine]
    refuse, lack = ERROR | errno.EPERM, ERROR | errno.ENOSYS
    program = [_load(_ARCH), (_EQUAL, 1, 0, arch), _return(KILL)]
    program += [_load(_NUMBER), (_GREATER, 0, 1, LAST_KNOWN), _return(lack)]
    for number in _numbers(ALLOWED, column).values():
        program += [(_EQUAL, 0, 1, number), _return(ALLOW)]
    conditions = checks(pid)
    bound = BOUND | FOR_GPU if gpu else BOUND
    for name, number in _numbers(bound, column).items():
        block = [step for check in conditions[name] for step in _checked(check, refuse)] + [_return(ALLOW)]
        program += [(_EQUAL, 0, len(block), number), *block]
    for number in _numbers(CLONE3, column).values():
        program += [(_EQUAL, 0, 1, number), _return(lack)]
    return [*program, _return(refuse)]


def install_filter(program: Sequence[Instruction]) -> None:
    """Put a program before every call of every thread of this process, for good.

    The process must have no_new_privs.

    Raises:
        OSError: the kernel has no such filters, or refuses them here.
    """
    steps = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(steps, len(steps))
    head = struct.pack("@HP", len(steps) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    call(_SECCOMP[platform.machine()], _SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, ctypes.c_char_p(head))


def _numbers(names: Numbers, column: int) -> dict[str, int]:
    found = {name: numbers[column] for name, numbers in names.items()}
    return {name: number for name, number in found.items() if number is not None}


def _checked(check: Check, otherwise: int) -> list[Instruction]:
    offset = _ARGUMENTS + 8 * check.argument + 4 * check.high
    test: Instruction = (_EQUAL, 1, 0, check.value)
    if check.kind == "differs":
        test = (_EQUAL, 0, 1, check.value)
    elif check.kind == "lacks":
        test = (_HAS_BIT, 0, 1, check.value)
    elif check.kind == "has":
        test = (_HAS_BIT, 1, 0, check.value)
    return [_load(offset), test, _return(otherwise)]


def _load(offset: int) -> Instruction:
    return (_LOAD, 0, 0, offset)


def _return(what: int) -> Instruction:
    return (_RETURN, 0, 0, what)

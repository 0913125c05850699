"""The filter's verdicts on both machines, by an interpreter of its program: only one machine is here."""

from __future__ import annotations

import errno
from collections.abc import Sequence

import pytest
from tests.sandbox.refused_calls import REFUSED

from takeoff.sandbox.seccomp import ALLOW, ERROR, KILL, MACHINES, Instruction, make_filter
from takeoff.sandbox.syscalls import ALLOWED, BOUND, FOR_GPU, LAST_KNOWN

PID = 4_321
CLONE_THREAD, CLONE_VM, SIGCHLD = 0x10000, 0x100, 17
TIOCSTI, TCGETS = 0x5412, 0x5401
REFUSE, LACK = ERROR | errno.EPERM, ERROR | errno.ENOSYS


def verdict(program: Sequence[Instruction], arch: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a call. Source: Documentation/networking/filter.rst."""
    values = [*arguments, *[0] * (6 - len(arguments))]
    words = {0: number, 4: arch}
    for index, value in enumerate(values):
        words[16 + 8 * index], words[20 + 8 * index] = value & 0xFFFFFFFF, value >> 32
    place, accumulator = 0, 0
    while True:
        code, if_true, if_false, operand = program[place]
        place += 1
        match code:
            case 0x20:
                accumulator = words[operand]
            case 0x06:
                return operand
            case 0x15:
                place += if_true if accumulator == operand else if_false
            case 0x25:
                place += if_true if accumulator > operand else if_false
            case 0x45:
                place += if_true if accumulator & operand else if_false
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.fixture(params=MACHINES)
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_each_allowed_call_is_allowed_and_each_refused_one_is_not(machine: str) -> None:
    column, arch = MACHINES[machine]
    program = make_filter(machine, PID)
    assert len(program) < 4_096  # BPF_MAXINSNS
    for calls, expected in ((ALLOWED, ALLOW), (REFUSED, REFUSE)):
        numbers = {name: each[column] for name, each in calls.items()}
        found = {name: verdict(program, arch, n) for name, n in numbers.items() if n is not None}
        assert found == dict.fromkeys(found, expected)
        assert len(found) > 40


def test_a_gpu_gets_a_socket_that_listens_and_none_that_sends_anywhere(machine: str) -> None:
    column, arch = MACHINES[machine]
    socket, bind, listen = (FOR_GPU[name][column] or -1 for name in ("socket", "bind", "listen"))
    program, without = make_filter(machine, PID, gpu=True), make_filter(machine, PID)
    stream, datagram, raw, packets, closing = 1, 2, 3, 5, 0o2000000
    unix, internet, netlink = 1, 2, 16
    for kind in (stream, packets, stream | closing):
        assert verdict(program, arch, socket, unix, kind, 0) == ALLOW
        assert verdict(without, arch, socket, unix, kind, 0) == REFUSE
    for kind in (datagram, raw, datagram | closing):
        assert verdict(program, arch, socket, unix, kind, 0) == REFUSE
    for family in (internet, netlink):
        assert verdict(program, arch, socket, family, stream, 0) == REFUSE
    for number in (bind, listen):
        assert (verdict(program, arch, number, 3), verdict(without, arch, number, 3)) == (ALLOW, REFUSE)
    calls = {name: each[column] for name, each in REFUSED.items() if name not in FOR_GPU}
    found = {name: verdict(program, arch, n) for name, n in calls.items() if n is not None}
    assert found == dict.fromkeys(found, REFUSE)


def test_no_number_has_two_meanings(machine: str) -> None:
    column, _ = MACHINES[machine]
    calls = [each[column] for table in (ALLOWED, BOUND, REFUSED) for each in table.values()]
    numbers = [number for number in calls if number is not None]
    assert len(numbers) == len(set(numbers))


def test_calls_of_another_machine_end_the_process(machine: str) -> None:
    other = next(arch for name, (_, arch) in MACHINES.items() if name != machine)
    assert verdict(make_filter(machine, PID), other, 0) == KILL


def test_calls_of_later_kernels_and_of_x32_are_not_there(machine: str) -> None:
    _, arch = MACHINES[machine]
    program = make_filter(machine, PID)
    for number in (LAST_KNOWN + 1, 0x40000000 | 59, 435):  # 435: clone3, whose flags no filter sees
        assert verdict(program, arch, number) == LACK


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("clone", (CLONE_VM | CLONE_THREAD,), ALLOW),
        ("clone", (CLONE_VM | SIGCHLD,), REFUSE),
        ("kill", (PID, 9), ALLOW),
        ("kill", (PID + 1, 9), REFUSE),
        ("kill", (0xFFFFFFFFFFFFFFFF, 9), REFUSE),  # -1: everyone
        ("kill", (0, 9), REFUSE),  # the process group
        ("tgkill", (PID, PID + 5, 6), ALLOW),
        ("tgkill", (PID + 1, PID + 1, 6), REFUSE),
        ("prlimit64", (0, 4), ALLOW),
        ("prlimit64", (PID, 4), REFUSE),
        ("setpriority", (0, 0, 10), ALLOW),
        ("setpriority", (0, PID, 10), REFUSE),
        ("setpriority", (2, 0, 10), REFUSE),  # all that the user runs
        ("ioctl", (0, TCGETS), ALLOW),
        ("ioctl", (0, TIOCSTI), REFUSE),
        ("ioctl", (0, TIOCSTI | 0xFFFFFFFF00000000), REFUSE),  # the kernel looks at 32 bits
        ("utimensat", (5, 0), ALLOW),
        ("utimensat", (5, 0x7F0000000000), REFUSE),  # a path
        ("utimensat", (5, 0x10), REFUSE),
    ],
)
def test_what_an_argument_decides(machine: str, name: str, arguments: tuple[int, ...], expected: int) -> None:
    column, arch = MACHINES[machine]
    number = BOUND[name][column]
    assert number is not None
    assert verdict(make_filter(machine, PID), arch, number, *arguments) == expected

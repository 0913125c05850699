"""The system calls of a child: their numbers on x86-64 and aarch64, and which it may make.

A list of what is allowed, not of what is forbidden: a call that a later kernel brings is refused as one
that this kernel does not have.

Source: asm/unistd_64.h and asm-generic/unistd.h, the kernel's headers, Linux 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LAST_KNOWN = 451  # the highest number of those headers

# name: number on x86-64, on aarch64; None: it has none there
Numbers = dict[str, tuple[int | None, int | None]]

# What a program of threads needs on files that Landlock lets it open, and on the socket that it was given.
ALLOWED: Numbers = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "msync": (26, 227),
    "mincore": (27, 232),
    "madvise": (28, 233),
    "mlock": (149, 228),
    "munlock": (150, 229),
    "mlock2": (325, 284),
    "membarrier": (324, 283),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132),
    "pause": (34, None),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "preadv2": (327, 286),
    "pwritev2": (328, 287),
    "sendfile": (40, 71),
    "copy_file_range": (326, 285),
    "splice": (275, 76),
    "open": (2, None),
    "openat": (257, 56),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "statfs": (137, 43),
    "fstatfs": (138, 44),
    "fadvise64": (221, 223),
    "readahead": (187, 213),
    "fcntl": (72, 25),
    "flock": (73, 32),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "close_range": (436, 436),
    "umask": (95, 166),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rmdir": (84, None),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, None),
    "linkat": (265, 37),
    "pipe": (22, None),
    "pipe2": (293, 59),
    "eventfd2": (290, 19),
    "memfd_create": (319, 279),
    "select": (23, None),
    "pselect6": (270, 72),
    "poll": (7, None),
    "ppoll": (271, 73),
    "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "timerfd_create": (283, 85),
    "timerfd_settime": (286, 86),
    "timerfd_gettime": (287, 87),
    "sendto": (44, 206),
    "recvfrom": (45, 207),
    "sendmsg": (46, 211),
    "recvmsg": (47, 212),
    "sendmmsg": (307, 269),
    "recvmmsg": (299, 243),
    "shutdown": (48, 210),
    "getsockname": (51, 204),
    "getpeername": (52, 205),
    "getsockopt": (55, 209),
    "setsockopt": (54, 208),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "alarm": (37, None),
    "timer_create": (222, 107),
    "timer_settime": (223, 110),
    "timer_gettime": (224, 108),
    "timer_getoverrun": (225, 109),
    "timer_delete": (226, 111),
    "times": (100, 153),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getppid": (110, 173),
    "getpgrp": (111, None),
    "getpgid": (121, 155),
    "getsid": (124, 156),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getgroups": (115, 158),
    "getpriority": (140, 141),
    "getrlimit": (97, 163),
    "setrlimit": (160, 164),
    "getrusage": (98, 165),
    "getcpu": (309, 168),
    "uname": (63, 160),
    "sysinfo": (99, 179),
    "getrandom": (318, 278),
    "capget": (125, 90),
    "exit": (60, 93),
    "exit_group": (231, 94),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "set_tid_address": (218, 96),
    "set_robust_list": (273, 99),
    "get_robust_list": (274, 100),
    "rseq": (334, 293),
    "restart_syscall": (219, 128),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "sched_setaffinity": (203, 122),
    "sched_getparam": (143, 121),
    "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125),
    "sched_get_priority_min": (147, 126),
    "get_mempolicy": (239, 236),
    "set_mempolicy": (238, 237),
    "mbind": (237, 235),
    "arch_prctl": (158, None),
    "prctl": (157, 167),
    "pkey_alloc": (330, 289),
    "pkey_free": (331, 290),
    "pkey_mprotect": (329, 288),
    "landlock_create_ruleset": (444, 444),
}

# Allowed with some arguments only, see `checks`.
BOUND: Numbers = {
    "clone": (56, 220),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "setpriority": (141, 140),
    "utimensat": (280, 88),
}

# Allowed beside these where layers are on a GPU: CUDA's driver (libcuda 580) opens a Unix socket that
# listens, and does not start without it. Nobody can be answered on it, nor called from it.
FOR_GPU: Numbers = {
    "socket": (41, 198),
    "bind": (49, 200),
    "listen": (50, 201),
}

# Refused as a call that the kernel lacks: its flags lie in memory, where no filter sees them, and libraries
# fall back to clone.
CLONE3: Numbers = {"clone3": (435, 435)}


@dataclass(frozen=True, slots=True)
class Check:
    """What one argument must be. `high`: the upper 32 bits of it, else the lower."""

    argument: int
    kind: Literal["equals", "differs", "has", "lacks"]  # has: some bit of `value`; lacks: all
    value: int
    high: bool = False


def checks(pid: int) -> dict[str, tuple[Check, ...]]:
    """What the arguments of the calls in BOUND and FOR_GPU must be, in the process `pid`."""
    itself = (Check(0, "equals", pid),)
    return {
        "clone": (Check(0, "has", _CLONE_THREAD),),  # a thread, no process
        "ioctl": (Check(1, "differs", _TIOCSTI), Check(1, "differs", _TIOCLINUX)),  # typing for the user
        "socket": (Check(0, "equals", _AF_UNIX), Check(1, "lacks", _SENDS_ANYWHERE)),
        "bind": (),
        "listen": (),
        "kill": itself,
        "tgkill": itself,
        "prlimit64": (Check(0, "equals", 0),),
        "setpriority": (Check(0, "equals", 0), Check(1, "equals", 0)),  # of the thread that asks
        "utimensat": (Check(1, "equals", 0), Check(1, "equals", 0, high=True)),  # of a file that is open
    }


# linux/net.h: types without connections, SOCK_DGRAM and SOCK_RAW, have this bit. `sendto`, which is allowed,
# would reach any socket from one of these.
_AF_UNIX = 1
_SENDS_ANYWHERE = 0x2

# linux/sched.h and asm-generic/ioctls.h
_CLONE_THREAD = 0x00010000
_TIOCSTI = 0x5412
_TIOCLINUX = 0x541C

"""Puts this process into the sandbox, and tells what of it is in force.

Each part stands alone, so that a kernel that lacks one still gives the others: limits, no capabilities, no
new privileges, Landlock for files, a filter of system calls. All are for good, and for threads to come.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from takeoff.sandbox import landlock, seccomp
from takeoff.sandbox.kernel import call
from takeoff.sandbox.policy import Policy

MAX_OPEN_FILES = 1024  # a GPU's driver opens hundreds

_PRIVATE = 0o700  # mode of a folder that is made

# linux/prctl.h, linux/capability.h
_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_V3 = 0x20080522
_CAPGET_CAPSET = {"x86_64": (125, 126), "aarch64": (90, 91)}  # numbers of the calls
_READ_ANY_FILE = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH: root may serve another user's model

# What a program of Python, OpenMP and ggml reads besides its libraries: facts of the machine.
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store", "/gnu/store")
_FACTS = (
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/sys/vm",
    "/sys/devices/system",
    "/sys/kernel/mm/transparent_hugepage",
    "/sys/fs/cgroup",
    "/dev/random",
    "/dev/urandom",
)
_GPU_FACTS = ("/proc", "/sys", "/usr/local", "/usr/share", "/etc/OpenCL", "/etc/vulkan", "/opt/rocm")
_GPU_DEVICES = ("nvidia*", "dri", "kfd")
_LINKER = Path("/etc")  # where its list of folders is


@dataclass(frozen=True, slots=True)
class InForce:
    """What the kernel says of this process."""

    no_new_privileges: bool
    no_capabilities: bool  # but to read files
    landlock: int  # its version; 0: files are not confined
    seccomp: bool
    limits: bool

    @property
    def parts(self) -> dict[str, bool]:
        """The parts by their names, and whether each is in force."""
        return {
            "no new privileges": self.no_new_privileges,
            "no capabilities": self.no_capabilities,
            "Landlock": self.landlock > 0,
            "seccomp": self.seccomp,
            "limits": self.limits,
        }

    @property
    def sentence(self) -> str:
        """Such as `seccomp, limits; without Landlock`."""
        names = {"Landlock": f"Landlock {self.landlock}" if self.landlock else "Landlock"}
        having = [names.get(name, name) for name, is_there in self.parts.items() if is_there]
        lacking = [name for name, is_there in self.parts.items() if not is_there]
        return ", ".join(having or ["none"]) + (f"; without {', '.join(lacking)}" if lacking else "")


NOTHING = InForce(False, False, 0, False, False)


def confine(policy: Policy) -> dict[str, str]:
    """Put this process into the sandbox, before it has a second thread and before it reads a model.

    Returns:
        For each part that could not be had, why.
    """
    if sys.platform != "linux":
        return dict.fromkeys(IN_ORDER, f"{sys.platform} has no such thing")
    for folder in policy.writable:
        with suppress(OSError):  # whoever writes there says what is wrong
            Path(folder).mkdir(mode=_PRIVATE, parents=True, exist_ok=True)
    failures = {name: apply(policy) for name, apply in IN_ORDER.items()}
    return {name: why for name, why in failures.items() if why is not None}


def measure() -> InForce:
    """What is in force, asked of the kernel and tried, whatever was asked for."""
    if sys.platform != "linux":
        return NOTHING
    import resource

    status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return InForce(
        no_new_privileges=status["NoNewPrivs"] == "1",
        no_capabilities=int(status["CapEff"], 16) & ~_READ_ANY_FILE == 0,
        landlock=_landlock_in_force(),
        seccomp=status["Seccomp"] == "2" and _is_filtered(),
        limits=resource.getrlimit(resource.RLIMIT_CORE)[1] == 0 and 0 <= most_files <= MAX_OPEN_FILES,
    )


def _landlock_in_force() -> int:
    """Nobody is forbidden the root folder but by Landlock; then its version."""
    try:
        os.close(os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except PermissionError:
        with suppress(OSError):
            return landlock.abi()
    return 0


def _is_filtered() -> bool:
    """A container has a filter of its own, which says nothing of ours: ours refuses sockets."""
    try:
        for end in socket.socketpair():
            end.close()
    except PermissionError:
        return True
    return False


def _limit(_policy: Policy) -> str | None:
    """No core dump, which would write the memory to a file; few open files.

    No limit of processes, which counts all of the user's, nor of file sizes, which would end a child whose
    log goes to a long file: the filter forbids the ones, Landlock the others.
    """
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = MAX_OPEN_FILES if most == resource.RLIM_INFINITY else min(most, MAX_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return None


def _drop_capabilities(_policy: Policy) -> str | None:
    numbers = _CAPGET_CAPSET.get(platform.machine())
    if numbers is None:
        return f"the calls of {platform.machine()} are not known"
    get, put = numbers
    head = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITIES_V3, 0), 8)
    # effective, permitted, inheritable: of the first 32 capabilities, then of the others
    sets = ctypes.create_string_buffer(24)
    try:
        call(get, head, sets)
        _, permitted, *_ = struct.unpack("=6I", sets.raw)
        kept = permitted & _READ_ANY_FILE
        call(put, head, ctypes.c_char_p(struct.pack("=6I", kept, kept, 0, 0, 0, 0)))
    except OSError as exc:
        return f"capabilities can't be given up ({exc.strerror})"
    return None


def _forbid_privileges(_policy: Policy) -> str | None:
    """So that nothing it could run would have more rights than it has. Source: prctl(2)."""
    if ctypes.CDLL(None, use_errno=True).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return os.strerror(ctypes.get_errno())
    return None


def _confine_files(policy: Policy) -> str | None:
    if len(list(Path("/proc/self/task").iterdir())) > 1:
        return "the process has a second thread already"
    return landlock.restrict(_rules(policy))


def _filter_calls(policy: Policy) -> str | None:
    machine = platform.machine()
    if machine not in seccomp.MACHINES:
        return f"no filter was written for {machine}"
    try:
        seccomp.install_filter(seccomp.make_filter(machine, os.getpid(), gpu=policy.gpu))
    except OSError as exc:
        return f"the kernel has no seccomp filters, or refuses them here ({exc.strerror})"
    return None


# The order matters: the last two need the third, and the filter forbids what the others do.
IN_ORDER: dict[str, Callable[[Policy], str | None]] = {
    "limits": _limit,
    "no capabilities": _drop_capabilities,
    "no new privileges": _forbid_privileges,
    "Landlock": _confine_files,
    "seccomp": _filter_calls,
}


def _rules(policy: Policy) -> Iterator[tuple[str, int]]:
    """Paths, and what may be done with them."""
    for path in (*_library_folders(), *_LIBRARIES, *linker_folders(_LINKER), *_FACTS, *policy.readable):
        yield path, landlock.READ
    for path in policy.writable:
        yield path, landlock.WRITE
    yield "/dev/null", landlock.DEVICE
    if policy.gpu:
        yield "/proc/self", landlock.NAMES  # CUDA names its threads there, and does not start where it can't
        for path in _GPU_FACTS:
            yield path, landlock.READ
        for pattern in _GPU_DEVICES:
            for device in Path("/dev").glob(pattern):
                yield str(device), landlock.DEVICE


def linker_folders(etc: Path) -> Iterator[str]:
    """Where the linker looks beside its own folders, as for the libraries of CUDA. Source: ldconfig(8).

    A build for a GPU links them, so that every child loads them.
    """
    for file in (etc / "ld.so.conf", *sorted((etc / "ld.so.conf.d").glob("*.conf"))):
        with suppress(OSError):
            yield from (line.strip() for line in file.read_text().splitlines() if line.startswith("/"))


def _library_folders() -> Iterator[str]:
    """Where this Python finds its modules, and they their libraries."""
    yield from (path for path in sys.path if path)
    yield str(Path(__file__).parents[1])
    for prefix in {sys.prefix, sys.base_prefix}:
        yield from (f"{prefix}/lib", f"{prefix}/lib64")
    yield from (sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield from filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(":"))

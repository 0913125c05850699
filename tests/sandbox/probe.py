"""Runs in a child beside its real work, and tries what code hidden in a model file would.

`probe MODULE SOCKET ARGUMENTS` runs MODULE as the launcher would. Each line on SOCKET names, in JSON, the
files to try; the answer says for each attempt the name of its error, or null where nothing forbade it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

PTRACE_SEIZE = 0x4206  # stops nobody, if it should succeed


def attempts(files: dict[str, str]) -> dict[str, Callable[[], object]]:
    """What is tried: with files by Landlock's leave, the rest by the filter's, then what must still work."""
    secret, folder = Path(files["secret"]), Path(files["secret"]).parent
    parent = os.getppid()
    return {
        "file: of the system": lambda: _read("/etc/passwd"),
        "file: of the user": lambda: _read(str(secret)),
        "file: beside the model": lambda: _read(files["neighbour"]),
        "file: by way of /proc": lambda: _read(f"/proc/self/root{secret}"),
        "file: of the parent": lambda: _read(f"/proc/{parent}/cmdline"),
        "file: list of a folder": lambda: list(folder.iterdir()),
        "file: a new one": lambda: (folder / "new").write_text("x"),
        "file: the model, to write": lambda: os.close(os.open(files["model"], os.O_WRONLY)),
        "file: another, to write": lambda: os.close(os.open(secret, os.O_WRONLY)),
        "file: a folder": (folder / "made").mkdir,
        "file: another name": lambda: (folder / "to rename").rename(folder / "renamed"),
        "file: deletion": (folder / "to delete").unlink,
        "call: mode of a file": lambda: secret.chmod(0o644),
        "call: owner of a file": lambda: os.chown(secret, os.getuid(), os.getgid()),
        "call: time of a file": lambda: os.utime(secret),
        "call: length of a file": lambda: os.truncate(secret, 1),
        "call: a link": lambda: (folder / "link").symlink_to(secret),
        "call: an internet socket": lambda: socket.socket(socket.AF_INET).close(),
        "call: a Unix socket": lambda: socket.socket(socket.AF_UNIX).close(),
        "call: a pair of sockets": lambda: [end.close() for end in socket.socketpair()],
        "call: a listening socket": lambda: _own_socket().listen(),
        "call: a subprocess": lambda: subprocess.run(["/bin/true"], check=True),
        "call: another program": lambda: os.execv("/nonexistent", ["x"]),
        "call: fork": _fork,
        "call: ptrace": lambda: _libc("ptrace", PTRACE_SEIZE, parent, 0, 0),
        "call: memory of another process": lambda: _libc("process_vm_readv", parent, None, 0, None, 0, 0),
        "call: a signal to the parent": lambda: os.kill(parent, 0),
        "call: limits of the parent": lambda: _prlimit(parent),
        "call: priority of the parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, 0),
        "call: a mount": lambda: _libc("mount", b"none", b"/no/such/folder", b"tmpfs", 0, None),
        "call: a namespace": lambda: _libc("unshare", 0x10000000),
        "still: the model": lambda: _read(files["model"]),
        "still: a thread": _thread,
        "still: memory in a file": lambda: os.close(os.memfd_create("arena")),
        "still: a signal to itself": lambda: os.kill(os.getpid(), 0),
        "still: /dev/null": lambda: Path("/dev/null").write_text("x"),
        "still: its own priority": lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
    }


def try_all(files: dict[str, str]) -> dict[str, str | None]:
    return {name: _error(attempt) for name, attempt in attempts(files).items()}


def main() -> None:
    module, descriptor, *arguments = sys.argv[1:]
    threading.Thread(target=_serve, args=(socket.socket(fileno=int(descriptor)),), daemon=True).start()
    sys.argv = [module, *arguments]
    import_module(module).main()


def _serve(asked: socket.socket) -> None:
    with asked, asked.makefile("rw") as lines:
        for line in lines:
            lines.write(json.dumps(try_all(json.loads(line))) + "\n")
            lines.flush()


def _error(attempt: Callable[[], object]) -> str | None:
    try:
        attempt()
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return None


def _read(path: str) -> None:
    with Path(path).open("rb") as file:
        file.read(1)


def _own_socket() -> socket.socket:
    """The pair that every child inherits."""
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            return socket.socket(fileno=os.dup(int(entry.name)))
    raise AssertionError("no socket was inherited")


def _fork() -> None:
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _prlimit(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_CORE)


def _libc(name: str, *arguments: object) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

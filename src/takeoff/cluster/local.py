"""A Ray cluster of this machine alone, on loopback: started detached, remembered in a file, ended whole."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import psutil

from takeoff.errors import ClusterError

LOOPBACK = "127.0.0.1"
COUNTED_CPUS = 256  # that Ray may promise: engines of one machine share its cores by turns
STARTING_S = 90.0
STOPPING_S = 30.0


class LocalCluster(msgspec.Struct, frozen=True):
    """What is remembered of it."""

    pid: int  # of its head, which ends all others
    started_at: float  # of that process, by the system: another with its number is not it
    address: str

    @property
    def is_up(self) -> bool:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            return process.create_time() == self.started_at and process.status() != psutil.STATUS_ZOMBIE
        return False


def remembered(store: Path) -> LocalCluster | None:
    """The one that `start` has started and that runs still."""
    try:
        cluster = msgspec.json.decode(_record(store).read_bytes(), type=LocalCluster)
    except (OSError, msgspec.MsgspecError):
        return None
    return cluster if cluster.is_up else None


def variables(store: Path) -> dict[str, str]:
    """What processes of this cluster, and who speaks with it, must have in their environment from the start.

    Whoever gets into a Ray cluster may run anything there: this one asks for a token of its own.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(_token(store)),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",  # Ray's workers stand back behind everybody else's programs otherwise
        # Ray makes the machine's outer address of a loopback one, unless it thinks that it is alone.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }


def start(store: Path, environ: Mapping[str, str]) -> LocalCluster:
    """Start a head on loopback; it lives until `stop`, whatever becomes of us.

    Raises:
        ClusterError: it does not come up; with what it said.
    """
    store.mkdir(parents=True, exist_ok=True)
    _make_token(_token(store))
    port = _free_port()
    log = store / "cluster.log"
    ray = Path(sys.executable).with_name("ray")
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *(str(ray), "start", "--head", "--block", "--disable-usage-stats"),
                *(f"--node-ip-address={LOOPBACK}", f"--port={port}", "--include-dashboard=false"),
                f"--num-cpus={COUNTED_CPUS}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**environ, **variables(store)},
            start_new_session=True,
        )
    cluster = LocalCluster(process.pid, psutil.Process(process.pid).create_time(), f"{LOOPBACK}:{port}")
    deadline = time.monotonic() + STARTING_S
    while b"Ray runtime started" not in log.read_bytes():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(store, cluster)
            said = log.read_text(errors="replace").strip().splitlines()[-5:]
            raise ClusterError("Ray did not start: " + " | ".join(said), hint=f"its log is {log}")
        time.sleep(0.1)
    _record(store).write_bytes(msgspec.json.encode(cluster))
    return cluster


def stop(store: Path, cluster: LocalCluster) -> None:
    """End the head and everything that it has started."""
    _record(store).unlink(missing_ok=True)
    if not cluster.is_up:
        return
    head = psutil.Process(cluster.pid)
    family = [head, *head.children(recursive=True)]
    with contextlib.suppress(psutil.Error):
        head.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=STOPPING_S)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=STOPPING_S)


def _make_token(path: Path) -> None:
    """One that only this user can read, unless there is one."""
    with contextlib.suppress(FileExistsError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(secrets.token_hex(32))


def _token(store: Path) -> Path:
    return store / "cluster.token"


def _record(store: Path) -> Path:
    return store / "cluster.json"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port

"""A cluster of this machine, for programmes that measure one: brought up, changed, and ended whole."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from takeoff.bench.machine import descendants
from takeoff.cluster.local import remembered, start, variables
from takeoff.service.engines import Commands
from takeoff.settings import Settings, load_settings
from takeoff.settings.cluster import read_cluster

TAKEOFF = str(Path(sys.executable).with_name("takeoff"))
ENGINES = ("takeoff.engine.process", "stub_engine.py")
UP_S = 180.0


def free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@dataclass
class Cluster:
    """What was brought up, and its processes."""

    folder: Path
    url: str
    manifest: dict[str, Any]
    commands: Commands | None = None  # of the readers' processes; None: the real ones
    router: str | None = None  # path of another router's class

    @property
    def path(self) -> Path:
        return self.folder / "manifest.yaml"

    def up(self) -> None:
        """Bring it up, or change it to what the manifest says now."""
        self.path.write_text(yaml.safe_dump({"takeoff": self.manifest}))
        if self.commands is not None:
            self._bring_up(self.commands)
            return
        command = [TAKEOFF, "cluster", "up", str(self.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=UP_S)
        if done.returncode:
            raise RuntimeError(done.stderr)

    def _bring_up(self, commands: Commands) -> None:
        """As the command does, with programs and a router of ours."""
        own = remembered(self.folder) or start(self.folder, os.environ)
        os.environ.update(variables(self.folder))
        from takeoff.cluster.deploy import bring_up, connected

        settings = load_settings({"manifest": str(self.path)})
        cluster = read_cluster(settings.manifest, settings.own_readers)
        with connected(own.address):
            more = {} if self.router is None else {"router": self.router}
            bring_up(settings, cluster, lambda text: print(text, file=sys.stderr), commands, **more)

    def down(self) -> None:
        command = [TAKEOFF, "cluster", "down", "--home", str(self.folder)]
        subprocess.run(command, capture_output=True, text=True, timeout=UP_S)

    def door(self) -> psutil.Process:
        """The process that listens at the front door."""
        port = int(self.url.rpartition(":")[2])
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if any(each.laddr and each.laddr[1] == port for each in process.net_connections("tcp")):
                    return process
        raise RuntimeError("no door listens")

    def processes(self) -> list[psutil.Process]:
        head = remembered(self.folder)
        return [] if head is None else [psutil.Process(head.pid), *descendants(head.pid)]

    def engines(self) -> list[psutil.Process]:
        """That serve: of those of one replica the oldest."""
        oldest: dict[int, psutil.Process] = {}
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if any(engine in command for engine in ENGINES) and process.status() not in (
                    "zombie",
                    "dead",
                ):
                    oldest.setdefault(process.ppid(), process)
        return list(oldest.values())

    def replicas(self) -> list[psutil.Process]:
        parents = [engine.parent() for engine in self.engines()]
        return [parent for parent in parents if parent is not None]


@contextlib.contextmanager
def cluster_of(
    readers: dict[str, dict[str, Any]],
    replicas: dict[str, dict[str, Any]],
    doors: int = 1,
    *,
    commands: Commands | None = None,
    router: str | None = None,
    **server: Any,
) -> Iterator[Cluster]:
    """A cluster with these readers, up inside the block; its store shares the models of the user's own."""
    front, management, takeoff, openai = free_ports(4)
    with tempfile.TemporaryDirectory(prefix="takeoff-cluster-") as name:
        folder = Path(name)
        (folder / "models").symlink_to(Settings().store / "models")
        manifest = {
            "server_config": {
                "home": str(folder),
                "front_port": front,
                "management_port": management,
                "port": takeoff,
                "openai_port": openai,
                **server,
            },
            "readers_config": readers,
            "cluster_config": {"doors": doors, "readers": replicas},
        }
        cluster = Cluster(folder, f"http://127.0.0.1:{front}", manifest, commands, router)
        try:
            cluster.up()
            yield cluster
        finally:
            cluster.down()

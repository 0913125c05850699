"""The same doors on a Ray cluster of this machine, brought up and taken down by the command."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.clients.doors import Doors, free_doors, write_manifest

from takeoff.settings import Settings

TAKEOFF = str(Path(sys.executable).with_name("takeoff"))
LIMIT_S = 240


def run_takeoff(*arguments: str, limit_s: float = LIMIT_S) -> str:
    """What `takeoff` says on stdout; it must succeed."""
    done = subprocess.run([TAKEOFF, *arguments], capture_output=True, text=True, timeout=limit_s)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def clustered(
    home: Path,
    readers: dict[str, dict[str, object]],
    cluster: str = "{}",
    doors: Doors | None = None,
) -> Iterator[Doors]:
    """A cluster of these readers with a store of its own; `cluster` is its cluster_config.

    Its replicas take half a CPU each, of which Ray counts as many as the machine has.
    """
    doors = doors or free_doors()
    (home / "models").symlink_to(Settings().store / "models")
    manifest = write_cluster_manifest(home, readers, cluster, doors)
    try:
        run_takeoff("cluster", "up", str(manifest))
        yield doors
    finally:
        run_takeoff("cluster", "down", "--home", str(home))


def write_cluster_manifest(
    home: Path, readers: dict[str, dict[str, object]], cluster: str, doors: Doors, **more: object
) -> Path:
    """The file of `clustered`, for another `takeoff cluster up`; `more` are settings of the server."""
    path = write_manifest(home, readers)
    server = {
        "home": home,
        "front_port": doors.front,
        "port": doors.takeoff,
        "management_port": doors.management,
        "openai_port": doors.openai,
        "optimize": "false",
        "standby": '"off"',
        **more,
    }
    lines = ["  server_config:", *(f"    {key}: {value}" for key, value in server.items())]
    text = path.read_text().replace("  server_config: {}", "\n".join(lines))
    path.write_text(f"{text}  cluster_config: {cluster}\n")
    return path

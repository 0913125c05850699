"""What is asked of a running cluster, and who its processes are."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import requests
from tests.clients.clustered import run_takeoff, write_cluster_manifest
from tests.clients.doors import HOST, Doors, free_doors

from takeoff.bench.machine import descendants
from takeoff.cluster.local import remembered
from takeoff.settings import Settings

ENGINE = "takeoff.engine.process"
LIMIT_S = 120.0


@dataclass
class Running:
    """A cluster that can be brought up again with another manifest."""

    home: Path
    doors: Doors = field(default_factory=free_doors)

    @property
    def url(self) -> str:
        return f"{HOST}:{self.doors.front}"

    @property
    def management(self) -> str:
        return f"{HOST}:{self.doors.management}"

    def up(self, readers: dict[str, dict[str, object]], cluster: str = "{}", **server: object) -> None:
        manifest = write_cluster_manifest(self.home, readers, cluster, self.doors, **server)
        run_takeoff("cluster", "up", str(manifest))

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(
            run_takeoff("cluster", "status", "--json", "--home", str(self.home))
        )
        return told

    def replicas(self, reader_id: str) -> list[str]:
        """The ids of those that answer a door now."""
        groups = requests.get(f"{self.management}/reader_groups", timeout=LIMIT_S).json()
        readers = [reader for group in groups.values() for reader in group]
        [reader] = [reader for reader in readers if reader["reader_id"] == reader_id]
        return [each["replica_id"] for each in reader.get("replicas", [])]

    def ask(self, text: str, tokens: int, **more: object) -> requests.Response:
        body = {
            "model": "primary",
            "prompt": text,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return requests.post(f"{self.url}/v1/completions", json=body | more, timeout=LIMIT_S)

    def text(self, text: str, tokens: int, **more: object) -> str:
        answer = self.ask(text, tokens, **more)
        assert answer.status_code == 200, answer.text
        said: str = answer.json()["choices"][0]["text"]
        return said

    def processes(self) -> list[psutil.Process]:
        head = remembered(self.home)
        assert head is not None, "it is up"
        return [psutil.Process(head.pid), *descendants(head.pid)]

    def engines(self) -> list[psutil.Process]:
        return engines_of(self.processes()[0])


def engines_of(process: psutil.Process) -> list[psutil.Process]:
    """Those below it."""
    found = []
    for each in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if ENGINE in each.cmdline():
                found.append(each)
    return found


@contextlib.contextmanager
def running(home: Path) -> Iterator[Running]:
    """A cluster to be brought up; behind the block it is down, and none of its processes is left."""
    (home / "models").symlink_to(Settings().store / "models")
    cluster = Running(home)
    ours: list[psutil.Process] = []
    try:
        yield cluster
        ours = cluster.processes()
    finally:
        run_takeoff("cluster", "down", "--home", str(home))
    _, left = psutil.wait_procs(ours, timeout=30)
    assert left == [], "nothing is left behind"


def until(is_so: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.1)


@contextlib.contextmanager
def asked_all_the_time(
    ask: Callable[[], requests.Response], clients: int
) -> Iterator[list[requests.Response]]:
    """So many clients ask again and again inside the block; behind it all their answers are in the list."""
    answers: list[requests.Response] = []
    is_over = False

    def keep_asking() -> None:
        while not is_over:
            answers.append(ask())

    with ThreadPoolExecutor(clients) as pool:
        asking: list[Future[None]] = [pool.submit(keep_asking) for _ in range(clients)]
        try:
            yield answers
        finally:
            is_over = True
        for each in asking:
            each.result()

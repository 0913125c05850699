"""One real server with every door for all tests of this folder, and the clients that call it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.clustered import clustered
from tests.clients.doors import EMBEDDER, HOST, Doors, chat_reader, serving_manifest, write_manifest
from tests.clients.environments import Environment


@pytest.fixture(scope="session")
def doors(
    smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Doors]:
    """Readers `chat` in group `primary` and `embedder` in group `embed`, both live."""
    readers = {"chat": chat_reader(smollm2_path), "embedder": EMBEDDER}
    if pytestconfig.getoption("--cluster"):
        with clustered(tmp_path_factory.mktemp("cluster"), readers) as doors:
            yield doors
        return
    manifest = write_manifest(tmp_path_factory.mktemp("manifest"), readers)
    with serving_manifest(manifest) as (server, doors):
        server.wait_ready()
        url = f"{HOST}:{doors.takeoff}/healthz"
        answer = requests.get(url, params={"state": "live", "wait": 60}, timeout=LIMIT_S)
        assert answer.status_code == 200, answer.text
        yield doors


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Environment]]:
    """The environment of a client by its name, one for all tests."""
    made: dict[str, Environment] = {}

    def get(name: str) -> Environment:
        if name not in made:
            made[name] = Environment(name, tmp_path_factory.mktemp(name))
        return made[name]

    yield get
    for one in made.values():
        one.close()

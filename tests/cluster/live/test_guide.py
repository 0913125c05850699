"""The guide to clusters: its commands do what it says, one after the other, on a cluster of this machine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.cli.test_keys_guide import Reader

from takeoff.cluster.local import remembered, variables
from takeoff.settings import Settings

pytest.importorskip("ray")

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "cluster.md"
LIMIT_S = 240


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Who types the commands; whatever becomes of them, their cluster ends."""
    home = tmp_path / "store"
    home.mkdir()
    (home / "models").symlink_to(Settings().store / "models")
    reader = Reader(tmp_path, TAKEOFF_HOME=str(home), TAKEOFF_STANDBY="off")
    yield reader
    if remembered(home) is not None:
        reader.run("takeoff cluster down", LIMIT_S)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.usefixtures("smollm2_path", "gemma_path")
def test_the_commands_of_the_guide_do_what_it_says(reader: Reader, tmp_path: Path) -> None:
    (manifest,) = blocks("yaml")
    (tmp_path / "cluster.yaml").write_text(manifest)
    serve, up, ask, look, change, down, elsewhere, kuberay = blocks("sh")
    home = tmp_path / "store"
    with reader.serving(serve):
        assert model_of(reader.run(ask)) == "smollm2"
    reader.run(up, LIMIT_S)
    assert model_of(reader.run(ask)) == "smollm2"
    table, _, told = reader.run(look, LIMIT_S).partition("{")
    assert [line.split("\t")[0] for line in table.splitlines()] == ["", "door", "reader", "replica"]
    (door,) = json.loads("{" + told)["doors"]
    assert door["readers"]["chat"]["state"] == "live"
    reader.run(change, LIMIT_S)
    assert model_of(reader.run(ask)) == "gemma-3-270m"
    own = remembered(home)
    assert own is not None
    reader.environ |= variables(home)  # of the cluster, which now plays one that others have started
    up_again, status, down_there = elsewhere.replace("head:6379", own.address).splitlines()
    reader.run(up_again, LIMIT_S)
    assert model_of(reader.run(ask)) == "gemma-3-270m"
    assert "live" in reader.run(status, LIMIT_S)
    reader.run(down_there, LIMIT_S)
    assert own.is_up
    reader.run(down, LIMIT_S)
    assert not own.is_up
    reader.run(kuberay)
    kinds = [each["kind"] for each in yaml.safe_load_all((tmp_path / "rayservice.yaml").read_text())]
    assert kinds == ["RayService", "Service", "PersistentVolumeClaim"]


def model_of(answer: str) -> str:
    """That has answered."""
    told = json.loads(answer)
    assert told["choices"][0]["text"]
    return str(told["model"])

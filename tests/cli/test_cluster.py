"""`takeoff cluster`: what is refused before anything is started, and that it says so without Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from takeoff.cli import cluster as command
from takeoff.cli.main import app
from takeoff.cluster import local
from takeoff.errors import ClusterError, SettingsError, TakeoffError

WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from takeoff.cli.main import main; main()"
READER = "r1: {model_name: m, device: cpu, consumer_group: primary"

Refused = Callable[..., TakeoffError]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def write(manifest: Path, server: str = "", reader: str = "", section: str = "") -> None:
    manifest.write_text(
        f"takeoff:\n  server_config: {{{server}}}\n  readers_config:\n    {READER}{reader}}}\n"
        f"  cluster_config: {section}\n"
    )


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """What a command raises where Ray is installed; it starts nothing."""

    def never(*_args: Any) -> None:
        raise AssertionError("a Ray cluster was to be started")

    monkeypatch.setattr(command, "find_spec", lambda _name: object())
    monkeypatch.setattr(local, "start", never)
    monkeypatch.setattr(os, "environ", dict(os.environ) | {"TAKEOFF_HOME": str(tmp_path)})

    def refused(*arguments: str, **variables: str) -> TakeoffError:
        os.environ.update(variables)
        result = CliRunner().invoke(app, ["cluster", *arguments], catch_exceptions=True)
        assert isinstance(result.exception, TakeoffError), result.exception
        assert result.stdout == ""
        return result.exception

    return refused


@pytest.mark.parametrize(
    "arguments", [("up", "config.yaml"), ("up", "config.yaml", "--address=h:1"), ("status",), ("down",)]
)
def test_without_ray_every_command_says_in_a_line_what_to_install(
    arguments: tuple[str, ...], manifest: Path
) -> None:
    write(manifest)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, "cluster", *arguments],
        cwd=manifest.parent,
        env=dict(os.environ)
        | {"TAKEOFF_HOME": str(manifest.parent / "home"), "COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "error: a cluster needs Ray Serve, which is not installed",
        "hint: pip install 'takeoff-server[cluster]'",
    ]
    assert not (manifest.parent / "home").exists()


def test_its_help_needs_no_ray() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, "cluster", "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("up", "status", "down"))


def test_a_key_is_not_made_by_each_door(refused: Refused, manifest: Path) -> None:
    write(manifest, server="make_key: true")
    error = refused("up", str(manifest))
    assert isinstance(error, SettingsError)
    assert (error.message, error.param) == ("a cluster makes no key at its start", "make_key")
    assert error.hint == "takeoff keys create NAME"


@pytest.mark.parametrize("variables", [{}, {"TAKEOFF_ON_DEMAND": "true"}])
def test_on_demand_is_said_by_replicas(refused: Refused, manifest: Path, variables: dict[str, str]) -> None:
    write(manifest, reader="" if variables else ", on_demand: true")
    error = refused("up", str(manifest), **variables)
    assert isinstance(error, SettingsError)
    assert (error.message, error.param) == ("a cluster loads r1 on demand by replicas from 0 on", "on_demand")
    assert "cluster_config: {readers: {ID: {replicas: 0-1}}}" in (error.hint or "")


def test_a_wrong_section_is_refused_with_its_place(refused: Refused, manifest: Path) -> None:
    write(manifest, section="{doors: 0}")
    error = refused("up", str(manifest))
    assert isinstance(error, SettingsError)
    assert error.message.startswith(
        "takeoff.cluster_config.doors: Input should be greater than or equal to 1 ("
    )


def test_doors_that_anybody_could_reach_without_a_key_are_refused(refused: Refused, manifest: Path) -> None:
    write(manifest, server="host: 0.0.0.0")
    assert "no key is set" in refused("up", str(manifest)).message


@pytest.mark.parametrize("arguments", [("status",), ("status", "--json"), ("down",)])
def test_where_no_cluster_is_up_that_is_said(refused: Refused, arguments: tuple[str, ...]) -> None:
    error = refused(*arguments)
    assert isinstance(error, ClusterError)
    assert error.message == "no cluster of this machine is up"
    assert error.hint == "takeoff cluster up MANIFEST, or --address"


def test_a_record_of_a_cluster_that_is_gone_is_not_believed(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "cluster.json").write_text('{"pid": 1, "started_at": 1.0, "address": "127.0.0.1:1"}')
    assert refused("status").message == "no cluster of this machine is up"
    (tmp_path / "cluster.json").write_text("what is this")
    assert refused("down").message == "no cluster of this machine is up"

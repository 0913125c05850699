"""What `takeoff cluster kuberay` tells Ray Serve, told to a Ray Serve: KubeRay sends it the same text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml
from tests.clients.clustered import run_takeoff
from tests.clients.doors import HOST, free_doors

from takeoff.cluster import local
from takeoff.cluster.kuberay import serve_config
from takeoff.settings import Settings, load_settings
from takeoff.settings.cluster import ClusterSettings

pytest.importorskip("ray")

KEY = "of-the-pod"
LIMIT_S = 120
START = """
import os, sys
from pathlib import Path
from takeoff.cluster import local

local.start(Path(sys.argv[1]), os.environ)
"""
DEPLOY = """
import sys, yaml, ray
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

ray.init(address=sys.argv[1], log_to_driver=False)
config = ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin))
serve.start(proxy_location=config.proxy_location)
_get_global_client().deploy_apps(config)
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[local.LocalCluster]:
    """Ray, with a key in the environment of its processes."""
    (tmp_path / "models").symlink_to(Settings().store / "models")
    environ = {**os.environ, "TAKEOFF_API_KEY": KEY}
    subprocess.run([sys.executable, "-c", START, tmp_path], env=environ, timeout=LIMIT_S, check=True)
    cluster = local.remembered(tmp_path)
    assert cluster is not None
    yield cluster
    run_takeoff("cluster", "down", "--home", str(tmp_path))


@pytest.mark.usefixtures("smollm2_path")
def test_ray_serve_runs_what_it_is_told_there(cluster: local.LocalCluster, tmp_path: Path) -> None:
    doors = free_doors()
    manifest = {
        "server_config": {"home": str(tmp_path), "front_port": doors.front, "port": doors.takeoff}
        | {"management_port": doors.management, "openai_port": doors.openai, "optimize": False}
        | {"max_slots": 2, "context": 512, "standby": "off", "host": "127.0.0.1"},
        "readers_config": {"chat": {"model_name": "smollm2", "device": "cpu", "consumer_group": "primary"}},
    }
    path = tmp_path / "manifest.yaml"
    path.write_text(yaml.safe_dump({"takeoff": manifest}))
    config = serve_config(load_settings({"manifest": str(path)}, {}), ClusterSettings())
    config["applications"][-1]["args"]["resources"] = {}  # these are of pods
    told = subprocess.run(
        [sys.executable, "-c", DEPLOY, cluster.address],
        input=yaml.safe_dump(config),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env={**os.environ, **local.variables(tmp_path)},
    )
    assert told.returncode == 0, told.stderr
    url = f"{HOST}:{doors.front}"
    wait_ready(url)
    body = {"prompt": "Once upon a time", "max_tokens": 4}
    asked = requests.post(f"{url}/v1/completions", json=body, timeout=LIMIT_S)
    assert asked.status_code == 401
    headers = {"Authorization": f"Bearer {KEY}"}
    answer = requests.post(f"{url}/v1/completions", json=body, headers=headers, timeout=LIMIT_S)
    assert json.loads(answer.text)["choices"][0]["text"]


def wait_ready(url: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{url}/readyz", timeout=LIMIT_S).status_code == 200:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.5)
    pytest.fail("no door came up")

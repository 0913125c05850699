"""The guide's manifest, checked and served as the guide says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, serving_manifest

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "from-titan-takeoff.md"


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The guide's only block of YAML."""
    (block,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "config.yaml"
    path.write_text(block)
    return path


def test_the_guides_manifest_passes_the_check_that_the_guide_names(manifest: Path) -> None:
    command = [sys.executable, "-c", "from takeoff.cli.main import main; main()"]
    ran = subprocess.run(
        [*command, "config", "check", str(manifest)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "chat" in ran.stdout + ran.stderr
    assert "embedder" in ran.stdout + ran.stderr


def test_the_guides_manifest_serves_a_chat_and_an_embedding_model(manifest: Path) -> None:
    with serving_manifest(manifest) as (server, doors):
        server.wait_ready()
        url = f"{HOST}:{doors.takeoff}"
        params = {"state": "live", "wait": "60"}
        assert requests.get(f"{url}/healthz", params=params, timeout=LIMIT_S).status_code == 200
        answer = requests.post(f"{url}/generate", json={"text": "hi"}, timeout=LIMIT_S).json()
        assert answer == {"text": "Hello there! How can I assist you today?"}
        body = {"text": "hi", "consumer_group": "embed"}
        assert len(requests.post(f"{url}/embed", json=body, timeout=LIMIT_S).json()["result"]) == 384

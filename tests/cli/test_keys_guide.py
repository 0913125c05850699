"""The guide to keys: its commands do what it says, one after the other."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_serve import LIMIT_S

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "keys.md"
SMALL = {"TAKEOFF_MAX_SLOTS": "2", "TAKEOFF_CONTEXT": "512", "TAKEOFF_OPTIMIZE": "false"}
OFF = {f"TAKEOFF_{door}_PORT": "off" for door in ("TAKEOFF", "MANAGEMENT", "OPENAI")}


class Reader:
    """Who types the commands of the guide."""

    def __init__(self, folder: Path, **variables: str) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = str(free.getsockname()[1])
        program = folder / "bin" / "takeoff"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable}\nfrom takeoff.cli.main import main\nmain()\n")
        program.chmod(0o700)
        self.environ = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "PYTHONPATH": ":".join(sys.path),
            "HOME": str(Path.home()),
            "TAKEOFF_PORT": self._port,
            **SMALL,
            **OFF,
            **variables,
        }

    def run(self, commands: str, limit_s: float = LIMIT_S) -> str:
        """What they say on stdout."""
        ran = subprocess.run(
            ["bash", "-ec", commands.replace("localhost:8000", f"localhost:{self._port}")],
            capture_output=True,
            text=True,
            timeout=limit_s,
            cwd=self._folder,
            env=self.environ,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[None]:
        """While the server of the command is ready."""
        server = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
            env=self.environ,
        )
        assert server.stderr is not None
        try:
            said = ""
            for line in server.stderr:
                said += line
                if line.startswith("ready at "):
                    break
            else:
                pytest.fail(f"it ended before it was ready: {said}")
            yield
        finally:
            server.kill()
            server.wait(LIMIT_S)
            server.stderr.close()


def test_the_commands_of_the_guide_do_what_it_says(tmp_path: Path, smollm2_path: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    make, serve, use, change, certificate, serve_tls, use_tls = blocks
    reader = Reader(tmp_path, TAKEOFF_KEYS_FILE=str(tmp_path / "keys.json"))
    listed = [line.split("\t")[0] for line in reader.run(make).splitlines()]
    assert listed == ["name", "alice", "ci", "grafana", "root"]
    alice = (tmp_path / "alice.key").read_text()
    with reader.serving(serve):
        said = reader.run(use)
        answers, _, metrics = said.partition("# HELP")
        (chat, _), (models, end) = (
            json.JSONDecoder().raw_decode(answers, start) for start in (0, answers.index('{"object":"list"'))
        )
        assert chat["choices"][0]["message"]["content"]
        assert "smollm2" in [model["id"] for model in models["data"]]
        assert end == len(answers)
        assert metrics.endswith('{"status":"live"}')
        reader.run(change)
        assert (tmp_path / "alice.key").read_text() != alice
        reader.run("sleep 1")
        with pytest.raises(AssertionError):
            reader.run(use.replace("curl -s", "curl -sf"))
        reader.run(use.replace("curl -s", "curl -sf").replace("ci.key", "alice.key"))
    reader.run(certificate)
    with reader.serving(serve_tls):
        assert reader.run(use_tls) == '{"status":"live"}'

"""`takeoff bench` on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_the_command_measures_the_real_server(server_url: str, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    names = ["one", "clients-leave"]
    flags = [word for name in names for word in ("--scenario", name)]
    program = "from takeoff.cli.main import main; main()"
    command = [sys.executable, "-c", program, "bench", f"us={server_url}", "--rounds", "1", *flags]
    done = subprocess.run([*command, "--json", str(result)], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert lines[0] == ["work", "figure", "us"]
    assert done.stderr == "", "no request failed"
    scenarios = json.loads(result.read_text())["scenarios"]
    assert [each["name"] for each in scenarios] == names
    figures = {each["name"]: {f["name"]: f["median"]["us"] for f in each["figures"]} for each in scenarios}
    assert 0 < figures["one"]["rate"] < 5_000
    assert 0 < figures["one"]["ttft"] < 128 / figures["one"]["rate"]
    assert figures["clients-leave"]["ratio"] > 0
    unknown = subprocess.run([*command, "--scenario", "ten"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 1
    assert "choose from one, eight" in unknown.stderr

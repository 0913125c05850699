"""`takeoff bench` on the real server."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "bench"]
NAMES = ("one", "leave-mid-stream", "poisson")


def test_the_command_measures_the_real_server(server_url: str, tmp_path: Path) -> None:
    result, page = tmp_path / "result.json", tmp_path / "report.html"
    flags = [word for name in NAMES for word in ("--scenario", name)]
    flags += ["--rounds", "1", "--rate", "1", "--duration", "4", "--warmup", "1", "--seed", "3"]
    flags += ["--ttft-slo", "60", "--itl-slo", "60", "--json", str(result), "--html", str(page)]
    done = subprocess.run([*PROGRAM, f"us={server_url}", *flags], capture_output=True, text=True, check=True)
    assert "failed" not in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split("\t") == ["work", "figure", "of", "us"]
    assert lines[-1].startswith("us on this machine carries 1 user at ")
    data = json.loads(result.read_text())
    assert data["verdict"] == [lines[-1]]
    assert lines[-1] in page.read_text()
    works = {each["name"]: each for each in data["scenarios"]}
    assert tuple(works) == NAMES
    figures = {name: {f["name"]: f["median"]["us"] for f in each["figures"]} for name, each in works.items()}
    one, left, poisson = (figures[name] for name in NAMES)
    assert 0 < one["rate"] < 5_000
    assert 0 < one["ttft_p50"] < 128 / one["rate"]
    assert one["tpot_p50"] * one["rate"] < 1.5, "a lone stream's tokens come one after the other"
    assert left["left"] == 8
    assert 0 <= left["freed"] < 5, "the server's metrics show that nobody is left"
    assert 0 <= poisson["good_share"] <= 1
    (run,) = works["poisson"]["runs"]["us"]
    assert run["memory_bytes"] > 100e6, "the engine's process is counted"
    assert all(request["sent"] >= request["planned"] for request in run["requests"])
    assert all(request["completion_tokens"] == 100 for request in run["requests"])
    server = data["conditions"]["servers"]["us"]
    assert "serve" in server["command"]
    assert server["model"]


def test_wrong_words_are_refused_with_the_right_ones(server_url: str) -> None:
    for flags, hint in (
        (["--scenario", "ten"], "choose from one, eight"),
        (["--pid", "us"], "write NAME=PID, NAME of us"),
    ):
        done = subprocess.run(
            [*PROGRAM, f"us={server_url}", *flags], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert hint in done.stderr
    done = subprocess.run([*PROGRAM, "--rate", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2

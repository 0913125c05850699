"""`takeoff bench` on the real server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from tests.cli.test_serve import serving

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
    early = max(request["planned"] - request["sent"] for request in run["requests"])
    assert early < 2e-3, "nothing is sent before its time, but for the millisecond of the timer"
    assert all(request["completion_tokens"] == 100 for request in run["requests"])
    server = data["conditions"]["servers"]["us"]
    assert "serve" in server["command"]
    assert server["model"]


def test_both_apis_of_one_server_are_measured_in_alternation(smollm2_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    doors = ("--port", "0", "--takeoff-port", port, "--management-port", "off", "--openai-port", "off")
    result = tmp_path / "result.json"
    flags = ["--scenario", "streams-2", "--streams", "2", "--rounds", "1", "--json", str(result)]
    with serving("--model", str(smollm2_path), "--max-slots", "4", "--context", "512", *doors) as server:
        urls = [f"openai={server.wait_ready()}", f"takeoff=http://127.0.0.1:{port}"]
        done = subprocess.run([*PROGRAM, *urls, *flags], capture_output=True, text=True, check=True)
    assert "failed" not in done.stderr
    data = json.loads(result.read_text())
    assert [target["api"] for target in data["targets"]] == ["openai", "takeoff"]
    (work,) = data["scenarios"]
    lengths = [
        sorted(request["completion_tokens"] for request in work["runs"][name][0]["requests"])
        for name in ("openai", "takeoff")
    ]
    assert lengths[0] == lengths[1], "the same work, and every token of it counted"
    assert len(set(lengths[0])) > 3
    (ratio,) = [f["ratio"]["takeoff"] for f in work["figures"] if f["name"] == "rate"]
    assert 0.2 < ratio < 5
    assert [line.split(" on this machine")[0] for line in done.stdout.splitlines()[-2:]] == [
        "openai",
        "takeoff",
    ]


def test_wrong_words_are_refused_with_the_right_ones(server_url: str) -> None:
    for flags, hint in (
        (["--scenario", "ten"], "choose from one, eight"),
        (["--html", "/nowhere/report.html"], "/nowhere is no folder"),
        (["--pid", "us"], "write NAME=PID, NAME of us"),
    ):
        done = subprocess.run(
            [*PROGRAM, f"us={server_url}", *flags], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert hint in done.stderr
    done = subprocess.run([*PROGRAM, "--rate", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2

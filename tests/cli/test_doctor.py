"""`takeoff doctor` on this machine, as a process."""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys

import psutil

from takeoff.sandbox.report import try_sandbox

LIMIT_S = 60  # against hanging only


def doctor(*flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
    script = "from takeoff.cli.main import main; main()"
    environ = {name: text for name, text in os.environ.items() if not name.startswith("TAKEOFF_")}
    return subprocess.run(
        [sys.executable, "-c", script, "doctor", *flags],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=environ | variables,
    )


def findings(ended: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    return {each["what"]: (each["state"], each["detail"]) for each in json.loads(ended.stdout)}


def test_it_tells_of_this_machine_what_is_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = doctor("--json", TAKEOFF_PORT=str(port), TAKEOFF_OPENAI_PORT="off")
    assert (ended.returncode, ended.stderr) == (0, "")
    found = findings(ended)
    assert platform.release() in found["kernel"][1]
    assert found["memory"][1].endswith(f"of {psutil.virtual_memory().total / 1e9:.1f}")
    assert found["llama.cpp"] == ("ok", "llama-cpp-python 0.3.36")
    assert found["store"][0] == "ok"
    assert found["port: front door"] == (
        "without",
        f"can't listen on 127.0.0.1 port {port}: Address already in use",
    )
    assert "port: OpenAI API" not in found
    sandbox = {
        what.removeprefix("sandbox: "): state for what, (state, _) in found.items() if "sandbox" in what
    }
    parts = try_sandbox().in_force.parts
    assert sandbox == {part: "ok" if is_there else "without" for part, is_there in parts.items()}


def test_it_ends_with_1_where_no_server_could_run() -> None:
    ended = doctor(TAKEOFF_HOME="/dev/null/store")
    assert ended.returncode == 1
    assert "store\tfailed\t/dev/null/store can't be written; set TAKEOFF_HOME\n" in ended.stdout
    assert ended.stdout.startswith("what\tstate\tdetail\n")

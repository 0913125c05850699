"""The children of a real server, as the kernel shows them from outside."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from tests.cli.test_serve import SMALL, serving
from tests.e2e.processes import completion

from takeoff.sandbox.report import try_sandbox

MODULES = {"takeoff.engine.process", "takeoff.prepare.process"}


def status(child: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines)


def open_files(child: psutil.Process) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{child.pid}/fd").iterdir()]


def test_its_engine_and_preparer_are_confined_and_serve(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = try_sandbox()
    monkeypatch.setenv("A_SECRET_OF_THE_SHELL", "secret")
    mode = "auto" if report.missing else "require"
    with serving("--model", str(smollm2_path), *SMALL, "--sandbox", mode) as server:
        url = server.wait_ready()
        assert f"model files are read in a sandbox: {report.in_force.sentence}\n" in server.said
        assert len(completion(url, "Once upon a time", 16)) > 16
        children = server.children()
        assert {child.cmdline()[-2] for child in children} == MODULES
        for child in children:
            told = status(child)
            assert told["NoNewPrivs"] == "1"
            if report.in_force.seccomp:
                assert told["Seccomp"] == "2"
            assert not {"A_SECRET_OF_THE_SHELL", "HOME", "PATH"} & child.environ().keys()
            assert sum(name.startswith("socket:") for name in open_files(child)) == 1
            assert str(smollm2_path) not in open_files(child)
            assert (
                "Max core file size        0                    0"
                in Path(f"/proc/{child.pid}/limits").read_text()
            )


def test_off_means_off_and_is_said(smollm2_path: Path) -> None:
    with serving("--model", str(smollm2_path), *SMALL, "--sandbox", "off") as server:
        server.wait_ready()
        assert "model files are read without a sandbox (--sandbox off)\n" in server.said
        assert {status(child)["NoNewPrivs"] for child in server.children()} == {"0"}

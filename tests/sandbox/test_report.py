"""What is told of the sandbox, and what is done about what is missing, on kernels that lack a part of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox.lacking import LANDLOCK, SECCOMP

from takeoff.errors import StartError
from takeoff.sandbox.confine import NOTHING, InForce
from takeoff.sandbox.report import Report, try_sandbox
from takeoff.service.launching import check_sandbox

LACKING = (sys.executable, str(Path(__file__).parent / "lacking.py"))
LIMIT_S = 60.0  # against hanging only


def report_without(*numbers: int) -> Report:
    command = [*LACKING, ",".join(map(str, numbers)), sys.executable, "-m", "takeoff.sandbox.report"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    told = json.loads(answer.stdout)
    return Report(InForce(**told["in_force"]), told["failures"])


def test_a_kernel_without_landlock_gives_the_other_parts() -> None:
    report = report_without(LANDLOCK)
    assert report.in_force == InForce(True, True, 0, try_sandbox().in_force.seccomp, True)
    assert report.missing["Landlock"] == "the kernel was built without Landlock"


def test_another_filter_is_not_taken_for_ours() -> None:
    """That of a container, which such a process has, too."""
    report = report_without(SECCOMP)
    assert not report.in_force.seccomp
    assert report.in_force.landlock == try_sandbox().in_force.landlock
    assert report.missing["seccomp"].startswith("the kernel has no seccomp filters, or refuses them here")


def test_this_process_itself_is_in_no_sandbox() -> None:
    command = [sys.executable, "-c", "from takeoff.sandbox.confine import measure; print(measure().sentence)"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=True).stdout
    assert "without no new privileges" in said
    assert "Landlock, seccomp, limits" in said


def test_what_must_be_and_is_missing_is_refused_with_its_reason() -> None:
    report = Report(InForce(True, True, 0, True, True), {"Landlock": "the kernel was built without Landlock"})
    with pytest.raises(StartError, match="not whole: Landlock: the kernel was built without Land") as refused:
        check_sandbox(report)
    assert refused.value.hint == "--sandbox auto takes what there is"
    check_sandbox(Report(InForce(True, True, 1, True, True), {}))


def test_a_part_that_failed_silently_is_missing_all_the_same() -> None:
    assert set(Report(NOTHING, {}).missing.values()) == {"the kernel took it and does not do it"}


def test_serve_says_what_is_missing_or_does_not_start(smollm2_path: Path) -> None:
    takeoff = (sys.executable, "-c", "from takeoff.cli.main import main; main()")
    serve = (*takeoff, "serve", "--model", str(smollm2_path), "--sandbox", "require")
    ended = subprocess.run(
        [*LACKING, str(LANDLOCK), *serve],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
    )
    assert ended.returncode == 1
    assert "error: the sandbox is not whole: Landlock: the kernel was built without Landlock" in ended.stderr

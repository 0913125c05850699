"""A few kills by the driver of `make chaos`; and without the protection it must find it broken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT_S = 240.0  # against hanging only


def chaos(folder: Path, model: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """The driver's exit code, and what it counted."""
    figures = folder / "figures.json"
    command = [sys.executable, str(ROOT / "bench/chaos.py"), "--model", str(model), "--json", str(figures)]
    done = subprocess.run([*command, *flags], check=False, timeout=LIMIT_S)
    return done.returncode, json.loads(figures.read_text())


def test_engines_are_killed_under_sixteen_streams_and_no_client_notices(
    smollm2_path: Path, tmp_path: Path
) -> None:
    code, told = chaos(tmp_path, smollm2_path, "--kills", "4", "--tokens", "24", "--seed", "3")
    assert told["kills"] == 4
    assert told["disturbed"] >= 16
    broken = ("client_errors", "lost_characters", "doubled_characters", "wrong_token_counts")
    assert {name: told[name] for name in broken} == dict.fromkeys(broken, 0)
    assert told["pauses"]["max_s"] < 15
    assert code == 0


def test_without_replay_the_driver_finds_the_promise_broken(smollm2_path: Path, tmp_path: Path) -> None:
    flags = ("--kills", "2", "--tokens", "24", "--seed", "3", "--no-replay")
    code, told = chaos(tmp_path, smollm2_path, *flags)
    assert told["client_errors"] >= 16
    assert "killed" in told["first_errors"][0]
    assert code == 1

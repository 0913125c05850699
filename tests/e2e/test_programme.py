"""Short forms of three drivers of the test programme: who leaves, what time tells, all at once with kills.

Nothing is asserted of time here: the long forms do that, on a machine that has nothing else to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[2] / "bench"
LIMIT_S = 240.0  # against hanging only


def driven(folder: Path, driver: str, *flags: str) -> tuple[int, dict[str, Any]]:
    """The driver's exit code, and its figures."""
    figures = folder / "figures.json"
    command = [sys.executable, str(BENCH / driver), "--json", str(figures)]
    done = subprocess.run([*command, *flags], check=False, timeout=LIMIT_S)
    return done.returncode, json.loads(figures.read_text())


def test_of_hundreds_of_clients_that_leave_at_any_moment_nothing_is_left(
    smollm2_path: Path, tmp_path: Path
) -> None:
    flags = ("--requests", "240", "--seed", "3", "--model", str(smollm2_path))
    code, told = driven(tmp_path, "disconnects.py", *flags)
    assert told["broken"] == []
    assert code == 0
    assert told["requests"] == 240
    assert min(told["moments"].values()) >= 5, "every moment was met"
    assert min(told["ways"].values()) >= 5, "every way to go was gone"
    assert told["accepted"] == sum(told["ended"].values()) == told["log_accepted"] > 100
    assert told["ended"]["cancelled"] > 20
    assert set(told["left"].values()) == {0}
    assert told["leaked_slots"] == told["log_doubled"] == told["errors"] == 0
    assert told["witnesses"] > told["witnesses_disturbed"] == 0
    assert {len(set(num)) for num in told["descriptors_at_rest"].values()} == {1}


def test_another_keys_prompts_are_never_found_and_the_driver_sees_ones_own(
    smollm2_path: Path, tmp_path: Path
) -> None:
    """By what the server says of its cache; the second half shows that the first one could fail."""
    flags = ("--trials", "5", "--warm-up", "1", "--probes", "prefix", "running", "--seed", "8")
    _, told = driven(tmp_path, "cache_timing.py", *flags, "--model", str(smollm2_path))
    for probe in ("prefix", "running"):
        two, one = told[f"{probe}, two keys"], told[f"{probe}, one key"]
        assert (two["cases"], two["auc_by_cached_tokens"], two["cached_tokens"]) == (5, 0.5, 0)
        assert (one["cases"], one["auc_by_cached_tokens"]) == (5, 1.0)
        assert one["cached_tokens"] > 300


def test_half_a_minute_of_everything_with_kills_is_answered_and_accounted_for(tmp_path: Path) -> None:
    code, told = driven(tmp_path, "soak.py", "--minutes", "0.5", "--kill-every", "5", "--seed", "2")
    assert told["broken"] == []
    assert code == 0
    kinds = {"chat", "streamed", "tools", "schema", "embeddings", "tokens", "departures", "bad"}
    assert set(told["kinds"]) == kinds
    assert told["requests"] == sum(told["kinds"].values()) > 100
    assert sum(told["kills"].values()) >= 2
    assert told["accepted"] == sum(told["ended"].values()) == told["log_accepted"] > 50
    assert told["ended"]["failed"] == told["errors"] == 0
    assert set(told["left"].values()) == {0}

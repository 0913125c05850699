"""`make fuzz` in short: some hundred cases of each target, and bugs of every kind, which it must find."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from bench.fuzz import PLANS
from bench.fuzzing.driver import Lane, Plan, Row, table
from bench.fuzzing.minimise import smallest

ROOT = Path(__file__).parents[2]
SEED = "short"
SECONDS = 120.0  # against hanging only
CASES = {
    "gguf": 300,
    "lora": 300,
    "projector": 300,
    "vocabulary": 8,
    "manifest": 300,
    "template": 200,
    "image": 200,
    "regex": 150,
    "schema": 100,
    "grammar": 150,
    "routes": 500,
    "wire": 150,
    "multipart": 200,
    "resume": 150,
    "served": 40,
}


def ran(plan: Plan, count: int, folder: Path, model: Path) -> Row:
    lane = Lane(plan, folder, model, SEED, folder / "found")
    try:
        lane.run(count, time.monotonic() + SECONDS)
    finally:
        lane.stop()
    return lane.row


def test_some_hundred_cases_of_each_target_end_as_promised(smollm2_path: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda plan: ran(plan, CASES[plan.name], tmp_path, smollm2_path), PLANS))
    told = "\n".join(table(rows))
    assert {row.name: row.cases for row in rows} == CASES, told
    assert {row.name: row.found for row in rows if row.found} == {}, told
    for row in rows:
        assert row.late <= 0.1 * row.cases, told
        if row.cases >= 100:  # neither all refused nor all taken: then little was tried
            assert row.rejected >= 0.1 * row.cases, told
            assert row.accepted >= 0.02 * row.cases, told


PLANTED = {  # where: what it is found as, and in how many cases: a worker that dies is started again
    "planted:an_error": ("KeyError planted.py", 12),
    "planted:a_hang": ("hang planted.py", 8),
    "planted:a_native_hang": ("hang -9", 4),
    "planted:a_crash": ("crash -11", 6),
    "planted:an_exhaustion": ("MemoryError planted.py", 12),
    "planted:a_read": ("forbidden: opened", 12),
    "planted:a_written_file": ("forbidden: opened", 12),
    "planted:a_hidden_read": ("forbidden: opened", 12),
    "planted:a_connection": ("forbidden: socket.", 12),
    "planted:a_process": ("forbidden: started", 12),
    "planted_doors:a_500": ("500", 12),
    "planted_doors:a_read_of_a_door": ("forbidden: opened", 12),
}


def planted(name: str) -> Plan:
    limit_s = 15.0 if "doors" in name else 0.3
    return Plan(name.partition(":")[2], f"tests.fuzz.{name}", 1, limit_s, grace_s=0.5)


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found_and_kept(name: str, smollm2_path: Path, tmp_path: Path) -> None:
    found_as, count = PLANTED[name]
    row = ran(planted(name), count, tmp_path, smollm2_path)
    assert row.cases == count
    assert 1 <= sum(row.found.values()) < count
    (sign,) = row.found
    assert sign.startswith(found_as)
    assert row.accepted + row.rejected == count - sum(row.found.values())
    assert len(row.kept) >= 1
    assert all(path.exists() for path in row.kept)


def test_a_case_is_made_small_and_found_again_by_its_file(smollm2_path: Path, tmp_path: Path) -> None:
    plan = planted("planted:an_error")
    row = ran(plan, 12, tmp_path, smollm2_path)
    small = [path for path in row.kept if path.name.endswith(".small.case")]
    assert [path.read_bytes() for path in small] == [b"!"] * len(small) != []
    lane = Lane(plan, tmp_path / "again", smollm2_path, SEED, tmp_path / "again")
    lane.replay(small[0])
    lane.stop()
    assert lane.row.found == dict.fromkeys(row.found, 1)


def test_the_same_seed_makes_the_same_cases(smollm2_path: Path, tmp_path: Path) -> None:
    plan = replace(next(plan for plan in PLANS if plan.name == "lora"), name="again")
    rows = [ran(plan, 80, tmp_path / str(number), smollm2_path) for number in range(2)]
    assert (rows[0].accepted, rows[0].rejected) == (rows[1].accepted, rows[1].rejected)
    other = Lane(plan, tmp_path / "other", smollm2_path, "another", tmp_path)
    other.run(80, time.monotonic() + SECONDS)
    other.stop()
    assert (other.row.accepted, other.row.rejected) != (rows[0].accepted, rows[0].rejected)


def test_the_command_prints_a_table_and_ends_with_0(tmp_path: Path) -> None:
    command = [sys.executable, "bench/fuzz.py", "--cases", "60", "--seed", SEED, "--only", "lora,projector"]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*command, "--found", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert [line.split(" |")[:2] for line in done.stdout.splitlines()[2:]] == [
        ["| lora", " 36"],
        ["| projector", " 24"],
        ["| all", " 60"],
    ]


def test_what_is_not_needed_for_a_finding_is_left_out() -> None:
    assert smallest(b"aaaXbbbbYcc", lambda case: b"X" in case and b"Y" in case, lambda: True) == b"XY"
    assert smallest(b"abc", lambda case: False, lambda: True) == b"abc"

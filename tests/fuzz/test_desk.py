"""What a worker writes is never read as if nothing had been written: a driver would take that for a hang."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from bench.fuzzing.desk import Desk

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from bench.fuzzing.desk import Desk

desk = Desk(Path(sys.argv[1]))
desk.clear()
print("ready", flush=True)
number = 1
while True:
    desk.begin(number, b"case")
    desk.end(accepted=True)
    number += 1
"""


def test_a_case_at_hand_has_always_begun_just_now(tmp_path: Path) -> None:
    desk = Desk(tmp_path / "desk")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "desk")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        began, ends = time.monotonic(), time.monotonic() + 1.0
        told = []
        while time.monotonic() < ends:
            told += [desk.read() for _ in range(1_000)]
        writer.kill()
    assert min(each.since for each in told) > began - 60.0
    assert max(each.number for each in told) > 100

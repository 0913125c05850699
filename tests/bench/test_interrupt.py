"""`takeoff bench` that is interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest
from tests.bench.scripted import Pace, scripted

PROGRAM = (sys.executable, "-c", "from takeoff.cli.main import main; main()", "bench")


@pytest.mark.anyio
async def test_what_was_measured_until_then_is_told(tmp_path: Path) -> None:
    """Four requests a round, after one of warm-up: in the third round two rounds are whole."""
    result = tmp_path / "result.json"
    flags = ("--scenario", "one", "--rounds", "20", "--warmup", "1", "--json", str(result))
    third_round = asyncio.Event()

    def pace(number: int) -> Pace:
        if number == 1 + 4 * 2 + 1:
            third_round.set()
        return Pace(gap_s=0.001)

    async with scripted(pace) as server:
        pipe = asyncio.subprocess.PIPE
        bench = await asyncio.create_subprocess_exec(
            *PROGRAM, f"us={server.target.url}", *flags, stdout=pipe, stderr=pipe
        )
        await third_round.wait()
        bench.send_signal(signal.SIGINT)
        said, told = await bench.communicate()
    assert bench.returncode == 130
    assert "interrupted: this is what was measured until then" in told.decode().splitlines()
    assert said.decode().splitlines()[-1].startswith("us on this machine carries 1 user at ")
    rate = json.loads(result.read_text())["scenarios"][0]["figures"][0]
    assert (rate["name"], len(rate["rounds"]["us"])) == ("rate", 2)

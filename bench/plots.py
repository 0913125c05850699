"""The plots of docs/ from what bench/goals.py has kept.

    python bench/plots.py

docs/throughput.svg: tokens/s of each peer by ours in the same round, against streams at a time.
docs/llama-server.svg: what a user gets against what all get, of ours and llama-server.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from goal_rows import OTHERS, Goal, Reading

from takeoff.bench.plot import Line, Point, plot

HERE = Path(__file__).parent
RESULTS, DOCS = HERE / "results/goals", HERE.parent / "docs"
LEVELS = {"one": 1, "eight": 8, "thirty-two": 32}
PEERS = {
    "llama-server": "llama-server",
    "vllm": OTHERS,
    "openvino": OTHERS,
    "llama-cpp-python": "llama-cpp-python",
}


def runs(peer: str) -> list[dict[str, Any]]:
    file = RESULTS / f"{PEERS[peer]}.json"
    return list(json.loads(file.read_text())) if file.exists() else []


def relative(peer: str) -> Iterator[Point]:
    """Median over the rounds of the peer's tokens/s by ours."""
    for scenario, streams in LEVELS.items():
        goal = Goal(Reading(peer, scenario, "rate"), Reading("takeoff", scenario, "rate"), 1.0)
        if pairs := list(goal.pairs(runs(peer))):
            yield Point(streams, statistics.median(theirs / ours for theirs, ours in pairs))


def service(server: str) -> Iterator[Point]:
    """Medians of a level's tokens/s together and of a user's."""
    for scenario, streams in LEVELS.items():
        rate, tpot = (
            [value for run in runs("llama-server") for value in Reading(server, scenario, name).values(run)]
            for name in ("rate", "tpot_p50")
        )
        if rate:
            yield Point(statistics.median(rate), 1 / statistics.median(tpot), str(streams))


def main() -> None:
    ours = Line("takeoff", [Point(streams, 1.0) for streams in LEVELS.values()])
    peers = [Line(peer, points, n) for n, peer in enumerate(PEERS, 1) if (points := list(relative(peer)))]
    title = "Throughput of other servers, Takeoff's in the same round being 1"
    (DOCS / "throughput.svg").write_text(plot(title, "streams at a time", "x Takeoff", [ours, *peers]) + "\n")
    lines = [Line(name, list(service(name)), n) for n, name in enumerate(("takeoff", "llama-server"))]
    title = "A user's speed against all users' (number: streams)"
    (DOCS / "llama-server.svg").write_text(plot(title, "tokens/s together", "tokens/s a user", lines) + "\n")


if __name__ == "__main__":
    main()

"""What hostile constraints cost: how soon each is refused, and how long a stream beside it pauses.

    PYTHONPATH=. python bench/hostile.py

Starts a server with one reader of the default model. One stream runs all the time; beside it each
constraint of tests/prepare/hostile_constraints.py is asked for in turn, and if it is taken, decoded.
Prints milliseconds: to the answer, and the longest gap of the stream meanwhile.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import requests
from server import Server
from tests.prepare.hostile_constraints import HOSTILE

from takeoff.request import Constraint, ConstraintKind

MANIFEST = """
takeoff:
  server_config: {}
  readers_config:
    one: {model_name: smollm2, device: cpu, consumer_group: primary, max_batch_size: 8}
"""
TOKENS, QUIET_S = 64, 4.0


class Stream:
    """A client that reads one stream after the other, and when each piece came."""

    def __init__(self, url: str) -> None:
        self.gaps: list[tuple[float, float]] = []  # when a gap ended, and how long it was, seconds
        self._url = url
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        body = {"text": "Tell a long story.", "max_new_tokens": 900, "min_new_tokens": 900}
        while True:
            last = None
            with requests.post(f"{self._url}/generate_stream", json=body, stream=True, timeout=600) as answer:
                for _ in answer.iter_content(None):
                    now = time.perf_counter()
                    if last is not None:
                        self.gaps.append((now, now - last))
                    last = now

    def longest_ms(self, since: float) -> float:
        return 1e3 * max((gap for ended, gap in list(self.gaps) if ended >= since), default=0.0)


def ask(url: str, constraint: Constraint) -> tuple[int, str, float]:
    """Status, what was said, and seconds."""
    if constraint.kind is ConstraintKind.REGEX:
        field = f'"regex_string": {json.dumps(constraint.source)}'
    else:
        field = f'"json_schema": {constraint.source}'
    body = f'{{"text": "Write something:", "max_new_tokens": {TOKENS}, {field}}}'.encode()
    started = time.perf_counter()
    answer = requests.post(
        f"{url}/generate", data=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    return answer.status_code, answer.text, time.perf_counter() - started


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "config.yaml")
        manifest.write_text(MANIFEST)
        server = Server("--manifest", str(manifest), "--takeoff-port", "0", "--management-port", "0")
        try:
            url = "http://" + server.read_until("Takeoff API").split("Takeoff API ")[1].split()[0]
            measure(url)
        finally:
            server.stop()


def measure(url: str) -> None:
    ask(url, Constraint(ConstraintKind.REGEX, "[0-9]{3}"))  # starts the process that tries constraints
    stream = Stream(url)
    time.sleep(1.0)
    since = time.perf_counter()
    time.sleep(QUIET_S)
    alone = [gap for ended, gap in stream.gaps if ended >= since]
    usual_ms = 1e3 * statistics.median(alone)
    print(f"alone: gaps of {usual_ms:.1f} ms, at most {1e3 * max(alone):.1f} ms\n")
    print("| constraint | status | ms | longest gap, ms | said |\n|---|--:|--:|--:|---|")
    refusals, gaps = [], []
    for name, constraint in HOSTILE.items():
        since = time.perf_counter()
        status, said, took_s = ask(url, constraint)
        time.sleep(0.05)
        gaps.append(stream.longest_ms(since))
        if status >= 400:
            refusals.append(1e3 * took_s)
        print(f"| {name} | {status} | {1e3 * took_s:.0f} | {gaps[-1]:.1f} | {said[:70]!r} |", flush=True)
    print(
        f"\nslowest refusal {max(refusals):.0f} ms; longest gap {max(gaps):.1f} ms, alone {usual_ms:.1f} ms"
    )


if __name__ == "__main__":
    main()

"""Thousands of clients that leave at random moments: whether anything of them stays behind.

    python bench/disconnects.py [--requests 10000] [--seed 1] [--json FILE] [flags of `takeoff serve`]

An independent client, on raw sockets. It asks at the doors of OpenAI, Anthropic and both Takeoffs, streamed
and whole, and goes: within the header or the body, in the tokenizer, in the queue, while a schema is tried,
in prefill, in decode, at the last byte; by close, RST, half-close, DELETE by id, or at the end of
X-Request-Timeout. Two witnesses beside it ask for the same two texts all the time. Exits with 1 unless
- what was accepted has ended, by /metrics, and nothing is open, running, waiting or queued,
- the request log has one line for each request, and as many of accepted ones as /metrics,
- all slots run together again,
- every witness got the undisturbed text, and nobody saw an answer that is no refusal and no result,
- descriptors are as many as before, and memory of no process grows, within noise, once caches are full.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from departures import LIMIT_S, Moment, Seen, Visit, Way, draw_visit, pay
from footprint import holdings
from page import Page, page_at_rest, page_of
from server import Server

from takeoff.bench.growth import Growth, Holding, Look, growths

SLOTS, CLIENTS = 8, 32
FLAGS = ("--max-slots", str(SLOTS), "--context", "1024", "--prefix-cache-mb", "32", "--deterministic")
WITNESSES = ("The capital of France is", "Once upon a time there was")
WITNESS_TOKENS = 40
EXPECTED = {200, 408, 429, 499, 504}  # of answers that somebody stayed for
GROUPS = {"completed": ("stop", "length"), "cancelled": ("cancelled",), "deadline": ("deadline",)}
PARTS = 6  # of the run; behind each everybody leaves, and descriptors are counted
LOOKS = 12  # at the processes, in each part
BLOCKS = 12  # of looks, whose means tell whether memory grows
REST_S = 1.0  # until connections of those who have just gone are closed
SETTLED = 3_000  # requests, in which caches fill: of grammars, and of why prefixes were missed
JUDGED_FROM = 6_000  # of fewer requests nothing is said about memory
FLAT_MB = 1.0  # growth for a thousand requests that counts as none


@dataclass(eq=False, slots=True)
class Findings:
    """Everything that was seen from outside."""

    visits: Counter[tuple[Moment, Way]] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)
    num_witnessed: int = 0
    num_disturbed: int = 0
    looks: list[Look] = field(default_factory=list)  # after so many requests
    rests: list[list[Holding]] = field(default_factory=list)  # behind each part
    most_running: int = 0
    page: Page = field(default_factory=lambda: Page({}))
    lines: Counter[tuple[str, bool]] = field(default_factory=Counter)  # by state, and whether accepted
    num_doubled: int = 0  # requests with more than one line
    seconds: float = 0.0

    def note(self, visit: Visit, seen: Seen) -> None:
        self.visits[visit.moment, visit.way] += 1
        if seen.error is not None:
            self.errors.append(seen.error)
        if seen.status is not None:
            self.statuses[seen.status] += 1
            if seen.status not in EXPECTED:
                self.errors.append(f"{visit.name}: HTTP {seen.status} {bytes(seen.data[-200:])!r}")
        if visit.moment is Moment.STAYS and not seen.is_whole:
            self.errors.append(f"{visit.name} stayed, and its answer broke off: {bytes(seen.data[-200:])!r}")

    def growths(self) -> list[Growth]:
        """Of the memory of each process, for a request, once its caches are full."""
        if self.visits.total() < JUDGED_FROM:
            return []
        looks = [(place, present) for place, present in self.looks if place >= SETTLED]
        block = (looks[-1][0] - looks[0][0]) / BLOCKS
        return growths(looks, {"memory_mb": FLAT_MB / 1e3}, settle=0.0, block=block)

    def at_rest(self, what: str) -> dict[str, list[float]]:
        """What each role held behind each part."""
        roles = sorted({each.role for each in self.rests[0]})
        return {
            role: [round(sum(getattr(h, what) for h in held if h.role == role), 1) for held in self.rests]
            for role in roles
        }

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        accepted_lines = sum(num for (_, was_accepted), num in self.lines.items() if was_accepted)
        checks = {
            "what was accepted has not all ended": not self.page.is_balanced,
            "the log and the metrics disagree": accepted_lines != self.page.accepted or self.num_doubled,
            "slots are missing": self.most_running != SLOTS,
            "a witness was disturbed": self.num_disturbed or not self.num_witnessed,
            "clients saw errors": self.errors,
            "requests failed": self.page.ended["failed"],
            "descriptors are left": [r for r, n in self.at_rest("descriptors").items() if n[-1] > n[0]],
            "memory grows": [each.role for each in self.growths() if each.is_leak],
        }
        return [f"{what}: {found}" for what, found in checks.items() if found]

    def figures(self) -> dict[str, Any]:
        states = Counter[str]()
        for (state, _), num in self.lines.items():
            states[state] += num
        return {
            "requests": self.visits.total(),
            "seconds": round(self.seconds, 1),
            "moments": {m.value: sum(n for (each, _), n in self.visits.items() if each is m) for m in Moment},
            "ways": dict(self._ways()),
            "accepted": self.page.accepted,
            "ended": self.page.ended,
            "left": self.page.left,
            "log_states": dict(states),
            "log_accepted": sum(num for (_, was_accepted), num in self.lines.items() if was_accepted),
            "log_doubled": self.num_doubled,
            "statuses": {str(status): num for status, num in sorted(self.statuses.items())},
            "leaked_slots": SLOTS - self.most_running,
            "witnesses": self.num_witnessed,
            "witnesses_disturbed": self.num_disturbed,
            "errors": len(self.errors),
            "first_errors": self.errors[:3],
            "descriptors_at_rest": self.at_rest("descriptors"),
            "mb_at_rest": self.at_rest("memory_mb"),
            "mb_per_1000_requests": {
                each.role: [round(1e3 * each.slope.value, 3), round(1e3 * each.slope.margin, 3)]
                for each in self.growths()
                if each.slope is not None
            },
            "broken": self.broken(),
        }

    def _ways(self) -> Counter[str]:
        ways = Counter[str]()
        for (moment, way), num in self.visits.items():
            if moment is not Moment.STAYS:
                ways[way.value] += num
        return ways


class Crowd:
    """Visitors of one server, some at a time, and the witnesses beside them."""

    def __init__(self, server: Server, ports: dict[str, int], seed: int) -> None:
        self.findings = Findings()
        self._server = server
        self._ports = ports
        self._draw = random.Random(seed)
        self._num_asked = 0
        self._next_look = 0.0
        self._expected: dict[str, str] = {}

    async def run(self, num_requests: int) -> Findings:
        async with self._client() as client:
            self._expected = {prompt: await _text(client, prompt) for prompt in WITNESSES}
        started = time.monotonic()
        for part in range(1, PARTS + 1):
            await self._part(num_requests * part // PARTS, every=num_requests / PARTS / LOOKS)
            self.findings.seconds = time.monotonic() - started
            told = f"{self._num_asked} of {num_requests} in {self.findings.seconds:.0f} s"
            print(told, file=sys.stderr, flush=True)
        async with self._client() as client:
            self.findings.most_running = await _most_running(client)
            self.findings.page = await page_at_rest(client)
        return self.findings

    async def _part(self, until: int, every: float) -> None:
        async with self._client() as client:
            visits = asyncio.gather(*(self._visit(until, every) for _ in range(CLIENTS)))
            await asyncio.gather(visits, *(self._witness(client, prompt, visits) for prompt in WITNESSES))
            await page_at_rest(client)
        await asyncio.sleep(REST_S)
        self.findings.rests.append(holdings(self._server.process.pid))

    async def _visit(self, until: int, every: float) -> None:
        while self._num_asked < until:
            self._num_asked += 1
            visit = draw_visit(self._draw, f"v{self._num_asked}")
            self.findings.note(visit, await pay(visit, "127.0.0.1", self._ports))
            if self._num_asked >= self._next_look:
                self.findings.looks.append((self._num_asked, holdings(self._server.process.pid)))
                self._next_look = self._num_asked + every

    async def _witness(
        self, client: httpx.AsyncClient, prompt: str, visits: asyncio.Future[list[None]]
    ) -> None:
        """Once at least, and until the visits are over."""
        while not visits.done():
            text = await _text(client, prompt)
            self.findings.num_witnessed += 1
            self.findings.num_disturbed += text != self._expected[prompt]
            await asyncio.sleep(0.2)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._server.url, timeout=LIMIT_S)


async def _text(client: httpx.AsyncClient, prompt: str) -> str:
    body = {"prompt": prompt, "max_tokens": WITNESS_TOKENS, "temperature": 0, "ignore_eos": True}
    answer = await client.post("/v1/completions", json={**body, "model": "primary"})
    return str(answer.json()["choices"][0]["text"]) if answer.status_code == 200 else answer.text


async def _most_running(client: httpx.AsyncClient) -> int:
    """Sequences that run at a time when as many are asked for as there are slots."""
    body = {"model": "primary", "max_tokens": 200, "ignore_eos": True}
    asked = [
        asyncio.create_task(client.post("/v1/completions", json={**body, "prompt": f"{number}, and then"}))
        for number in range(SLOTS)
    ]
    most = 0
    while not all(task.done() for task in asked):
        most = max(most, int((await page_of(client)).value("requests_running")))
        await asyncio.sleep(0.05)
    return most


def read_log(path: Path, findings: Findings) -> None:
    """Count the lines of requests that ask for work."""
    names = Counter[str]()
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["event"] == "request" and line["method"] == "POST":
            names[line["id"]] += 1
            findings.lines[line["state"], "reader" in line] += 1
    findings.num_doubled = sum(num > 1 for num in names.values())


def report(told: dict[str, Any]) -> str:
    refused, log = told["log_states"].get("refused", 0), told["log_states"]
    completed = told["ended"]["stop"] + told["ended"]["length"]
    return "\n".join(
        (
            f"{told['requests']} requests in {told['seconds']:.0f} s: {told['moments']}",
            f"ways to go: {told['ways']}; answers: {told['statuses']}",
            f"accepted {told['accepted']} = {completed} completed + {told['ended']['cancelled']} cancelled + "
            f"{told['ended']['deadline']} at their deadline + {told['ended']['failed']} failed; "
            f"left: {told['left']}",
            f"lines of the log: {sum(log.values())}, of accepted requests {told['log_accepted']}, refused "
            f"{refused}; requests with two lines: {told['log_doubled']}",
            f"leaked slots: {told['leaked_slots']} of {SLOTS}",
            f"witnesses with another text: {told['witnesses_disturbed']} of {told['witnesses']}",
            f"errors that clients saw: {told['errors']} {told['first_errors'] or ''}",
            f"descriptors behind each sixth: {told['descriptors_at_rest']}",
            f"MB behind each sixth: {told['mb_at_rest']}",
            f"MB of a process for 1000 requests, and margin: {told['mb_per_1000_requests']}",
            "kept" if not told["broken"] else f"BROKEN: {'; '.join(told['broken'])}",
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1, help="of what is asked, when who leaves, and how")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "requests.jsonl")
        doors = ("--takeoff-port", "0", "--management-port", "off", "--openai-port", "off")
        server = Server(*doors, *FLAGS, "--request-log", str(log), *flags)
        try:
            takeoff = server.read_until("Takeoff API").split("Takeoff API ")[1].split()[0]
            ports = {"front": int(server.url.rpartition(":")[2]), "takeoff": int(takeoff.rpartition(":")[2])}
            server.copy_to(sys.stderr)
            findings = asyncio.run(Crowd(server, ports, options.seed).run(options.requests))
        finally:
            server.stop()
        read_log(log, findings)
    told = findings.figures()
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    print(report(told))
    sys.exit(1 if told["broken"] else 0)


if __name__ == "__main__":
    main()

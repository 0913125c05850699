"""Half an hour of mixed traffic with kills: whether anything fails, is not accounted for, or grows.

    python bench/soak.py [--minutes 30] [--seed 1] [--kill-every 45] [--json FILE] [--plot FILE]
                         [flags of `takeoff serve`]

Starts a server with a model that generates, one that embeds, four keys and a file for the request log.
Clients chat, stream, call tools, ask for JSON, embed, tokenise, leave at any moment (see disconnects.py) and
send what must be refused. In the first half of the time an engine or the encoder gets SIGKILL, SIGSEGV,
SIGABRT or SIGSTOP every so often; in the second they live on, so that it shows whether they grow. Every few
seconds memory, descriptors and threads of each process are looked at. Exits with 1 unless
- no client saw an error: what was asked rightly was answered, what was asked wrongly was refused,
- what was accepted has ended, by /metrics and by the request log, and nothing is left,
- nothing grows: behind the first minutes of each process the slope of its memory, of shared memory that it
  has touched, of its descriptors and threads has an interval that reaches 0 (95 %, blocks of half a minute),
  or is less than `FLAT` an hour.
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
import psutil
from chaos import FROM_OUTSIDE, LIMIT_S, SIGNALS
from footprint import holdings, role_of
from made_keys import make_keys
from page import Page, page_at_rest
from server import Server
from soak_traffic import Seen, Traffic

from takeoff.bench.growth import Growth, Look, growths
from takeoff.bench.machine import descendants
from takeoff.bench.plot import Line, Point, plot

MANIFEST = """
takeoff:
  server_config: {}
  readers_config:
    one: {model_name: smollm2, device: cpu, consumer_group: primary, max_batch_size: 8, context: 1024}
    two: {model_name: minilm, device: cpu, consumer_group: embed}
"""
CLIENTS, KEYS = 12, 4
LOOK_EVERY_S = 3.0
EVERY_DRAWN = 10  # of the looks: one in half a minute
KILLING = 0.5  # of the time
SETTLE_S = 240.0  # of a process, in which caches fill and pools grow
BLOCK_S = 30.0
FLAT = {
    "memory_mb": 12.0,
    "shared_mb": 12.0,
    "descriptors": 6.0,
    "threads": 2.0,
}  # growth in an hour that counts as none
KILLED = ("engine", "engine", "engine", "encoder")  # drawn from


@dataclass(eq=False, slots=True)
class Soaked:
    """Everything that was seen."""

    seen: Seen
    page: Page = field(default_factory=lambda: Page({}))
    looks: list[Look] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    lines: Counter[tuple[str, bool]] = field(
        default_factory=Counter
    )  # of the log, by state and whether accepted
    seconds: float = 0.0

    def growths(self) -> list[Growth]:
        bounds = {what: bound / 3_600 for what, bound in FLAT.items()}
        return growths(self.looks, bounds, settle=SETTLE_S, block=BLOCK_S)

    def broken(self) -> list[str]:
        """The promises that were not kept."""
        num_accepted = sum(num for (_, was_accepted), num in self.lines.items() if was_accepted)
        checks = {
            "clients saw errors": self.seen.errors[:3],
            "what was accepted has not all ended": not self.page.is_balanced and self.page.left,
            "the log and the metrics disagree": num_accepted != self.page.accepted and num_accepted,
            "requests failed": self.page.ended["failed"],
            "it grows": [f"{each.what} of {each.role}" for each in self.growths() if each.is_leak],
        }
        return [f"{what}: {found}" for what, found in checks.items() if found]

    def figures(self) -> dict[str, Any]:
        states = Counter[str]()
        for (state, _), num in self.lines.items():
            states[state] += num
        return {
            "seconds": round(self.seconds),
            "requests": self.seen.counts.total(),
            "kinds": dict(self.seen.counts),
            "statuses": dict(sorted(self.seen.statuses.items())),
            "errors": len(self.seen.errors),
            "first_errors": self.seen.errors[:3],
            "kills": dict(self.kills),
            "accepted": self.page.accepted,
            "ended": self.page.ended,
            "left": self.page.left,
            "log_states": dict(states),
            "log_accepted": sum(num for (_, was_accepted), num in self.lines.items() if was_accepted),
            "growth_per_hour": {
                f"{each.role} {each.what}": each.slope
                and [round(3_600 * each.slope.value, 3), round(3_600 * each.slope.margin, 3)]
                for each in self.growths()
            },
            "broken": self.broken(),
        }

    def report(self) -> str:
        told = self.figures()
        completed = told["ended"]["stop"] + told["ended"]["length"]
        lines = [
            f"{told['requests']} requests in {told['seconds']} s: {told['kinds']}",
            f"killed: {told['kills'] or 'nobody'}",
            f"errors that clients saw: {told['errors']} {told['first_errors'] or ''}",
            f"accepted {told['accepted']} = {completed} completed + {told['ended']['cancelled']} cancelled + "
            f"{told['ended']['deadline']} at their deadline + {told['ended']['failed']} failed; "
            f"left: {told['left']}; lines of accepted ones in the log: {told['log_accepted']}",
            "",
            "| process | what | growth in an hour, 95 % | counts as none below | |",
            "|---|---|--:|--:|---|",
        ]
        for each in self.growths():
            slope = "too short to say" if each.slope is None else each.slope.told("", 3_600).strip()
            verdict = "" if each.slope is None else "GROWS" if each.is_leak else "flat"
            lines.append(f"| {each.role} | {each.what} | {slope} | {FLAT[each.what]:g} | {verdict} |")
        return "\n".join([*lines, "", f"BROKEN: {told['broken']}" if told["broken"] else "kept"])

    def drawing(self) -> str:
        """Memory of all processes of a role, and descriptors of the front, by minutes."""
        lines, looks = [], self.looks[::EVERY_DRAWN]
        for number, role in enumerate(sorted({held.role for _, present in looks for held in present})):
            points = [
                Point(at / 60, sum(held.memory_mb for held in present if held.role == role))
                for at, present in looks
            ]
            lines.append(Line(f"{role}, MB", points, number))
        descriptors = [
            Point(at / 60, sum(held.descriptors for held in present if held.role == "front"))
            for at, present in looks
        ]
        lines.append(Line("front, descriptors", descriptors, len(lines), is_dashed=True))
        title = f"{self.seen.counts.total():,} requests, {self.kills.total()} kills"
        return plot(title, "minutes", "MB, descriptors", lines)


async def soak(
    server: Server, ports: dict[str, int], secrets: list[str], options: argparse.Namespace
) -> Soaked:
    """Clients, kills and looks beside each other, until the time is over and all has ended."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CLIENTS)
    async with httpx.AsyncClient(base_url=server.url, timeout=LIMIT_S, limits=limits) as client:
        traffic = Traffic(client, ports, secrets, options.seed)
        soaked = Soaked(traffic.seen)
        started = time.monotonic()
        until = started + 60 * options.minutes
        beside = [
            asyncio.create_task(kill(server, soaked, started + KILLING * 60 * options.minutes, options)),
            asyncio.create_task(look(server, soaked, started)),
        ]
        await asyncio.gather(*(traffic.keep_asking(until) for _ in range(CLIENTS)))
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        soaked.seconds = time.monotonic() - started
        client.headers["x-api-key"] = secrets[0]
        soaked.page = await page_at_rest(client)
    return soaked


async def kill(server: Server, soaked: Soaked, until: float, options: argparse.Namespace) -> None:
    """Now and then, one that serves; a crash while it loads would be the weights' fault."""
    draw = random.Random(options.seed)
    while True:
        await asyncio.sleep(draw.uniform(0.7, 1.3) * options.kill_every)
        if time.monotonic() > until:
            return
        role = draw.choice(KILLED)
        for child in descendants(server.process.pid):
            if role_of(child) == role and child.status() != psutil.STATUS_STOPPED:
                is_young = time.time() - child.create_time() < 5.0
                number = draw.choice(FROM_OUTSIDE if is_young else SIGNALS)
                child.send_signal(number)
                soaked.kills[f"{role} {number.name}"] += 1
                break


async def look(server: Server, soaked: Soaked, started: float) -> None:
    while True:
        soaked.looks.append((time.monotonic() - started, holdings(server.process.pid)))
        await asyncio.sleep(LOOK_EVERY_S)


def read_log(path: Path, soaked: Soaked) -> None:
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["event"] == "request" and line["method"] == "POST":
            soaked.lines[line["state"], "reader" in line] += 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument(
        "--kill-every", type=float, default=45.0, help="seconds between two kills, on average"
    )
    parser.add_argument("--seed", type=int, default=1, help="of what is asked, and who is killed when")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    parser.add_argument("--plot", type=Path, help="draw memory and descriptors into this SVG file")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        keys, log, manifest = (
            Path(folder, "keys.json"),
            Path(folder, "log.jsonl"),
            Path(folder, "manifest.yaml"),
        )
        manifest.write_text(MANIFEST)
        secrets = make_keys(keys, KEYS)
        doors = ("--takeoff-port", "0", "--management-port", "off", "--openai-port", "off")
        files = ("--keys-file", str(keys), "--request-log", str(log), "--manifest", str(manifest))
        server = Server(*doors, *files, "--prefix-cache-mb", "64", *flags)
        try:
            takeoff = server.read_until("Takeoff API").split("Takeoff API ")[1].split()[0]
            ports = {"front": int(server.url.rpartition(":")[2]), "takeoff": int(takeoff.rpartition(":")[2])}
            server.copy_to(sys.stderr)
            soaked = asyncio.run(soak(server, ports, secrets, options))
        finally:
            server.stop()
        read_log(log, soaked)
    if options.json is not None:
        options.json.write_text(json.dumps(soaked.figures(), indent=1) + "\n")
    if options.plot is not None:
        options.plot.write_text(soaked.drawing() + "\n")
    print(soaked.report())
    sys.exit(1 if soaked.broken() else 0)


if __name__ == "__main__":
    main()

"""Tokens a second while other programs want the cores, too.

    python bench/crowded.py [--rounds 3] [--busy 0,1,2] [--streams 1,8] [--seconds 12] [--other SRC]
                            [flags of takeoff serve]

Beside a server so many programs do nothing but count, each with the rights of any other program. Of what
comes within the time all tokens count. `--other` is the `src` of another checkout, whose server is measured
in alternation. Medians over the rounds, and the ratio of this one to the other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from overload import tokens_per_s
from server import ONE_DOOR, Server, target_at

from takeoff.bench.client import Work
from takeoff.bench.prompts import Prompts

REST_S = 3.0  # behind each load, in which a server finds the cores free again


@contextlib.contextmanager
def busy(number: int) -> Iterator[None]:
    """So many programs that take what they get."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def short_work(prompts: Prompts) -> Work:
    return Work(prompts.text(20), 24)


def servers(options: argparse.Namespace, flags: list[str]) -> dict[str, Server]:
    """This checkout's, and the other's, if one is named."""
    flags = [*ONE_DOOR, "--request-log=off", "--no-optimize", *flags]
    started = {"this": Server(*flags)}
    if options.other is not None:
        os.environ["PYTHONPATH"] = str(options.other)
        started["other"] = Server(*flags)
    for server in started.values():
        server.copy_to(sys.stderr)
    return started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--busy", default="0,1,2", help="programs beside it")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each load")
    parser.add_argument("--other", type=Path, help="src of another checkout")
    options, flags = parser.parse_known_args()
    loads = [(int(b), int(s)) for b in options.busy.split(",") for s in options.streams.split(",")]
    rates: defaultdict[tuple[int, int, str], list[float]] = defaultdict(list)
    started = servers(options, flags)
    try:
        for _ in range(options.rounds):
            for number, streams in loads:
                for name, server in started.items():
                    load = tokens_per_s(target_at(server.url), streams, options.seconds, make=short_work)
                    with busy(number):
                        rate = asyncio.run(load)
                    rates[number, streams, name].append(rate)
                    print(f"{number} busy, {streams} streams, {name}: {rate:.1f} tokens/s", file=sys.stderr)
                    time.sleep(REST_S)
    finally:
        for server in started.values():
            server.stop()
    print("| busy programs | streams | " + " | ".join(started) + " | ratio, median of rounds |")
    print("|--:|--:|" + "--:|" * (len(started) + 1))
    for number, streams in loads:
        told = {name: rates[number, streams, name] for name in started}
        medians = " | ".join(f"{statistics.median(each):.1f}" for each in told.values())
        ratios = [this / other for this, other in zip(told["this"], told.get("other", []), strict=False)]
        ratio = f"{statistics.median(ratios):.2f}" if ratios else ""
        print(f"| {number} | {streams} | {medians} | {ratio} |")


if __name__ == "__main__":
    main()

"""Time to the first token of a shared prompt: computed, from RAM, and from disk after a restart.

    python bench/restart.py [--rounds 3] [serve options ...]

Each round starts from an empty folder of prefixes. The prompts end in words of their own, so that what
is measured is the shared beginning; the first request after a start is another, short one.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import urllib.request

from server import Server

from takeoff.bench.client import Work, complete
from takeoff.bench.prompts import Prompts
from takeoff.bench.target import find_target

WORDS, DISK_MB = 800, "512"


def ttft_s(url: str, prompt: str) -> float:
    """Of one request that runs alone."""
    trace = asyncio.run(complete(find_target(url), Work(prompt, 8)))
    if trace.error:
        raise SystemExit(trace.error)
    return trace.ttft_s


def wait_written(url: str) -> None:
    """Until the first prefix is on disk."""
    while True:
        with urllib.request.urlopen(f"{url}/metrics") as page:
            if b"takeoff_prefix_disk_writes_total 1.0" in page.read():
                return
        time.sleep(0.2)


def one_round(number: int, flags: list[str]) -> tuple[float, float, float]:
    prompts = Prompts(number)
    shared = prompts.text(WORDS)
    with tempfile.TemporaryDirectory() as home:
        kept = ["--home", home, "--prefix-cache-disk-mb", DISK_MB]
        server = Server(*kept, *flags)
        ttft_s(server.url, prompts.text(5))
        cold = ttft_s(server.url, f"{shared} {prompts.text(5)}")
        warm = ttft_s(server.url, f"{shared} {prompts.text(5)}")
        wait_written(server.url)
        server.stop()
        server = Server(*kept, *flags)
        ttft_s(server.url, prompts.text(5))
        restarted = ttft_s(server.url, f"{shared} {prompts.text(5)}")
        server.stop()
    return cold, warm, restarted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    arguments, flags = parser.parse_known_args()
    rounds = [one_round(number, flags) for number in range(arguments.rounds)]
    cold, warm, restarted = (statistics.median(times) for times in zip(*rounds, strict=True))
    print(f"TTFT of a prompt that begins with {WORDS} shared words, medians of {len(rounds)} rounds:")
    print(f"computed       {cold * 1e3:8.1f} ms")
    print(f"from RAM       {warm * 1e3:8.1f} ms   1/{cold / warm:.0f}")
    print(f"after restart  {restarted * 1e3:8.1f} ms   1/{cold / restarted:.0f}")


if __name__ == "__main__":
    main()

"""32 concurrent calls of takeoff-client's `generate` against the same work on /v1/completions.

    python bench/client_calls.py [--rounds 3]

Starts one server of the default model. Both ways are called from one process of the client package's own
locked environment (`calling.py`), a thread a call, greedy, with the same prompts and lengths, in alternation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from server import Server

HERE = Path(__file__).parent
CLIENT = "takeoff_client_0_7_0"
WAYS = ("generate", "completions")
FLAGS = ("--takeoff-port", "0", "--max-slots", "32", "--context", "512", "--prefix-cache-mb", "0")


@contextlib.contextmanager
def calling(takeoff_url: str, openai_url: str) -> Iterator[Callable[[str, int], float]]:
    """Tokens/s of a way and a seed."""
    setup = [HERE.parent / "setup.sh", "client", CLIENT]
    folder = subprocess.run(setup, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    command = [Path(folder, "bin", "python"), "-I", HERE / "calling.py", takeoff_url, openai_url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None

        def rate(way: str, seed: int) -> float:
            stdin.write(json.dumps({"way": way, "seed": seed}) + "\n")
            stdin.flush()
            return float(stdout.readline())

        yield rate
        stdin.close()


def measure(rate: Callable[[str, int], float], rounds: int) -> None:
    rate(WAYS[0], 0)  # the first is slower
    ratios = []
    for number in range(1, rounds + 1):
        order = WAYS if number % 2 else WAYS[::-1]
        rates = {way: rate(way, number) for way in order}
        ratios.append(rates["generate"] / rates["completions"])
        print(
            f"{', '.join(f'{way} {rates[way]:.1f}' for way in WAYS)} tokens/s: {ratios[-1]:.3f}", flush=True
        )
    print(
        f"generate makes {statistics.median(ratios):.3f} x the tokens/s of completions "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    server = Server(*FLAGS)
    try:
        takeoff = server.read_until("Takeoff API").split("Takeoff API ")[1].split()[0]
        with calling(f"http://{takeoff}", server.url) as rate:
            measure(rate, options.rounds)
    finally:
        server.stop()


if __name__ == "__main__":
    main()

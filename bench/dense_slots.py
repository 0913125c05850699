"""A step of 16 sequences left over from 32 after random departures, beside one of 16 that began alone.

    python bench/dense_slots.py MODEL.gguf

llama.cpp cuts a call wherever slot ids are not consecutive, so what departures leave behind would
cost more than twice as much, were the sequences not moved together.
"""

from __future__ import annotations

import random
import statistics
import sys
from pathlib import Path

from in_process import InProcess

from takeoff.request import SamplingParams

ROUNDS, STEPS, PROMPT_TOKENS = 7, 12, 96
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True, seed=1)


def left_over(bench: InProcess, round_number: int) -> tuple[float, float]:
    """Milliseconds a step after the departures, and of moving in all."""
    bench.start(range(32), PROMPT_TOKENS, GREEDY)
    leaving = random.Random(round_number).sample(range(32), 16)
    bench.cancel(leaving)
    first = bench.time_steps(1)
    times = bench.time_steps(STEPS)
    bench.cancel(range(32))
    return times["step"], first["move"]


def fresh(bench: InProcess) -> float:
    bench.start(range(16), PROMPT_TOKENS, GREEDY)
    times = bench.time_steps(STEPS + 1)
    bench.cancel(range(16))
    return times["step"]


def main() -> None:
    bench = InProcess(Path(sys.argv[1]))
    ratios, moves, steps = [], [], []
    for number in range(ROUNDS):
        (after, move), dense = left_over(bench, number), fresh(bench)
        ratios.append(after / dense)
        moves.append(move)
        steps.append(dense)
    bench.close()
    print(f"a step of 16 dense slots: {statistics.median(steps):.1f} ms")
    print(f"a step of 16 left over from 32: {statistics.median(ratios):.2f} x, median of {ROUNDS} rounds")
    print(f"moving them together, once: {statistics.median(moves):.1f} ms")


if __name__ == "__main__":
    main()

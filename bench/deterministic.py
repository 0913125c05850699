"""What `--deterministic` costs, and how many texts differ without it.

    python bench/deterministic.py MODEL.gguf

Decode calls of 1, 8 and 32 sequences at several context lengths, with the flag and without, in
alternation; then greedy requests alone and beside 31 others without the flag.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from in_process import InProcess

from takeoff.request import SamplingParams

ROUNDS, STEPS = 3, 12
CONTEXTS = {100: (1, 8, 32), 1000: (1, 8)}  # tokens before the step: numbers of sequences
GREEDY = SamplingParams(temperature=0.0, ignore_eos=True, seed=1)
COMPARED, COMPARED_TOKENS = 64, SamplingParams(temperature=0.0, ignore_eos=True, seed=1, max_new_tokens=48)


def rate(bench: InProcess, num_sequences: int, context: int) -> float:
    """Tokens/s of decoding."""
    bench.start(range(num_sequences), context, GREEDY)
    times = bench.time_steps(STEPS)
    bench.cancel(range(num_sequences))
    return 1e3 * num_sequences / times["decode"]


def print_cost(path: Path) -> None:
    print("| sequences | context | default, tokens/s | deterministic, tokens/s | ratio |")
    print("|--:|--:|--:|--:|--:|")
    for context, counts in CONTEXTS.items():
        # Room to decode while others are still prefilled: who reaches the end is gone from the step.
        size = {"n_slots": max(counts), "n_ctx_slot": (context // 256 + 2) * 256}
        benches = [InProcess(path, deterministic=flag, **size) for flag in (False, True)]
        for num_sequences in counts:
            pairs = [[rate(bench, num_sequences, context) for bench in benches] for _ in range(ROUNDS)]
            plain, same = (statistics.median(values) for values in zip(*pairs, strict=True))
            ratio = statistics.median(pair[1] / pair[0] for pair in pairs)
            print(f"| {num_sequences} | {context} | {plain:.0f} | {same:.0f} | {ratio:.2f} |", flush=True)
        for bench in benches:
            bench.close()


def print_differences(path: Path) -> None:
    bench = InProcess(path, n_slots=32, n_ctx_slot=1024)
    alone = []
    for number in range(COMPARED):
        bench.submit(number, 40 + 10 * number, COMPARED_TOKENS)
        bench.run_until_idle()
        alone.append(bench.token_ids[number])
    for number in range(COMPARED):
        bench.submit(number, 40 + 10 * number, COMPARED_TOKENS)
    bench.run_until_idle()
    different = sum(alone[number] != bench.token_ids[number] for number in range(COMPARED))
    bench.close()
    print(f"without the flag {different} of {COMPARED} greedy texts of 48 tokens differ alone and in a crowd")


def main() -> None:
    path = Path(sys.argv[1])
    print_cost(path)
    print_differences(path)


if __name__ == "__main__":
    main()

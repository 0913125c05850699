"""A prompt of 30,000 tokens beside four streams, while short prompts arrive: who waits how long.

    python bench/long_prompt.py MODEL.gguf [PROMPT_TOKENS [ITL_SLO_MS]]

The model's context must hold the prompt. Prints the gaps of the streams alone and beside the prompt, the
time to the first token of the short prompts and of the long one, and the longest call.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

from in_process import InProcess

from takeoff.bench.measures import nearest_rank
from takeoff.request import SamplingParams, TokenEvent

NUM_STREAMS, STREAM_PROMPT = 4, 64
NUM_SHORT, SHORT_PROMPT = 12, 48  # short prompts, one every EVERY_S
EVERY_S = 1.5
ROOM = 2_048  # tokens that the streams may have beyond the prompt's
LONG = 1_000
ALONE_STEPS = 60
SHORT = SamplingParams(temperature=0.0, ignore_eos=True, max_new_tokens=8, seed=1)
ENDLESS = SamplingParams(temperature=0.0, ignore_eos=True, seed=1)


class Timed(InProcess):
    """Notes when each token came."""

    def __init__(self, path: Path, *, n_ctx_slot: int, itl_slo_ms: float | None) -> None:
        self.told_at: defaultdict[int, list[float]] = defaultdict(list)
        super().__init__(path, n_slots=8, n_ctx_slot=n_ctx_slot, itl_slo_ms=itl_slo_ms)

    def _take(self, events: list[TokenEvent]) -> None:
        super()._take(events)
        now = time.perf_counter()
        for event in events:
            self.told_at[event.request_id].append(now)

    def gaps(self, since: float, until: float) -> list[float]:
        """Milliseconds between two tokens of the streams, of those in the span."""
        pairs = [pair for number in range(NUM_STREAMS) for pair in pairwise(self.told_at[number])]
        return [1e3 * (after - before) for before, after in pairs if since < after <= until]


def run(bench: Timed, num_tokens: int) -> None:
    bench.start(range(NUM_STREAMS), STREAM_PROMPT, ENDLESS)
    since = time.perf_counter()
    for _ in range(ALONE_STEPS):
        bench.engine.step()
    print_gaps("streams alone", bench.gaps(since, time.perf_counter()))

    asked_at, calls = {LONG: time.perf_counter()}, []
    bench.submit(LONG, num_tokens, SamplingParams(temperature=0.0, max_new_tokens=1, seed=1))
    while not bench.token_ids[LONG]:
        if len(asked_at) <= NUM_SHORT and time.perf_counter() - asked_at[LONG] > EVERY_S * len(asked_at):
            number = LONG + len(asked_at)
            asked_at[number] = time.perf_counter()
            bench.submit(number, SHORT_PROMPT, SHORT)
        before = bench.engine.counters.snapshot()
        bench.engine.step()
        after = bench.engine.counters.snapshot()
        calls.append(
            (
                after["prefill_seconds"] - before["prefill_seconds"],
                int(after["prefill_tokens"] - before["prefill_tokens"]),
            )
        )
    done_at = bench.told_at[LONG][0]
    print_gaps(f"beside a prompt of {num_tokens:,} tokens", bench.gaps(asked_at[LONG], done_at))
    waits = [bench.told_at[n][0] - at for n, at in asked_at.items() if n != LONG and bench.told_at[n]]
    if waits:  # else it was done before one came
        median, most = statistics.median(waits), max(waits)
        print(f"{len(waits)} short prompts: first token after {median:.2f} s, at most {most:.2f} s")
    longest_s, size = max(calls)
    took = f"{done_at - asked_at[LONG]:.1f} s, {len(calls)} calls"
    print(f"the long one: {took}, the first of {calls[0][1]} tokens and the last but one of {calls[-2][1]}")
    print(f"the longest prefill call: {1e3 * longest_s:.0f} ms, of {size} tokens")


def print_gaps(what: str, gaps: list[float]) -> None:
    spread = ", ".join(f"p{percent} {nearest_rank(gaps, percent):.0f}" for percent in (50, 95, 99))
    print(f"{what}: gaps of {spread}, at most {max(gaps):.0f} ms ({len(gaps)} gaps)", flush=True)


def main() -> None:
    num_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 30_000
    itl_slo_ms = float(sys.argv[3]) if len(sys.argv) > 3 else None
    bench = Timed(Path(sys.argv[1]), n_ctx_slot=num_tokens + ROOM, itl_slo_ms=itl_slo_ms)
    run(bench, num_tokens)
    bench.close()


if __name__ == "__main__":
    main()

"""What the step loop itself costs, to 256 running sequences, with kernels that compute nothing.

    python bench/scheduling.py

Steady decoding; decoding in which at each step an eighth of the sequences end, others take their slots and
are prefilled; and the arrival of so many prompts at once, which have a beginning in common.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from in_process import make_load
from numpy.typing import NDArray

from takeoff.engine.engine import Engine
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import SlotClass, Submit
from takeoff.request import SamplingParams

SIZES = (8, 32, 64, 128, 256)
N_VOCAB = 260
PROMPT, SHARED = 200, 150  # tokens of a prompt; of those, at its beginning and in all prompts
STEPS = 60


class NoKernels:
    """Always the same logits, and nothing to move or to keep."""

    n_vocab, n_ctx_slot, can_trim = N_VOCAB, 4096, True
    eog_token_ids = (N_VOCAB - 1,)

    def __init__(self, n_slots: int) -> None:
        self.n_slots = n_slots
        self.slot_classes = (SlotClass(n_slots, self.n_ctx_slot),)
        self._logits = np.zeros((n_slots, N_VOCAB), np.float32)
        self._logits[:, 65] = 1.0

    def forward(self, work: Sequence[Rows], _lora: str | None = None) -> NDArray[np.float32]:
        return self._logits[: sum(rows.wants_logits for rows in work)]

    def set_threads(self, _n_threads: int) -> None: ...
    def clear(self, _slot: int) -> None: ...
    def trim(self, _slot: int, _length: int) -> None: ...
    def restore(self, _slot: int, _source: NDArray[np.uint8]) -> None: ...

    def snapshot_bytes(self, _slot: int) -> int:
        return 64

    def save(self, _slot: int, _target: NDArray[np.uint8]) -> int:
        return 64

    def piece(self, _token_id: int) -> bytes:
        return b" word"


class Bench:
    """An engine with `n_slots` slots, and requests that are new each time."""

    def __init__(self, n_slots: int, *, cache_bytes: int = 0) -> None:
        load = make_load(
            Path(),
            n_slots=n_slots,
            n_ctx_slot=NoKernels.n_ctx_slot,
            n_batch=65_536,
            cache_bytes=cache_bytes,
            itl_slo_ms=1e6,  # so that whoever comes is prefilled at once
        )
        self.n_slots, self._next_id = n_slots, 0
        self.engine = Engine(load, NoKernels(n_slots), lambda _events: None)  # type: ignore[arg-type]

    def submit(self, max_new_tokens: int) -> None:
        number = self._next_id
        self._next_id += 1
        prompt = [place % 250 for place in range(SHARED)]
        prompt += [(number * 37 + place * 11) % 250 for place in range(PROMPT - SHARED)]
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_new_tokens=max_new_tokens, seed=1)
        self.engine.submit(Submit(number, prompt, params, tenant=""))

    def step_s(self) -> float:
        started = time.perf_counter()
        self.engine.step()
        return time.perf_counter() - started


def steady(n_slots: int) -> float:
    """Median seconds of a step in which all decode."""
    bench = Bench(n_slots)
    for _ in range(n_slots):
        bench.submit(3_000)
    for _ in range(4 * n_slots):
        bench.engine.step()
    return statistics.median(bench.step_s() for _ in range(STEPS))


def changing(n_slots: int) -> float:
    """Median seconds of a step; texts have 8 tokens, so an eighth of them ends in each."""
    bench = Bench(n_slots)
    for number in range(n_slots * (STEPS // 8 + 6)):
        bench.submit(1 + number % 8 if number < n_slots else 8)
    for _ in range(24):
        bench.engine.step()
    return statistics.median(bench.step_s() for _ in range(STEPS // 2))


def arrival(n_slots: int) -> float:
    """Seconds of the step that meets as many prompts as there are slots."""
    bench = Bench(n_slots, cache_bytes=1 << 20)
    for _ in range(n_slots):
        bench.submit(8)
    return bench.step_s()


def main() -> None:
    print("| sequences | steady, µs a step | a sequence | changing, µs a step | a sequence | arrival, ms |")
    print("|--:|--:|--:|--:|--:|--:|")
    for size in SIZES:
        still, moving = 1e6 * steady(size), 1e6 * changing(size)
        come = 1e3 * statistics.median(arrival(size) for _ in range(3))
        columns = (
            size,
            f"{still:.0f}",
            f"{still / size:.1f}",
            f"{moving:.0f}",
            f"{moving / size:.1f}",
            f"{come:.1f}",
        )
        print("| " + " | ".join(map(str, columns)) + " |", flush=True)


if __name__ == "__main__":
    main()

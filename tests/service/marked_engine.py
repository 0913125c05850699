"""The real engine, whose kernels misbehave in calls with certain tokens: the launcher starts it."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from takeoff.engine import process
from takeoff.engine.llama import kernels as llama
from takeoff.engine.llama.rows import Rows

ABORTS, SEGFAULTS, HANGS, IS_SLOW, RAISES = range(40_001, 40_006)  # words of the vocabulary that no test says
SLOW_S = 0.9


def hang() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def run_out_of_memory() -> None:
    raise MemoryError


FAULTS: dict[int, Callable[[], object]] = {
    ABORTS: os.abort,
    SEGFAULTS: lambda: ctypes.string_at(0),
    HANGS: hang,
    IS_SLOW: lambda: time.sleep(SLOW_S),
    RAISES: run_out_of_memory,
}


def main() -> None:
    make_kernels = llama.make_kernels

    def make_marked(*args: Any) -> Any:
        load, kernels = make_kernels(*args)
        forward = kernels.forward

        def marked(work: Sequence[Rows], lora: str | None = None) -> Any:
            for token_id in {token_id for rows in work for token_id in rows.token_ids} & FAULTS.keys():
                FAULTS[token_id]()
            return forward(work, lora)

        kernels.forward = marked
        return load, kernels

    llama.make_kernels = make_marked
    process.main()

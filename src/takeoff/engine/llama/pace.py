"""Times calls to a model; the process of `engine.timing`.

Its argument is a `models.optimize.pace.Setup` in JSON. It reads an `Order` a line on standard input,
answers with a JSON list of seconds, and ends with its input.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from takeoff.engine.llama.kernels import LlamaKernels
from takeoff.engine.llama.model import LlamaModel
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.lifeline import die_with_parent
from takeoff.ipc.messages import Load
from takeoff.models.optimize.pace import DEPTH, N_CTX_SLOT, PREFILL_TOKENS, READY, Order, Setup


class Pace:
    """A model whose slots hold `depth` tokens each."""

    def __init__(self, load: Load, depth: int) -> None:
        self._kernels = LlamaKernels(load, LlamaModel(load))
        self._depth = depth
        self._kernels.set_threads(load.n_threads)
        self._kernels.forward([Rows(0, 0, self._tokens(depth), True)])
        self._snapshot = np.empty(self._kernels.snapshot_bytes(0), np.uint8)
        self._kernels.save(0, self._snapshot)

    def seconds(self, order: Order) -> list[float]:
        """Time what was ordered; the first step of a size is slower and not counted."""
        self._kernels.set_threads(order.threads)
        if not order.streams:
            self._kernels.clear(0)
            return [self._time([Rows(0, 0, self._tokens(PREFILL_TOKENS), True)])]
        for slot in range(order.streams):
            self._kernels.restore(slot, self._snapshot)
        return [
            self._time(
                [Rows(slot, self._depth + step, self._tokens(1), True) for slot in range(order.streams)]
            )
            for step in range(order.steps + 1)
        ][1:]

    def _time(self, work: Sequence[Rows]) -> float:
        started = time.perf_counter()
        self._kernels.forward(work)
        return time.perf_counter() - started

    def _tokens(self, number: int) -> list[int]:
        return [(place * 131) % (self._kernels.n_vocab - 300) + 256 for place in range(number)]


def load_of(setup: Setup) -> Load:
    """What an engine with these settings would be told."""
    return Load(
        model_path=setup.path,
        n_slots=setup.n_slots,
        n_ctx_slot=N_CTX_SLOT,
        n_batch=max(setup.batch, PREFILL_TOKENS),
        n_ubatch=setup.ubatch,
        n_threads=setup.threads,
        n_threads_prefill=setup.threads,
        n_gpu_layers=0,
        flash_attention=setup.flash_attention,
        deterministic=False,
        cache_bytes=0,
        itl_slo_ms=None,
        kv_type=setup.kv_type,
    )


def serve_orders() -> None:
    """Load the setup and time what is ordered, until standard input ends."""
    die_with_parent()
    pace = Pace(load_of(msgspec.json.decode(sys.argv[1], type=Setup)), DEPTH)
    sys.stdout.write(READY + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(
            msgspec.json.encode(pace.seconds(msgspec.json.decode(line, type=Order))).decode() + "\n"
        )
        sys.stdout.flush()

"""What this machine has: usable cores, memory, a GPU; and how fast it reads memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

from takeoff.models.gpu import find_gpu, why_unusable

# Share of the bandwidth limit that decoding one stream reaches, as measured on two small models.
DECODE_EFFICIENCY = 0.6
BANDWIDTH_BYTES = 256 << 20
READ_BYTES = 128 << 20  # more than any cache holds


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes. `gpu_free_bytes` is None where no GPU can be used, and `gpu_missing` says why."""

    cores: int
    memory_total_bytes: int
    memory_available_bytes: int
    gpu_free_bytes: int | None = None
    gpu_missing: str = "no GPU was found"

    def without(self, num_bytes: int, gpu_bytes: int) -> Machine:
        """What is left when so much of its memory, and so much of the GPU's, is taken."""
        left, gpu_left = self.memory_available_bytes - num_bytes, self.gpu_free_bytes
        if gpu_left is not None:
            gpu_left = max(gpu_left - gpu_bytes, 0)
        return replace(self, memory_available_bytes=max(left, 0), gpu_free_bytes=gpu_left)


def read_machine() -> Machine:
    """Ask the system, within the limits of our control group."""
    cores, memory = _usable_cores(), _memory()
    gpu, unusable = find_gpu(), why_unusable()
    if gpu is None:
        return Machine(cores, *memory)
    if unusable is not None:
        return Machine(cores, *memory, gpu_missing=unusable)
    return Machine(cores, *memory, gpu.free_bytes)


def logical_cores() -> int:
    """Cores that we may run on, counting each hardware thread."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_memory() -> int:
    """Bytes that a server could plan with now. Quick: for an event loop."""
    return _memory()[1]


def measure_bandwidth() -> float:
    """Bytes a second that one core reads and writes in a copy of 256 MiB; best of three. About 0.3 s."""
    source = np.ones(BANDWIDTH_BYTES // 8)
    target = np.empty_like(source)
    best = 0.0
    for _ in range(3):
        started = time.perf_counter()
        np.copyto(target, source)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best


def measure_read_bandwidth(threads: int) -> float:
    """Bytes a second that so many threads together read, each 128 MiB of its own; best of three."""
    blocks = [np.ones(READ_BYTES // 8, np.int64) for _ in range(threads)]
    return threads * READ_BYTES / _best_of(threads, lambda number: blocks[number].max())


def measure_matrix_flops(threads: int) -> float:
    """Floating-point operations a second of float32 matrix products, one beside the other; best of three.

    numpy's own library spreads a product over all cores, so it is asked once, whatever `threads` is, and
    its rate is scaled down where fewer threads than cores are meant.
    """
    size = 1024
    left, right = np.ones((2, size, size), np.float32)
    seconds = _best_of(1, lambda _number: left @ right)
    return 2.0 * size**3 / seconds * min(1.0, threads / _usable_cores())


def _best_of(threads: int, work: Callable[[int], object]) -> float:
    """Seconds that the best of three runs takes, of `work(0)` ... `work(threads - 1)` at once."""
    best = math.inf
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(4):  # the first one wakes the threads and touches the memory
            started = time.perf_counter()
            list(pool.map(work, range(threads)))
            best = min(best, time.perf_counter() - started)
    return best


def expected_decode_rate(weights_bytes: int, bandwidth: float) -> float:
    """Tokens/s of one stream: each token reads all weights once."""
    return DECODE_EFFICIENCY * bandwidth / weights_bytes


def _usable_cores() -> int:
    """Physical cores that we may run on, at least one."""
    logical = logical_cores()
    physical = psutil.cpu_count(logical=False) or logical
    cores = min(logical, physical)
    quota = _read_words(Path("/sys/fs/cgroup/cpu.max"))
    if len(quota) == 2 and quota[0] != "max":
        cores = min(cores, max(1, int(quota[0]) // int(quota[1])))
    return max(1, cores)


def _memory() -> tuple[int, int]:
    """(total, available), within the limits of our control group."""
    memory = psutil.virtual_memory()
    limit, used = _cgroup_memory()
    if limit is None:
        return memory.total, memory.available
    return min(memory.total, limit), min(memory.available, limit - used)


def _cgroup_memory() -> tuple[int | None, int]:
    """(limit, used) of our control group; no limit is None."""
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit = _read_words(Path("/sys/fs/cgroup") / limit_name)
        used = _read_words(Path("/sys/fs/cgroup") / used_name)
        if limit and used and limit[0] != "max" and int(limit[0]) < 1 << 60:
            return int(limit[0]), int(used[0])
    return None, 0


def _read_words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []

"""What a server says of itself afterwards: how many requests it still has open."""

from __future__ import annotations

import asyncio
import time
import urllib.request

from takeoff.bench.target import Target

TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.05
LOOK_FOR_S = 10.0

# The gauges of open requests, as different servers call them; two count the running and the waiting apart.
_GAUGES = (
    "takeoff_requests_open",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
)


async def open_requests(target: Target) -> float | None:
    """How many requests the server has open; None where it does not tell."""
    return await asyncio.to_thread(_open_requests, target)


async def idle_after(target: Target) -> float | None:
    """Seconds until the server has no request open; None where it does not tell, or never in 10 s."""
    started = time.perf_counter()
    while (count := await open_requests(target)) is not None:
        elapsed = time.perf_counter() - started
        if count == 0:
            return elapsed
        if elapsed > LOOK_FOR_S:
            break
        await asyncio.sleep(LOOK_EVERY_S)
    return None


def _open_requests(target: Target) -> float | None:
    request = urllib.request.Request(f"{target.url}/metrics", headers=target.headers)  # noqa: S310  (http only)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            lines = answer.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return None
    values = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if any(line.startswith((f"{name} ", f"{name}{{")) for name in _GAUGES)
    ]
    return sum(values) if values else None

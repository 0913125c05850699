"""A service over child processes of scripted answers, and what tests do with it."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from takeoff.ipc.messages import Load
from takeoff.observe.metrics import Metrics
from takeoff.request import Request, SamplingParams
from takeoff.service.generation import Generation
from takeoff.service.service import ServedModel, Service
from takeoff.settings import Settings

HERE = Path(__file__).parent
LIMIT_S = 30.0  # against hanging only


def make_load(n_ctx_slot: int = 64) -> Load:
    return Load(
        model_path="scripted",
        n_slots=4,
        n_ctx_slot=n_ctx_slot,
        n_batch=64,
        n_ubatch=64,
        n_threads=1,
        n_threads_prefill=1,
        n_gpu_layers=0,
        flash_attention=False,
        deterministic=False,
        cache_bytes=0,
        itl_slo_ms=None,
    )


def engine_command(*options: str) -> tuple[str, ...]:
    return (sys.executable, str(HERE / "fake_engine.py"), *options)


def make_service(*engine_options: str, n_ctx_slot: int = 64, **settings: Any) -> Service:
    return Service(
        Settings(**settings),
        ServedModel("scripted", Path("scripted.gguf")),
        make_load(n_ctx_slot),
        Metrics(),
        engine_command=engine_command(*engine_options),
        preparer_command=(sys.executable, str(HERE / "fake_preparer.py")),
    )


@asynccontextmanager
async def running_service(
    *engine_options: str, n_ctx_slot: int = 64, **settings: Any
) -> AsyncIterator[Service]:
    """A service that is ready; afterwards its processes are gone and its books are balanced."""
    service = make_service(*engine_options, n_ctx_slot=n_ctx_slot, **settings)
    await service.start()
    try:
        async with asyncio.timeout(LIMIT_S):
            await service.wait_ready()
            yield service
    finally:
        await service.stop()
    status = service.overview()
    assert status["accepted"] == sum(status["ended"].values())
    assert status["open_requests"] == status["queued_tokens"] == 0


def make_request(
    prompt: str | tuple[int, ...] = (1, 2, 3), *, max_new_tokens: int | None = 5, **changes: Any
) -> Request:
    return Request(prompt=prompt, sampling=SamplingParams(max_new_tokens=max_new_tokens), **changes)


async def text_of(generation: Generation) -> str:
    with generation:
        return "".join([event.text async for event in generation])


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110  (there is no event)
            await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()

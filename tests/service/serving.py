"""A service over child processes of scripted answers, and what tests do with it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from takeoff.errors import ModelError, PlanError
from takeoff.ipc.messages import Load
from takeoff.observe.metrics import Metrics
from takeoff.request import Request, SamplingParams, Task
from takeoff.service.engines import Commands
from takeoff.service.generation import Generation
from takeoff.service.launch import Launch
from takeoff.service.provision import PlanReader
from takeoff.service.reader import Reader
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings

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


def never_plan(settings: ReaderSettings, available_bytes: int) -> Launch:
    raise ModelError(f"there is no model {settings.model!r} in the store")


def make_launch(n_ctx_slot: int = 64) -> Launch:
    path = Path("scripted.gguf")
    return Launch("scripted", path, Task.GENERATE, make_load(n_ctx_slot), {"model_type": "scripted"})


def plan_sized(settings: ReaderSettings, available_bytes: int) -> Launch:
    """Any model is there, and is the scripted one: called NAME@MB@CONTEXT it needs so much and holds so many.

    Raises PlanError: it needs more than is available.
    """
    name, *numbers = settings.model.split("@")
    megabytes, context = (*numbers, *("0", "64")[len(numbers) :])
    launch = make_launch(int(context))
    load = msgspec.structs.replace(launch.load, model_path=f"{name}.gguf")
    num_bytes = int(megabytes) * 1_000_000
    if num_bytes > available_bytes:
        there = f"{available_bytes / 1e6:,.0f} MB"
        raise PlanError(f"{name} needs {megabytes} MB, and there are {there}", hint="choose a smaller one")
    return dataclasses.replace(launch, model_name=name, load=load, num_bytes=num_bytes)


def make_service(*engine_options: str, plan_reader: PlanReader = never_plan, **settings: Any) -> Service:
    commands = Commands(
        engine=engine_command(*engine_options),
        encoder=(sys.executable, str(HERE / "fake_encoder.py")),
        preparer=(sys.executable, str(HERE / "fake_preparer.py")),
    )
    return Service(Settings(**settings), Metrics(), plan_reader, commands=commands)


def launch(service: Service, n_ctx_slot: int = 64, group: str = "primary", reader_id: str = "r1") -> Reader:
    return service.launch(reader_id, ReaderSettings(consumer_group=group), make_launch(n_ctx_slot))


@asynccontextmanager
async def running_service(
    *engine_options: str, n_ctx_slot: int = 64, **settings: Any
) -> AsyncIterator[Service]:
    """A service that is ready; afterwards its processes are gone and its books are balanced."""
    service = make_service(*engine_options, **settings)
    launch(service, n_ctx_slot)
    async with until_stopped(service):
        yield service


@asynccontextmanager
async def until_stopped(service: Service, limit_s: float = LIMIT_S) -> AsyncIterator[None]:
    """From when what was launched is ready until its processes are gone and its books are balanced.

    `limit_s` is for getting ready and for what is done with it.
    """
    try:
        async with asyncio.timeout(limit_s):
            await service.wait_ready()
            yield
    finally:
        await service.stop()
    assert_balanced(service)


def assert_balanced(service: Service) -> None:
    """What was accepted has ended, once."""
    assert service.tally.num_accepted == service.tally.num_ended.total()
    assert service.queued_tokens == 0
    assert all(reader.num_open == 0 for reader in service.readers())


def engine_pid(service: Service) -> int:
    pid = service.readers()[0].engine_pid
    assert pid is not None
    return pid


def preparer_pid(service: Service) -> int | None:
    preparers = service.readers()[0].preparers
    assert preparers is not None
    return preparers.short.pid


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

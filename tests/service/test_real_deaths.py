"""Requests that kill, hang or slow the real engine with real weights: who ends of it, and who only waits."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.service.marked_engine import ABORTS, HANGS, IS_SLOW, RAISES, SEGFAULTS
from tests.service.serving import HERE, engine_pid, make_load, never_plan, text_of, until, until_stopped

from takeoff.errors import EngineFailed
from takeoff.observe.metrics import Metrics
from takeoff.request import Request, SamplingParams, Task
from takeoff.sandbox.launch import command
from takeoff.service.engines import Commands
from takeoff.service.launch import Launch
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings

PROMPTS = [(504, 3058, 253, 655), (378, 2010, 314, 216), (49, 5893, 327), (788, 260, 614)]
LIMIT_S = 100.0


@pytest.fixture(autouse=True)
def _launcher_finds_the_marked_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


@asynccontextmanager
async def running(model: Path) -> AsyncIterator[Service]:
    """A service with one engine of real kernels."""
    sizes = {"n_slots": 8, "n_ctx_slot": 512, "n_batch": 512, "n_ubatch": 128}
    threads = {"n_threads": 2, "n_threads_prefill": 2}
    load = make_load()
    load = msgspec.structs.replace(load, model_path=str(model), flash_attention=True, **sizes, **threads)
    commands = Commands(
        engine=command("marked_engine"),  # in its sandbox, as the real one
        preparer=(sys.executable, str(HERE / "fake_preparer.py")),
    )
    service = Service(Settings(), Metrics(), never_plan, commands=commands)
    service.launch("r1", ReaderSettings(), Launch("smollm2", model, Task.GENERATE, load, {}))
    async with until_stopped(service, LIMIT_S):
        yield service


def request(prompt: tuple[int, ...], tokens: int = 40) -> Request:
    return Request(
        prompt=prompt, sampling=SamplingParams(temperature=0.0, max_new_tokens=tokens, ignore_eos=True)
    )


async def texts_of_all(service: Service, tokens: int = 40) -> list[str]:
    generations = [await service.generate(request(prompt, tokens)) for prompt in PROMPTS]
    return await asyncio.gather(*map(text_of, generations))


@pytest.mark.parametrize(
    ("marker", "ending"),
    [
        (ABORTS, r"signal 6 \(SIGABRT\)"),
        (SEGFAULTS, r"signal 11 \(SIGSEGV\)"),
        (HANGS, r"a call of the engine took more than 2\.0 s"),
        (RAISES, "it ended with exit code 1"),
    ],
)
def test_only_the_request_that_kills_engines_fails_and_the_streams_beside_it_go_on(
    smollm2_path: Path, marker: int, ending: str
) -> None:
    async def run() -> None:
        async with running(smollm2_path) as service:
            texts = [asyncio.create_task(texts_of_all(service, 120)) for _ in range(2)]
            await until(lambda: service.tally.num_accepted == 8)
            poison = await service.generate(request((504, 3058, marker)))
            told = f"dies of this request, which it computed alone: .*{ending}"
            with pytest.raises(EngineFailed, match=told):
                await text_of(poison)
            assert service.readers()[0].num_restarts in (3, 4)
            assert all(len(text) > 100 for some in await asyncio.gather(*texts) for text in some)
            assert service.tally.num_ended.total() == 9
            assert service.tally.num_ended["failed"] == 1

    asyncio.run(run())


def test_a_call_of_nearly_a_second_is_no_hang_and_a_stopped_engine_is_seen_within_two(
    smollm2_path: Path,
) -> None:
    async def run() -> None:
        async with running(smollm2_path) as service:
            pid = engine_pid(service)
            slow = await service.generate(request((504, IS_SLOW, 655) * 60, 4))
            others = await texts_of_all(service)
            await text_of(slow)
            assert all(others)
            assert engine_pid(service) == pid
            generation = await service.generate(request(PROMPTS[0], 100))
            await anext(generation)
            os.kill(pid, signal.SIGSTOP)
            stopped_at = time.monotonic()
            await until(lambda: not service.readers()[0].is_live)
            assert 1.0 <= time.monotonic() - stopped_at < 2.0
            await text_of(generation)
            assert generation.completion_tokens == 100

    asyncio.run(run())

"""The real service and doors before an engine that computes nothing, for `front.py`.

`front_server.py STEP_MS SERVER_CORE ENGINE_CORE` prints the ports as JSON and serves until it is ended.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import uvloop

from takeoff.errors import ModelError
from takeoff.http.doors import Doors
from takeoff.ipc.messages import Load
from takeoff.models.store import Store
from takeoff.observe.metrics import Metrics
from takeoff.request import Task
from takeoff.service.engines import Commands
from takeoff.service.launch import Launch
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings

MODEL = "smollm2"
CONTEXT = 1 << 20


async def serve(engine: tuple[str, ...]) -> None:
    settings = Settings(port=0, takeoff_port=0, management_port=0, openai_port=0)
    service = Service(settings, Metrics(), no_plan, commands=Commands(engine=engine))
    service.launch("stub", ReaderSettings(), launch(Store(settings.store).pull(MODEL).path))
    doors = Doors(settings)
    serving = asyncio.create_task(doors.serve(service))
    await service.wait_ready()
    print(json.dumps(doors.ports), flush=True)
    await serving


def launch(path: Path) -> Launch:
    load = Load(
        model_path=str(path),
        n_slots=64,
        n_ctx_slot=CONTEXT,
        n_batch=512,
        n_ubatch=512,
        n_threads=1,
        n_threads_prefill=1,
        n_gpu_layers=0,
        flash_attention=False,
        deterministic=False,
        cache_bytes=0,
        itl_slo_ms=None,
    )
    return Launch(MODEL, path, Task.GENERATE, load, {})


def no_plan(_settings: ReaderSettings) -> Launch:
    raise ModelError("one reader is all there is")


def main() -> None:
    step_ms, server_core, engine_core = sys.argv[1:]
    os.sched_setaffinity(0, set(map(int, server_core.split(","))))
    stub = str(Path(__file__).parent / "stub_engine.py")
    uvloop.run(serve(("taskset", "-c", engine_core, sys.executable, stub, step_ms)))


if __name__ == "__main__":
    main()

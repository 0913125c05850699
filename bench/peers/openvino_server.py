"""OpenVINO's GenAI library behind /v1/completions: no more of a server than a measurement needs.

    PEERS/openvino/bin/python bench/peers/openvino_server.py --model MODEL --port PORT --slots 32

Its continuous batching does the work; the door is ours, because its own server is no Python package.
MODEL is a GGUF file, which the library turns into its own format when it is loaded, or a folder in that
format.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import openvino_genai as genai
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

CACHE_GB = 4


class Body(BaseModel):
    """What `takeoff bench` asks for; every text has exactly `max_tokens` tokens."""

    prompt: str
    max_tokens: int


@dataclass(eq=False)
class Stream:
    """A request, and the numbers of tokens that came with each step."""

    prompt: str
    config: Any
    pieces: asyncio.Queue[list[int]] = field(default_factory=asyncio.Queue)
    handle: Any = None


class Engine:
    """The library's pipeline and the one thread that steps it."""

    def __init__(self, model: str, slots: int) -> None:
        schedule = genai.SchedulerConfig()
        schedule.max_num_seqs = slots
        schedule.cache_size = CACHE_GB
        schedule.enable_prefix_caching = True
        self.pipeline = genai.ContinuousBatchingPipeline(model, schedule, "CPU")
        self.tokenizer = self.pipeline.get_tokenizer()
        self._numbers = itertools.count()
        self._work = threading.Condition()
        self._new: list[Stream] = []
        self._running: list[Stream] = []
        self.loop: asyncio.AbstractEventLoop | None = None

    def submit(self, stream: Stream) -> None:
        with self._work:
            self._new.append(stream)
            self._work.notify()

    def run(self) -> None:
        while True:
            with self._work:
                while not self._new and not self._running:
                    self._work.wait()
                new, self._new = self._new, []
            for stream in new:
                stream.handle = self.pipeline.add_request(next(self._numbers), stream.prompt, stream.config)
            self._running += new
            self.pipeline.step()
            self._running = [stream for stream in self._running if self._deliver(stream)]

    def _deliver(self, stream: Stream) -> bool:
        """Hand on what the step made of it; False at its end."""
        is_running = stream.handle.get_status() == genai.GenerationStatus.RUNNING
        while stream.handle.can_read():
            for output in stream.handle.read().values():
                self._tell(stream, list(output.generated_ids))
        if not is_running:
            self._tell(stream, [])
        return is_running

    def _tell(self, stream: Stream, ids: list[int]) -> None:
        assert self.loop is not None
        self.loop.call_soon_threadsafe(stream.pieces.put_nowait, ids)


def make_app(engine: Engine) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"data": [{"id": "model"}]}

    @app.post("/v1/completions")
    async def completions(body: Body) -> StreamingResponse:
        engine.loop = asyncio.get_running_loop()
        config = genai.GenerationConfig(
            max_new_tokens=body.max_tokens, ignore_eos=True, apply_chat_template=False
        )
        stream = Stream(body.prompt, config)
        engine.submit(stream)
        return StreamingResponse(events(engine, stream), media_type="text/event-stream")

    return app


async def events(engine: Engine, stream: Stream) -> AsyncIterator[str]:
    count = 0
    try:
        while ids := await stream.pieces.get():
            count += len(ids)
            yield event(
                {"choices": [{"index": 0, "text": engine.tokenizer.decode(ids), "finish_reason": None}]}
            )
    finally:  # also when the client has left
        if stream.handle is not None:
            stream.handle.cancel()
    yield event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": count}})
    yield "data: [DONE]\n\n"


def event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--slots", type=int, default=32)
    options = parser.parse_args()
    engine = Engine(options.model, options.slots)
    threading.Thread(target=engine.run, daemon=True).start()
    uvicorn.run(make_app(engine), host="127.0.0.1", port=options.port, log_level="warning")


if __name__ == "__main__":
    main()

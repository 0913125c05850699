"""What the answers of /v1/completions and /v1/chat/completions have in common."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from takeoff.errors import TakeoffError
from takeoff.http.answers import GenerationResponse, merge
from takeoff.http.ports import Generation, Service
from takeoff.http.refusals import error_body
from takeoff.http.sse import DONE, sse_event
from takeoff.http.streaming import EVENT_STREAM, KeepAlive
from takeoff.http.visiting import new_answer_id
from takeoff.request import TokenEvent
from takeoff.settings import Settings

COMPLETION_DETAILS = ("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")
COMMENT = b": keep-alive\n\n"  # which a reader of events passes over

Choices = Callable[[int, TokenEvent], Sequence[dict[str, Any]]]  # of a generation's event; one chunk each


def head_of(prefix: str, kind: str, model: str) -> dict[str, Any]:
    """What every object of one answer begins with."""
    return {"id": new_answer_id(f"{prefix}-"), "object": kind, "created": int(time.time()), "model": model}


def usage(generations: Sequence[Generation], n: int, *, has_completion: bool = True) -> dict[str, Any]:
    """The tokens of `n` choices of each prompt: a prompt counts once, a completion if it was asked for."""
    prompts = generations[::n]
    prompt = sum(generation.prompt_tokens for generation in prompts)
    completion = sum(generation.completion_tokens for generation in generations) if has_completion else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(generation.cached_tokens for generation in prompts)},
        "completion_tokens_details": {
            name: sum(getattr(generation, name) for generation in generations) for name in COMPLETION_DETAILS
        },
    }


def event_stream(
    service: Service, settings: Settings, generations: list[Generation], events: AsyncGenerator[bytes, None]
) -> GenerationResponse:
    """The answer that `events` are; comments stand where nothing comes for long."""
    keep_alive = KeepAlive(COMMENT, settings.stream_keep_alive_s)
    return GenerationResponse(service, generations, events, EVENT_STREAM, keep_alive)


async def stream_chunks(
    head: dict[str, Any],
    generations: list[Generation],
    choices: Choices,
    *,
    n: int,
    with_usage: bool,
    has_completion: bool = True,
) -> AsyncGenerator[bytes, None]:
    """Chunks of all generations as they come; an error travels as a chunk of its own."""
    told = {**head, "usage": None} if with_usage else head
    try:
        async with aclosing(merge(generations)) as events:
            async for index, event in events:
                for choice in choices(index, event):
                    yield sse_event(msgspec.json.encode({**told, "choices": [choice]}))
    except TakeoffError as exc:
        yield sse_event(msgspec.json.encode(error_body(exc)))
        return
    if with_usage:
        told = {**head, "usage": usage(generations, n, has_completion=has_completion)}
        yield sse_event(msgspec.json.encode({**told, "choices": []}))
    yield DONE

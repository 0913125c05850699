"""The two APIs that servers are measured through: how a completion is asked for, what its events say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

MAX_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Work:
    """A completion to ask for: exactly `max_tokens` tokens, greedy.

    `leave_after` is after how many pieces of text the client leaves; None stays to the end. `kind` is
    what the scenario calls such work.
    """

    prompt: str
    max_tokens: int
    leave_after: int | None = None
    kind: str = ""


@dataclass(slots=True)
class News:
    """What one event says. Token counts are None where it tells none."""

    has_text: bool = False
    is_end: bool = False
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None


class Api(Protocol):
    """One way to ask for a stream. `needs_end`: a stream is whole only after an event that says so."""

    name: str
    path: str
    needs_end: bool

    def body(self, model: str, work: Work) -> dict[str, Any]:
        """The JSON to post."""

    def read(self, event: bytes) -> News:
        """What an event says, its lines separated by line feeds.

        Raises:
            msgspec.DecodeError, LookupError, TypeError: it is not an event of this API.
        """


class OpenAI:
    """/v1/completions, with `ignore_eos` and `min_tokens`: beyond OpenAI's own, servers know one or both."""

    name = "openai"
    path = "/v1/completions"
    needs_end = True

    def body(self, model: str, work: Work) -> dict[str, Any]:
        return {
            "model": model,
            "prompt": work.prompt,
            "max_tokens": work.max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "min_tokens": work.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }

    def read(self, event: bytes) -> News:
        data = event.removeprefix(b"data:").strip()
        if not event.startswith(b"data:"):
            return News()
        if data == b"[DONE]":
            return News(is_end=True)
        told: dict[str, Any] = msgspec.json.decode(data)
        news = News(error=str(told["error"])[:MAX_ERROR_CHARACTERS] if "error" in told else None)
        for choice in told.get("choices", ()):
            news.has_text = news.has_text or bool(choice["text"])
            news.finish_reason = choice.get("finish_reason") or news.finish_reason
        if usage := told.get("usage"):
            news.prompt_tokens = usage["prompt_tokens"]
            news.completion_tokens = usage["completion_tokens"]
            details = usage.get("prompt_tokens_details") or {}
            news.cached_tokens = details.get("cached_tokens") or 0
        return news


class Takeoff:
    """/generate_stream of the later Takeoff API; `min_new_tokens` keeps a text from ending early.

    Each event is a token. A server that sends no metadata is believed to have sent all of them.
    """

    name = "takeoff"
    path = "/generate_stream"
    needs_end = False

    def body(self, model: str, work: Work) -> dict[str, Any]:
        return {
            "text": work.prompt,
            "consumer_group": model,
            "max_new_tokens": work.max_tokens,
            "min_new_tokens": work.max_tokens,
            "sampling_topk": 1,
            "use_chat_template": False,
            "return_metadata": True,
        }

    def read(self, event: bytes) -> News:
        if not event.startswith(b"event:metadata\n"):
            return News(has_text=event.startswith(b"data:"))
        told = msgspec.json.decode(event.partition(b"data:")[2])
        return News(
            is_end=True,
            prompt_tokens=told["prompt_tokens"],
            completion_tokens=told["generated_tokens"],
            cached_tokens=told.get("cached_tokens") or 0,
            finish_reason=told.get("finish_reason"),
        )

"""Answers in Anthropic's shape: what the model said in blocks, whole or as events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pydantic_core

from takeoff.errors import TakeoffError
from takeoff.http.answers import CUT_SHORT, check_in_time
from takeoff.http.anthropic.messages import ID_PREFIX
from takeoff.http.openai.calls import Arguments, Begun, new_call_id
from takeoff.http.openai.pieces import AnswerReader, Content, Piece, Thought
from takeoff.http.ports import Generation
from takeoff.http.refusals import anthropic_error_body
from takeoff.http.sse import named_event
from takeoff.http.visiting import new_answer_id
from takeoff.request import FinishReason, TokenEvent

PING = named_event("ping", b'{"type": "ping"}')

# kind of block -> kind of its deltas, and the name of their text
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request says of how its answer is told."""

    max_tokens: int
    has_tools: bool = False  # it may be calls
    shows_thoughts: bool = True  # else the blocks of thoughts are empty


def message_of(model: str) -> dict[str, Any]:
    """A message that has said nothing yet."""
    return {
        "id": new_answer_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def usage(generation: Generation) -> dict[str, Any]:
    """Its tokens. What is taken from the cache is not among the input tokens."""
    return {
        "input_tokens": generation.prompt_tokens - generation.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": generation.cached_tokens,
        "output_tokens": generation.completion_tokens,
        "output_tokens_details": {"thinking_tokens": generation.reasoning_tokens},
    }


def whole_message(
    head: dict[str, Any],
    generation: Generation,
    events: Iterable[TokenEvent],
    asked: Asked,
) -> dict[str, Any]:
    """The message that `events` make, as a stream of it would be put together."""
    reader = AnswerReader(generation, has_tools=asked.has_tools)
    content: list[dict[str, Any]] = []
    texts: list[list[str]] = []
    end: dict[str, Any] = {}
    for event in events:
        for piece in reader.take(event):
            if not content or not _goes_on(content[-1], piece):
                content.append(_block(piece))
                texts.append([])
            texts[-1].append(_text(piece, asked))
        if event.finish_reason is not None:
            end = _end(event, generation, asked.max_tokens, has_calls=reader.num_calls > 0)
    for block, parts in zip(content, texts, strict=True):
        text = "".join(parts)
        if block["type"] == "tool_use":
            block["input"] = _input(text)
        else:
            block[block["type"]] = text
    return {**head, "content": content, **end, "usage": usage(generation)}


async def message_events(
    head: dict[str, Any],
    generation: Generation,
    asked: Asked,
    *,
    request_id: str,
) -> AsyncGenerator[bytes, None]:
    """The message as events; an error travels as one."""
    reader = AnswerReader(generation, has_tools=asked.has_tools)
    blocks = BlockEvents(asked)
    is_begun = False
    try:
        async for event in generation:
            check_in_time(event, generation)
            if not is_begun:
                is_begun = True
                yield _event(
                    "message_start", message={**head, "usage": {**usage(generation), "output_tokens": 0}}
                )
            for piece in reader.take(event):
                for told in blocks.take(piece):
                    yield told
            if event.finish_reason is not None:
                for told in blocks.end():
                    yield told
                end = _end(event, generation, asked.max_tokens, has_calls=reader.num_calls > 0)
                yield _event("message_delta", delta=end, usage=usage(generation))
                yield _event("message_stop")
    except TakeoffError as exc:
        yield named_event("error", msgspec.json.encode(anthropic_error_body(exc, request_id)))


class BlockEvents:
    """The events of the blocks that pieces of an answer make, one block after the other."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._block: dict[str, Any] | None = None  # that goes on
        self._num_begun = 0

    def take(self, piece: Piece) -> Iterator[bytes]:
        """What `piece` adds."""
        if self._block is None or not _goes_on(self._block, piece):
            yield from self.end()
            self._block = _block(piece)
            self._num_begun += 1
            yield self._told("content_block_start", content_block=self._block)
        text = _text(piece, self._asked)
        if text:
            kind, name = _DELTAS[self._block["type"]]
            yield self._told("content_block_delta", delta={"type": kind, name: text})

    def end(self) -> Iterator[bytes]:
        """The end of the block that goes on, if there is one."""
        if self._block is not None:
            self._block = None
            yield self._told("content_block_stop")

    def _told(self, kind: str, **told: Any) -> bytes:
        return _event(kind, index=self._num_begun - 1, **told)


def _event(kind: str, **told: Any) -> bytes:
    return named_event(kind, msgspec.json.encode({"type": kind, **told}))


def _goes_on(block: dict[str, Any], piece: Piece) -> bool:
    """Whether `piece` is more of `block`."""
    match piece:
        case Content():
            return bool(block["type"] == "text")
        case Thought():
            return bool(block["type"] == "thinking")
        case Arguments():
            return True
    return False


def _block(piece: Piece) -> dict[str, Any]:
    """The block that begins with `piece`, empty."""
    match piece:
        case Begun(name):
            return {"type": "tool_use", "id": f"{ID_PREFIX}{new_call_id()}", "name": name, "input": {}}
        case Thought():
            return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _text(piece: Piece, asked: Asked) -> str:
    """What `piece` adds to its block."""
    if isinstance(piece, Begun) or (isinstance(piece, Thought) and not asked.shows_thoughts):
        return ""
    return piece.text


def _input(arguments: str) -> Any:
    """The object that a call's arguments are; of those that were cut off what is known of it."""
    return pydantic_core.from_json(arguments, allow_partial=True) if arguments else {}


def _end(event: TokenEvent, generation: Generation, max_tokens: int, *, has_calls: bool) -> dict[str, Any]:
    """Why the answer ended."""
    if event.finish_reason is FinishReason.LENGTH:
        is_full = generation.completion_tokens < max_tokens
        reason = "model_context_window_exceeded" if is_full else "max_tokens"
    elif event.finish_reason in CUT_SHORT:
        reason = event.finish_reason.value
    elif event.stop_string is not None:
        reason = "stop_sequence"
    else:
        reason = "tool_use" if has_calls else "end_turn"
    return {"stop_reason": reason, "stop_sequence": event.stop_string}

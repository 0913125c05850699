"""What a model said, as a choice of a chat: its text, and the calls in it."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterable, Sequence
from typing import Any

from takeoff.call_formats import SYNTAX
from takeoff.http.openai.calls import Arguments, Begun, CallParser, Piece
from takeoff.http.ports import Generation
from takeoff.request import FinishReason, TokenEvent

_ROLE = {"role": "assistant"}
_ID_CHARACTERS = string.ascii_letters + string.digits


def whole_choice(index: int, generation: Generation, text: str, *, has_tools: bool) -> dict[str, Any]:
    """The choice that `text` is, put together as a stream of it would be."""
    content: str | None = text
    calls: list[dict[str, Any]] = []
    if has_tools:
        parser = CallParser(SYNTAX[generation.call_format])
        content = ""
        for piece in [*parser.push(text), *parser.end()]:
            match piece:
                case Begun(name):
                    calls.append(_call(name))
                case Arguments(more):
                    calls[-1]["function"]["arguments"] += more
                case str():
                    content += piece
    message: dict[str, Any] = {**_ROLE, "content": content, "refusal": None}
    if calls:
        message |= {"content": content or None, "tool_calls": calls}
    return _choice(index, _reason(generation.finish_reason, has_calls=bool(calls)), message=message)


class Deltas:
    """The chunks of streamed choices: the first of each tells the role, the last why it ended."""

    def __init__(self, generations: Sequence[Generation], *, has_tools: bool) -> None:
        self._begun: set[int] = set()
        self._parsers = [CallParser(SYNTAX[each.call_format]) for each in generations] if has_tools else []

    def __call__(self, index: int, event: TokenEvent) -> list[dict[str, Any]]:
        """The chunks of one event."""
        deltas: list[dict[str, Any]] = []
        if index not in self._begun:
            self._begun.add(index)
            deltas.append({**_ROLE, "content": ""})
        has_calls = False
        if self._parsers:
            parser = self._parsers[index]
            deltas += self._told(parser, parser.push(event.text))
            if event.finish_reason is not None:
                deltas += self._told(parser, parser.end())
            has_calls = parser.num_calls > 0
        elif event.text:
            deltas.append({"content": event.text})
        choices = [_choice(index, None, delta=delta) for delta in deltas]
        if event.finish_reason is not None:
            choices.append(_choice(index, _reason(event.finish_reason, has_calls=has_calls), delta={}))
        return choices

    def _told(self, parser: CallParser, pieces: Iterable[Piece]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for piece in pieces:
            last = parser.num_calls - 1  # the parser stands at this piece
            match piece:
                case Begun(name):
                    deltas.append({"tool_calls": [{"index": last, **_call(name)}]})
                case Arguments(text):
                    deltas.append({"tool_calls": [{"index": last, "function": {"arguments": text}}]})
                case str():
                    deltas.append({"content": piece})
        return deltas


def _call(name: str) -> dict[str, Any]:
    """A call whose arguments are to come. Its id has the nine letters and digits that some templates want."""
    call_id = "".join(secrets.choice(_ID_CHARACTERS) for _ in range(9))
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}


def _reason(reason: FinishReason | None, *, has_calls: bool) -> str | None:
    if has_calls and reason is FinishReason.STOP:
        return "tool_calls"
    return None if reason is None else reason.value


def _choice(index: int, reason: str | None, **said: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, **said, "logprobs": None, "finish_reason": reason}

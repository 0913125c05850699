"""What a model said, as a choice of a chat: its text, and the calls in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from takeoff.http.openai.calls import Arguments, Begun, new_call_id
from takeoff.http.openai.logprobs import chat_logprobs
from takeoff.http.openai.pieces import AnswerReader, Content, Thought, whole_answer
from takeoff.http.ports import Generation
from takeoff.request import FinishReason, TokenEvent

_ROLE = {"role": "assistant"}


def whole_choice(
    index: int,
    generation: Generation,
    events: Sequence[TokenEvent],
    *,
    has_tools: bool,
    has_logprobs: bool,
) -> dict[str, Any]:
    """The choice that `events` are, put together as a stream of it would be."""
    answer = whole_answer(generation, events, has_tools=has_tools)
    message: dict[str, Any] = {**_ROLE, "content": answer.content, "refusal": None}
    if answer.calls:
        calls = [_call(call.name, call.arguments) for call in answer.calls]
        message |= {"content": answer.content or None, "tool_calls": calls}
    if answer.thoughts:
        message["reasoning_content"] = answer.thoughts
    choice = _choice(index, _reason(generation.finish_reason, has_calls=bool(answer.calls)), message=message)
    if has_logprobs:
        choice["logprobs"] = chat_logprobs(each for event in events for each in event.logprobs)
    return choice


class Deltas:
    """The chunks of streamed choices: the first of each tells the role, the last why it ended."""

    def __init__(self, generations: Sequence[Generation], *, has_tools: bool, has_logprobs: bool) -> None:
        self._has_logprobs = has_logprobs
        self._begun: set[int] = set()
        self._readers = [AnswerReader(each, has_tools=has_tools) for each in generations]

    def __call__(self, index: int, event: TokenEvent) -> list[dict[str, Any]]:
        """The chunks of one event."""
        reader = self._readers[index]
        roles: list[dict[str, Any]] = []
        deltas: list[dict[str, Any]] = []
        if index not in self._begun:
            self._begun.add(index)
            roles.append({**_ROLE, "content": ""})
        for piece in reader.take(event):
            match piece:
                case Thought(text):
                    deltas.append({"reasoning_content": text})
                case Content(text):
                    deltas.append({"content": text})
                case Begun(name):
                    deltas.append({"tool_calls": [{"index": reader.num_calls - 1, **_call(name)}]})
                case Arguments(text):
                    call = {"index": reader.num_calls - 1, "function": {"arguments": text}}
                    deltas.append({"tool_calls": [call]})
        choices = [_choice(index, None, delta=delta) for delta in deltas]
        if event.finish_reason is not None:
            choices.append(
                _choice(index, _reason(event.finish_reason, has_calls=reader.num_calls > 0), delta={})
            )
        if self._has_logprobs and event.logprobs:
            choices = choices or [_choice(index, None, delta={})]  # of tokens whose text is held back
            choices[0]["logprobs"] = chat_logprobs(event.logprobs)
        return [_choice(index, None, delta=role) for role in roles] + choices


def _call(name: str, arguments: str = "") -> dict[str, Any]:
    return {"id": new_call_id(), "type": "function", "function": {"name": name, "arguments": arguments}}


def _reason(reason: FinishReason | None, *, has_calls: bool) -> str | None:
    if has_calls and reason is FinishReason.STOP:
        return "tool_calls"
    return None if reason is None else reason.value


def _choice(index: int, reason: str | None, **said: Any) -> dict[str, Any]:
    return {"index": index, **said, "logprobs": None, "finish_reason": reason}

"""What a model said, as the items of a response, and the events that tell of them as they come.

An answer that is not streamed is made in the same way, its events unsent, so the two can't differ.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from takeoff.http.openai.calls import Arguments, Begun
from takeoff.http.openai.pieces import AnswerReader, Content, Thought
from takeoff.http.openai.responses.items import Call, Event, Item, Message, Status, Thoughts
from takeoff.http.ports import Generation
from takeoff.request import FinishReason, TokenEvent, TokenLogprobs


class Output:
    """The items of one answer. One ends before the next begins."""

    def __init__(self, generation: Generation, *, has_tools: bool) -> None:
        self.items: list[dict[str, Any]] = []  # those that have ended
        self._reader = AnswerReader(generation, has_tools=has_tools)
        self._open: Item | None = None
        self._tokens: list[TokenLogprobs] = []  # since the last piece

    def take(self, event: TokenEvent) -> Iterator[Event]:
        """What `event` adds; the last one ends the last item."""
        self._tokens += event.logprobs
        for piece in self._reader.take(event):
            tokens, self._tokens = self._tokens, []
            match piece:
                case Content(text):
                    yield from self._message(text, tokens)
                case Thought(text):
                    yield from self._thoughts(text)
                case Begun(name):
                    yield from self.end("completed")
                    self._open = Call(len(self.items), name)
                    yield from self._open.begin()
                case Arguments(text):
                    assert isinstance(self._open, Call), "arguments follow the beginning of their call"
                    yield self._open.add(text)
        if event.finish_reason is not None:
            yield from self._finish(event.finish_reason)

    def end(self, status: Status) -> Iterator[Event]:
        """End the item that is open, if one is."""
        if self._open is not None:
            yield from self._open.end(status)
            self.items.append(self._open.told)
            self._open = None

    def _message(self, text: str, tokens: list[TokenLogprobs]) -> Iterator[Event]:
        if not isinstance(self._open, Message):
            yield from self.end("completed")
            self._open = Message(len(self.items))
            yield from self._open.begin()
        if text:
            yield self._open.add(text, tokens)

    def _thoughts(self, text: str) -> Iterator[Event]:
        if not isinstance(self._open, Thoughts):
            yield from self.end("completed")
            self._open = Thoughts(len(self.items))
            yield from self._open.begin()
        yield self._open.add(text)

    def _finish(self, reason: FinishReason) -> Iterator[Event]:
        """An answer that is whole ends with a message or a call: of no text with an empty message."""
        is_whole = reason is FinishReason.STOP
        if self._open is None or (is_whole and isinstance(self._open, Thoughts)):
            yield from self._message("", [])
        yield from self.end("completed" if is_whole else "incomplete")


def whole_output(generation: Generation, events: Iterable[TokenEvent], *, has_tools: bool) -> Output:
    """What `events` make, as a stream of them would tell it."""
    output = Output(generation, has_tools=has_tools)
    for event in events:
        for _ in output.take(event):
            pass
    return output

"""What a model said, told apart as it comes: text, thoughts, and calls of tools.

Any cutting of an answer gives the same pieces, but for where texts and arguments are cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from takeoff.call_formats import SYNTAX
from takeoff.http.openai.calls import Arguments, Begun, CallParser
from takeoff.http.ports import Generation
from takeoff.request import TokenEvent


@dataclass(frozen=True, slots=True)
class Thought:
    """More of what the model thinks before it answers. It is no part of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of what the model says to the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call, whole."""

    name: str
    arguments: str  # as the model wrote them


Piece = Thought | Content | Begun | Arguments


class AnswerReader:
    """Reads the events of one generation; with tools, calls of them are told apart from text."""

    def __init__(self, generation: Generation, *, has_tools: bool) -> None:
        self._calls = CallParser(SYNTAX[generation.call_format]) if has_tools else None

    @property
    def num_calls(self) -> int:
        """Calls that have begun; while `take` runs, up to the last piece that it gave."""
        return 0 if self._calls is None else self._calls.num_calls

    def take(self, event: TokenEvent) -> Iterator[Piece]:
        """What `event` adds to the answer."""
        if self._calls is None:
            if event.text:
                yield Content(event.text)
            return
        yield from _pieces(self._calls.push(event.text))
        if event.finish_reason is not None:
            yield from _pieces(self._calls.end())


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, whole."""

    content: str
    calls: list[Call]
    thoughts: str = ""  # what it thought before


def whole_answer(generation: Generation, events: Iterable[TokenEvent], *, has_tools: bool) -> Answer:
    """The answer that `events` make, the pieces of a stream put together."""
    reader = AnswerReader(generation, has_tools=has_tools)
    thoughts: list[str] = []
    content: list[str] = []
    names: list[str] = []
    arguments: list[list[str]] = []
    for event in events:
        for piece in reader.take(event):
            match piece:
                case Thought(text):
                    thoughts.append(text)
                case Content(text):
                    content.append(text)
                case Begun(name):
                    names.append(name)
                    arguments.append([])
                case Arguments(text):
                    arguments[-1].append(text)
    calls = [Call(name, "".join(texts)) for name, texts in zip(names, arguments, strict=True)]
    return Answer("".join(content), calls, "".join(thoughts))


def _pieces(found: Iterable[str | Begun | Arguments]) -> Iterator[Piece]:
    for each in found:
        yield Content(each) if isinstance(each, str) else each

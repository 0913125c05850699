"""What a model said, told apart as it comes: text, thoughts, and calls of tools.

Any cutting of an answer gives the same pieces, but for where texts and arguments are cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from takeoff.call_formats import SYNTAX
from takeoff.http.openai.calls import Arguments, Begun, CallParser
from takeoff.http.ports import Generation
from takeoff.request import TokenEvent
from takeoff.thoughts import Thought as Thought
from takeoff.thoughts import ThoughtParser


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
    """Reads the events of one generation: its thought, then text, and with tools calls of them."""

    def __init__(self, generation: Generation, *, has_tools: bool) -> None:
        thought = generation.thought
        self._thoughts = None if thought is None else ThoughtParser(thought)
        self._calls = CallParser(SYNTAX[generation.call_format]) if has_tools else None

    @property
    def num_calls(self) -> int:
        """Calls that have begun; while `take` runs, up to the last piece that it gave."""
        return 0 if self._calls is None else self._calls.num_calls

    def take(self, event: TokenEvent) -> Iterator[Piece]:
        """What `event` adds to the answer."""
        is_last = event.finish_reason is not None
        if self._thoughts is None:
            yield from self._said(event.text)
        else:
            ends = self._thoughts.end() if is_last else ()
            for each in itertools.chain(self._thoughts.push(event.text), ends):
                if isinstance(each, Thought):
                    yield each
                else:
                    yield from self._said(each)
        if is_last and self._calls is not None:
            yield from _pieces(self._calls.end())

    def _said(self, text: str) -> Iterator[Piece]:
        """What `text`, which is no thought, adds to it."""
        if self._calls is not None:
            yield from _pieces(self._calls.push(text))
        elif text:
            yield Content(text)


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

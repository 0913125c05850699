"""The calls in an answer's text, told apart as the text comes: any cutting of it gives the same calls."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from takeoff.call_formats import CallSyntax

NUM_ID_CHARACTERS = 9  # some templates want a call's id to have so many letters and digits

_ID_CHARACTERS = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class Begun:
    """A call of this function begins."""

    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the last call's arguments, as the model wrote them."""

    text: str


Piece = str | Begun | Arguments  # a text is content


class _At(Enum):
    START = auto()  # of an answer that is calls as a whole, or text
    PLAIN = auto()  # text as a whole
    TEXT = auto()  # in which a call may begin
    HEAD = auto()  # after a call has begun, before its arguments
    ARGUMENTS = auto()
    CLOSING = auto()
    AFTER = auto()  # a call of an answer that is calls as a whole
    DONE = auto()  # what follows is no part of the answer


class CallParser:
    """Reads one answer. Text that only looks like a call stays text."""

    def __init__(self, syntax: CallSyntax) -> None:
        self._syntax = syntax
        self._at = _At.TEXT if syntax.mark else _At.START
        self._held = ""
        self._opening = syntax.opening if syntax.mark else syntax.begin + syntax.opening
        self._depth = 0
        self._is_string = False
        self._is_escaped = False
        self._is_after_call = False
        self.num_calls = 0

    def push(self, text: str) -> Iterator[Piece]:
        """What `text` adds to the answer."""
        self._held += text
        while (step := self._step()) is not None:
            if step != "":
                yield step

    def end(self) -> Iterator[Piece]:
        """What was held back, at the end of the text.

        Of a call that was cut off stays what is known of it; one that follows others and was cut off
        before its arguments is left out.
        """
        text, self._held = self._content(self._held), ""
        if self.num_calls and not text.strip():
            return
        begins = self._at in (_At.START, _At.HEAD)
        if text and (self._at is _At.TEXT or (begins and not self.num_calls)):
            yield text

    def _step(self) -> Piece | None:
        """Go on by some of the held text, which may add nothing; None: more has to come."""
        match self._at:
            case _At.START:
                return self._start()
            case _At.PLAIN:
                text, self._held = self._held, ""
                return text or None
            case _At.TEXT:
                return self._text()
            case _At.HEAD:
                return self._head()
            case _At.ARGUMENTS:
                return self._arguments()
            case _At.CLOSING:
                return self._closing()
            case _At.AFTER:
                return self._after()
        self._held = ""
        return None

    def _start(self) -> Piece | None:
        end = _end_of(self._opening, self._held)
        if end is None:
            return None
        if end < 0:
            self._at = _At.DONE if self.num_calls else _At.PLAIN
        else:
            self._at = _At.HEAD
        return ""

    def _text(self) -> Piece | None:
        """Blanks are held back: before a call, and after one, they are no content."""
        mark = self._syntax.mark
        place = self._held.find(mark)
        if place >= 0:
            text, self._held = self._held[:place].rstrip(), self._held[place:]
            self._at = _At.HEAD
            return self._content(text)
        keep = len(self._held.rstrip())
        keep -= next(
            (size for size in range(len(mark) - 1, 0, -1) if self._held[:keep].endswith(mark[:size])), 0
        )
        keep = len(self._held[:keep].rstrip())
        text, self._held = self._held[:keep], self._held[keep:]
        return self._content(text) or None

    def _content(self, text: str) -> str:
        """`text` without the blanks that stand between a call and what follows it."""
        if self._is_after_call:
            text = text.lstrip()
            self._is_after_call = not text
        return text

    def _head(self) -> Piece | None:
        start = _end_of(self._opening, self._held)
        if start is None:
            return None
        name_end = self._held.find('"', start) if start >= 0 else start
        if start >= 0 and name_end < 0:
            return None
        end = _end_of(self._syntax.middle + "{", self._held[name_end:]) if start >= 0 else -1
        if end is None:
            return None
        if start < 0 or end < 0:
            return self._no_call()
        name = self._held[start:name_end]
        self._held = self._held[name_end + end - 1 :]
        self._at, self._depth = _At.ARGUMENTS, 0
        self.num_calls += 1
        return Begun(name)

    def _no_call(self) -> Piece:
        """What is held only began like a call."""
        if not self._syntax.mark:
            self._at = _At.PLAIN
            return ""
        size = len(self._syntax.mark)
        text, self._held = self._held[:size], self._held[size:]
        self._at = _At.TEXT
        return self._content(text)

    def _arguments(self) -> Piece | None:
        for i, char in enumerate(self._held):
            if self._is_string:
                if self._is_escaped:
                    self._is_escaped = False
                elif char == "\\":
                    self._is_escaped = True
                elif char == '"':
                    self._is_string = False
            elif char == '"':
                self._is_string = True
            elif char in "{[":
                self._depth += 1
            elif char in "}]":
                self._depth -= 1
                if not self._depth:
                    text, self._held = self._held[: i + 1], self._held[i + 1 :]
                    self._at = _At.CLOSING
                    return Arguments(text)
        text, self._held = self._held, ""
        return Arguments(text) if text else None

    def _closing(self) -> Piece | None:
        end = _end_of(self._syntax.closing, self._held)
        if end is None:
            return None
        self._held = self._held[max(end, 0) :]
        self._at = _At.TEXT if self._syntax.mark else _At.AFTER
        self._is_after_call = True
        return ""

    def _after(self) -> Piece | None:
        if self._syntax.between is None:
            self._at = _At.DONE
            return ""
        self._opening = self._syntax.between + self._syntax.opening
        return self._start()


def new_call_id() -> str:
    """An id for a call, which every template takes."""
    return "".join(secrets.choice(_ID_CHARACTERS) for _ in range(NUM_ID_CHARACTERS))


def _end_of(written: str, text: str) -> int | None:
    """Where `text` has said `written`, blanks aside; None: it may still; -1: it can't."""
    wanted = "".join(written.split())
    num_found = 0
    for i, char in enumerate(text):
        if char.isspace():
            continue
        if char != wanted[num_found]:
            return -1
        num_found += 1
        if num_found == len(wanted):
            return i + 1
    return None

"""The kinds of items that an answer has: how each begins, goes on and ends, told in events."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal

from takeoff.http.openai.calls import new_call_id
from takeoff.http.openai.logprobs import shown
from takeoff.request import TokenLogprob, TokenLogprobs

Event = dict[str, Any]  # all of it but its number
Status = Literal["completed", "incomplete"]


class Item(ABC):
    """An item that is being said."""

    kind: ClassVar[str]
    prefix: ClassVar[str]  # of its id
    said: ClassVar[str]  # what its events call the text that it grows by

    def __init__(self, index: int, **told: Any) -> None:
        """`index`: of the item in the output. `told`: what it has from its beginning."""
        self.id = f"{self.prefix}_{uuid.uuid4().hex}"
        self.told: dict[str, Any] = {"type": self.kind, "id": self.id, "status": "in_progress", **told}
        self._index = index
        self._texts: list[str] = []

    def begin(self) -> Iterator[Event]:
        """The events of its beginning."""
        yield {"type": "response.output_item.added", "output_index": self._index, "item": dict(self.told)}

    def end(self, status: Status) -> Iterator[Event]:
        """The events of its end; `told` is whole then."""
        text = "".join(self._texts)
        yield from self._ended(text)
        self.told["status"] = status
        yield {"type": "response.output_item.done", "output_index": self._index, "item": self.told}

    def add(self, text: str) -> Event:
        """The event of more text."""
        self._texts.append(text)
        return self._event(f"response.{self.said}.delta", delta=text)

    @abstractmethod
    def _ended(self, text: str) -> Iterator[Event]:
        """Put `text`, the whole, into `told`, and tell of it."""

    def _event(self, kind: str, **told: Any) -> Event:
        return {"type": kind, "item_id": self.id, "output_index": self._index, **told}


class Call(Item):
    """A call of a function."""

    kind, prefix, said = "function_call", "fc", "function_call_arguments"

    def __init__(self, index: int, name: str) -> None:
        super().__init__(index, call_id=new_call_id(), name=name, arguments="")

    def _ended(self, text: str) -> Iterator[Event]:
        self.told["arguments"] = text
        yield self._event(f"response.{self.said}.done", name=self.told["name"], arguments=text)


class _Parted(Item):
    """An item that is one part of content."""

    def begin(self) -> Iterator[Event]:
        yield from super().begin()
        yield self._event("response.content_part.added", part=self._part(""))

    def _ended(self, text: str) -> Iterator[Event]:
        part = self._part(text)
        self.told["content"] = [part]
        yield self._event(
            f"response.{self.said}.done", **{k: part[k] for k in part.keys() & {"text", "logprobs"}}
        )
        yield self._event("response.content_part.done", part=part)

    def _event(self, kind: str, **told: Any) -> Event:
        return super()._event(kind, content_index=0, **told)

    @abstractmethod
    def _part(self, text: str) -> dict[str, Any]: ...


class Message(_Parted):
    """A text for the user."""

    kind, prefix, said = "message", "msg", "output_text"

    def __init__(self, index: int) -> None:
        super().__init__(index, role="assistant", content=[])
        self._logprobs: list[dict[str, Any]] = []

    def add(self, text: str, tokens: Sequence[TokenLogprobs] = ()) -> Event:
        """And `tokens`, those of `text`, if they are asked for. An end of text is none."""
        logprobs = [_logprob(each) for each in tokens if each.token.piece]
        self._logprobs += logprobs
        return {**super().add(text), "logprobs": logprobs}

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*self._logprobs]}


class Thoughts(_Parted):
    """What the model thinks before it answers."""

    kind, prefix, said = "reasoning", "rs", "reasoning_text"

    def __init__(self, index: int) -> None:
        super().__init__(index, summary=[], content=[])

    def _part(self, text: str) -> dict[str, Any]:
        return {"type": "reasoning_text", "text": text}


def _logprob(tokens: TokenLogprobs) -> dict[str, Any]:
    """A token, and the likeliest in its place."""
    return {**_shown(tokens.token), "top_logprobs": [_shown(each) for each in tokens.top]}


def _shown(token: TokenLogprob) -> dict[str, Any]:
    return {"token": shown(token), "bytes": list(token.piece), "logprob": token.logprob}

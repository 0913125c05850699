"""What becomes known of a request in its course, for the line that tells of it at its end."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from takeoff.errors import TakeoffError
from takeoff.keys.account import Account, Visit
from takeoff.request import Conversation, EncodeRequest, Request


@dataclass(eq=False, slots=True)
class Note:
    """Of one request."""

    arrived_at: float  # monotonic seconds
    prompts: list[Any] | None  # None: nobody is to read them
    request_id: str | None = None  # that its client knows
    account: Account | None = None
    visit: Visit | None = None
    error: TakeoffError | None = None  # that it was answered with

    def add_prompt(self, request: Request | EncodeRequest) -> None:
        """Its text, if it may be told; of images nothing."""
        if self.prompts is None:
            return
        if isinstance(request, EncodeRequest):
            self.prompts += request.texts
        elif isinstance(request.prompt, Conversation):
            self.prompts.append(request.prompt.messages)
        else:
            self.prompts.append(request.prompt)


# In the tasks of a request, at every door.
current_note: ContextVar[Note] = ContextVar("current_note")


def note_error(error: TakeoffError) -> None:
    """The current request, if there is one, is answered with `error`."""
    note = current_note.get(None)
    if note is not None:
        note.error = error

"""What was accepted and how far it got: enough to compute any open request again.

In memory. Every accepted request leaves it with exactly one terminal event.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import msgspec

from takeoff.ipc.messages import Submit
from takeoff.request import TokenEvent
from takeoff.service.admission import Party
from takeoff.service.generation import Generation
from takeoff.service.reader import Reader


@dataclass(eq=False, slots=True)
class Entry:
    """One open request."""

    submit: Submit  # prompt token ids, parameters, seed
    reader: Reader  # that computes it
    generation: Generation
    arrived_at: float  # monotonic seconds
    party: Party
    queued_tokens: int  # that it counts for while it waits
    emitted_token_ids: list[int] = field(default_factory=list)
    last_token_at: float | None = None  # None: still waits for its first token
    has_images_read: bool = False  # and their tokens counted
    deadline: asyncio.TimerHandle | None = None  # ends it

    def submission(self) -> Submit:
        """What an engine is told, so that it goes on behind what was emitted."""
        if not self.emitted_token_ids:
            return self.submit
        sampling = replace(self.submit.sampling, prompt_logprobs=False)  # they came with the first token
        emitted = list(self.emitted_token_ids)
        return msgspec.structs.replace(self.submit, emitted_token_ids=emitted, sampling=sampling)


class Journal:
    """The open requests by id."""

    def __init__(self) -> None:
        self._open: dict[int, Entry] = {}

    def entries(self, reader: Reader | None = None) -> list[Entry]:
        """Those of `reader`, or all."""
        return [entry for entry in self._open.values() if reader is None or entry.reader is reader]

    def find(self, request_id: int) -> Entry | None:
        return self._open.get(request_id)

    def accept(self, entry: Entry) -> None:
        self._open[entry.submit.request_id] = entry

    def record(self, event: TokenEvent) -> Entry | None:
        """Write down what a step did. None: that request has ended already, the event is void."""
        entry = self._open.get(event.request_id)
        if entry is None:
            return None
        entry.emitted_token_ids += event.token_ids
        if event.finish_reason is not None:
            del self._open[event.request_id]
        return entry

"""What was accepted and how far it got: enough to compute any open request again.

In memory. Every accepted request leaves it with exactly one terminal event.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from takeoff.ipc.messages import Submit
from takeoff.request import FinishReason, TokenEvent
from takeoff.service.generation import Generation


@dataclass(eq=False, slots=True)
class Entry:
    """One open request."""

    submit: Submit  # prompt token ids, parameters, seed
    generation: Generation
    arrived_at: float  # monotonic seconds
    emitted_token_ids: list[int] = field(default_factory=list)
    last_token_at: float | None = None  # None: still waits for its first token


class Journal:
    """The open requests by id; counts what came and how it ended."""

    def __init__(self) -> None:
        self._open: dict[int, Entry] = {}
        self.num_accepted = 0
        self.num_ended: Counter[FinishReason] = Counter()

    def __len__(self) -> int:
        return len(self._open)

    def open_ids(self) -> list[int]:
        return list(self._open)

    def accept(self, entry: Entry) -> None:
        self._open[entry.submit.request_id] = entry
        self.num_accepted += 1

    def record(self, event: TokenEvent) -> Entry | None:
        """Write down what a step did. None: that request has ended already, the event is void."""
        entry = self._open.get(event.request_id)
        if entry is None:
            return None
        entry.emitted_token_ids += event.token_ids
        if event.finish_reason is not None:
            del self._open[event.request_id]
            self.num_ended[event.finish_reason] += 1
        return entry

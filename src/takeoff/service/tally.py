"""How many requests were accepted and how they ended: the two must balance."""

from __future__ import annotations

import asyncio
from collections import Counter

from takeoff.observe.metrics import Metrics
from takeoff.request import FinishReason
from takeoff.service.admission import Admission, Party


class Tally:
    """Counts accepted requests until their one terminal event."""

    def __init__(self, admission: Admission, metrics: Metrics) -> None:
        self.num_accepted = 0
        self.num_ended: Counter[FinishReason] = Counter()
        self._admission = admission
        self._metrics = metrics
        self._none_open = asyncio.Event()
        self._none_open.set()

    @property
    def num_open(self) -> int:
        return self.num_accepted - self.num_ended.total()

    def accept(self) -> None:
        """One more; it was let in by `Admission.enter`."""
        self.num_accepted += 1
        self._none_open.clear()
        self._metrics.accepted.inc()
        self._metrics.open.inc()

    def end(self, reason: FinishReason, party: Party) -> None:
        """One less; its place is free."""
        self.num_ended[reason] += 1
        self._admission.leave(party)
        self._metrics.open.dec()
        self._metrics.ended.labels(reason.value).inc()
        if self.num_open == 0:
            self._none_open.set()

    async def wait_none_open(self) -> None:
        await self._none_open.wait()

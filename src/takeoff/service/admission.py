"""Who may come in: bounded in requests and in prompt tokens that wait for their first token.

A refusal says after how many seconds to come back, from the rate at which the queue drains.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from takeoff.errors import Overloaded

MIN_RETRY_S = 1.0
MAX_RETRY_S = 600.0
_MEMORY_S = 30.0  # seconds of work that a rate remembers


class DrainRate:
    """How fast a queue drains while there is something in it: amounts per second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._amount = 0.0
        self._seconds = 0.0

    def restart(self) -> None:
        """The queue was empty until now: idle time does not count."""
        self._since = self._clock()

    def add(self, amount: float) -> None:
        """`amount` left the queue now."""
        now = self._clock()
        self._amount += amount
        self._seconds += now - self._since
        self._since = now
        if self._seconds > _MEMORY_S:
            self._amount *= _MEMORY_S / self._seconds
            self._seconds = _MEMORY_S

    def seconds_for(self, amount: float) -> float:
        """Time until `amount` has left, kept within what is sensible to tell a client."""
        if self._amount <= 0:
            return MIN_RETRY_S
        return min(max(amount * self._seconds / self._amount, MIN_RETRY_S), MAX_RETRY_S)


class Admission:
    """Counts what is open and what waits. Every `enter` is paired with one `leave`."""

    def __init__(
        self, *, max_requests: int, max_queued_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_requests = max_requests
        self._max_queued_tokens = max_queued_tokens
        self._request_rate = DrainRate(clock)
        self._token_rate = DrainRate(clock)
        self.open_requests = 0
        self.queued_tokens = 0

    @property
    def retry_after_s(self) -> float:
        """Time until an open request has ended, by the rate at which they do."""
        return self._request_rate.seconds_for(1)

    def enter(self) -> None:
        """Count one more open request.

        Raises:
            Overloaded: there are too many already; nothing was counted.
        """
        if self.open_requests >= self._max_requests:
            raise Overloaded(
                f"{self.open_requests} requests are open, the limit is {self._max_requests}",
                retry_after_s=self.retry_after_s,
            )
        if self.open_requests == 0:
            self._request_rate.restart()
        self.open_requests += 1

    def leave(self) -> None:
        """An open request ended."""
        self.open_requests -= 1
        self._request_rate.add(1)

    def enqueue(self, num_tokens: int) -> None:
        """Count a prompt as waiting. An empty queue takes any one prompt.

        Raises:
            Overloaded: the queue has no room for it; nothing was counted.
        """
        total = self.queued_tokens + num_tokens
        if self.queued_tokens > 0 and total > self._max_queued_tokens:
            raise Overloaded(
                f"{self.queued_tokens} prompt tokens are waiting and {num_tokens} more would exceed the "
                f"limit of {self._max_queued_tokens}",
                retry_after_s=self._token_rate.seconds_for(total - self._max_queued_tokens),
            )
        if self.queued_tokens == 0:
            self._token_rate.restart()
        self.queued_tokens = total

    def dequeue(self, num_tokens: int, *, served: bool) -> None:
        """A prompt waits no longer: its first token came (`served`), or it ended without one."""
        self.queued_tokens -= num_tokens
        if served:
            self._token_rate.add(num_tokens)

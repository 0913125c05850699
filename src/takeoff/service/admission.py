"""Who may come in: bounded in requests, and in tokens of those that wait for their first token.

What is full for one key, or one group, still has room for the others. A refusal says after how many seconds
to come back, from the rate at which the queue drains.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple, Self

from takeoff.errors import Overloaded
from takeoff.request import EncodeRequest, Request
from takeoff.service.pace import Ratio

MIN_RETRY_S = 1.0
MAX_RETRY_S = 600.0
_MEMORY_S = 30.0  # seconds of work that a rate remembers
FIRST_GUESS = 256.0  # tokens of a completion, before one has ended
BELIEVED_TIMES = 4  # of the usual length, that a stated one counts for at most
_LEARNING_RATE = 0.05  # of each completion in what is usual


class DrainRate:
    """How fast a queue drains while there is something in it: amounts per second."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._seconds_each = Ratio(_MEMORY_S)

    def restart(self) -> None:
        """The queue was empty until now: idle time does not count."""
        self._since = self._clock()

    def add(self, amount: float) -> None:
        """`amount` left the queue now."""
        now = self._clock()
        self._seconds_each.add(now - self._since, amount)
        self._since = now

    @property
    def per_second(self) -> float:
        """0: nothing has left yet."""
        seconds = self._seconds_each.value
        return 1 / seconds if seconds else 0.0

    def seconds_for(self, amount: float) -> float:
        """Time until `amount` has left, kept within what is sensible to tell a client."""
        return sensible(amount * (self._seconds_each.value or 0.0))


def sensible(retry_after_s: float) -> float:
    """What a client may be told to wait."""
    return min(max(retry_after_s, MIN_RETRY_S), MAX_RETRY_S)


class Party(NamedTuple):
    """Whose room in the queue it is: a key's, at one group. A request's words, whatever reader serves it."""

    group: str
    tenant: str

    @classmethod
    def of(cls, request: Request | EncodeRequest) -> Self:
        return cls(request.group, request.tenant)


class Shared:
    """An amount of something that parties have some of, and the most that all may have.

    Where the rest is too little, who has less than an even part of the whole still gets up to that, and all
    together at most twice the whole: so nobody is kept out by what another has.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0
        self._of: Counter[Party] = Counter()

    def has_room(self, party: Party, amount: int) -> bool:
        """Whether `party` may have so much more. Any amount fits into what is empty."""
        total, own = self.total + amount, self._of[party] + amount
        if total <= self.most or not self.total:
            return True
        num_parties = len(self._of.keys() | {party})
        return total <= 2 * self.most and own * num_parties <= self.most

    def add(self, party: Party, amount: int) -> None:
        self.total += amount
        self._of[party] += amount

    def remove(self, party: Party, amount: int) -> None:
        self.total -= amount
        self._of[party] -= amount
        if not self._of[party]:
            del self._of[party]


class Admission:
    """Counts what is open and what waits. Every `enter` is paired with one `leave`."""

    def __init__(
        self, *, max_requests: int, max_queued_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._requests = Shared(max_requests)
        self._tokens = Shared(max_queued_tokens)
        self._request_rate = DrainRate(clock)
        self._token_rate = DrainRate(clock)
        self.usual_completion = FIRST_GUESS

    @property
    def open_requests(self) -> int:
        return self._requests.total

    @property
    def queued_tokens(self) -> int:
        return self._tokens.total

    @property
    def retry_after_s(self) -> float:
        """Time until an open request has ended, by the rate at which they do."""
        return self._request_rate.seconds_for(1)

    def enter(self, party: Party) -> None:
        """Count one more open request.

        Raises:
            Overloaded: there are too many already; nothing was counted.
        """
        if not self._requests.has_room(party, 1):
            raise Overloaded(
                f"{self.open_requests} requests are open, the limit is {self._requests.most}",
                retry_after_s=self.retry_after_s,
            )
        if self.open_requests == 0:
            self._request_rate.restart()
        self._requests.add(party, 1)

    def leave(self, party: Party) -> None:
        """An open request ended."""
        self._requests.remove(party, 1)
        self._request_rate.add(1)

    def tokens_of(self, num_prompt_tokens: int, wanted: int | None, room: int) -> int:
        """What a request counts for while it waits: its prompt, and the completion that it wants.

        Of one that states no length it is what completions have come to lately, within `room`. Many state
        as much as there may be, and end long before: more than some times the usual is not believed.
        """
        usual = self.usual_completion
        completion = usual if wanted is None else min(wanted, BELIEVED_TIMES * usual)
        return num_prompt_tokens + min(room, round(completion))

    def learn_completion(self, num_tokens: int) -> None:
        """A request ended by itself after so many tokens."""
        self.usual_completion += (num_tokens - self.usual_completion) * _LEARNING_RATE

    def enqueue(self, party: Party, num_tokens: int) -> None:
        """Count tokens as waiting. An empty queue takes any one request.

        Raises:
            Overloaded: the queue has no room for them; nothing was counted.
        """
        if not self._tokens.has_room(party, num_tokens):
            raise Overloaded(
                f"{self.queued_tokens} tokens of prompts and their completions are waiting and {num_tokens} "
                f"more would exceed the limit of {self._tokens.most}{self._told_rate()}",
                retry_after_s=self._token_rate.seconds_for(
                    self.queued_tokens + num_tokens - self._tokens.most
                ),
            )
        if self.queued_tokens == 0:
            self._token_rate.restart()
        self._tokens.add(party, num_tokens)

    def dequeue(self, party: Party, num_tokens: int, *, served: bool) -> None:
        """A request waits no longer: its first token came (`served`), or it ended without one."""
        self._tokens.remove(party, num_tokens)
        if served:
            self._token_rate.add(num_tokens)

    def _told_rate(self) -> str:
        per_second = self._token_rate.per_second
        return f"; {per_second:.0f} of them are begun in a second" if per_second else ""

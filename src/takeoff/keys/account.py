"""What a key has used, and what it may still use: requests and tokens a minute, texts in work at once.

A bucket of a minute's worth fills evenly and is emptied by what was used. Tokens are known only when they
are used, so a request is let in while there is one left, and what it takes beyond is owed: over time no key
gets more than its limit, and no prompt is too long for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NamedTuple, Protocol

from takeoff.errors import Cancelled, InvalidRequest, NotFound, RateLimited
from takeoff.keys.key import Key, Scope
from takeoff.request import DEFAULT_PRIORITY, FinishReason
from takeoff.service.admission import DrainRate

Clock = Callable[[], float]

HEARD_S = 5.0  # what another server has open counts for so long


class Spent(NamedTuple):
    """What a key has used at one server since it was asked last, and what it has open there now."""

    requests: int
    tokens: int
    num_open: int


class Bucket:
    """So many a minute; a minute's worth at once."""

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()
        self.per_minute = per_minute

    def limit(self, per_minute: int) -> None:
        """Change the limit; what was used stays used."""
        used = self.per_minute - self._filled()
        self.per_minute = per_minute
        self._level = per_minute - used

    def take(self, amount: int) -> None:
        self._level = self._filled() - amount

    @property
    def wait_s(self) -> float:
        """Time until there is one to take; 0: now."""
        return max(0.0, (1.0 - self._filled()) * 60.0 / self.per_minute)

    def _filled(self) -> float:
        now = self._clock()
        self._level = min(float(self.per_minute), self._level + (now - self._at) * self.per_minute / 60.0)
        self._at = now
        return self._level


class Counted(Protocol):
    """A generation, as far as it is counted and told of."""

    @property
    def reader_id(self) -> str: ...
    @property
    def replica_ids(self) -> Sequence[str]: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def began_at(self) -> float: ...
    @property
    def queue_s(self) -> float: ...
    @property
    def first_token_at(self) -> float | None: ...
    @property
    def ended_at(self) -> float | None: ...
    @property
    def finish_reason(self) -> object | None: ...
    def end(self, reason: FinishReason) -> None: ...


class Visit:
    """One request of a client's, from its header to the end of its answer."""

    def __init__(self, account: Account, request_id: str, timeout_s: float | None, clock: Clock) -> None:
        """`timeout_s`: from now to the end of its answer."""
        self.account = account
        self.request_id = request_id
        self._names = {request_id}
        self.rest: asyncio.Task[None] | None = None  # what goes on for it without a connection
        self._is_ended = False
        self._waits: set[asyncio.Timeout] = set()  # for work that has no generation yet
        self.timeout_s = timeout_s
        self._clock = clock
        self._began_at = clock()
        self.generations: list[Counted] = []
        self._num_started = 0  # of work that is not in the list, or not yet
        self.other_tokens = 0  # that were used by what is no generation
        self._reader_ids: dict[str, None] = {}  # in the order in which they came
        self._replica_ids: dict[str, None] = {}  # of what is no generation
        self._charged_tokens = 0
        self.num_texts = 0  # that were begun

    @contextmanager
    def work(self) -> Iterator[None]:
        """While a text is prepared or encoded it counts as open.

        Raises:
            RateLimited: too many of the key's are.
            InvalidRequest: this one alone has too many.
        """
        self.account.check_open(self)
        self._num_started += 1
        self.num_texts += 1
        try:
            yield
        finally:
            self._num_started -= 1

    @property
    def left_s(self) -> float | None:
        """Until its time is over; None: it has no limit."""
        if self.timeout_s is None:
            return None
        return max(0.0, self.timeout_s - (self._clock() - self._began_at))

    def add(self, generation: Counted) -> None:
        """It counts as open until it ends, and its tokens as used; it ends with the request."""
        self.generations.append(generation)
        self._reader_ids[generation.reader_id] = None
        if self._is_ended:
            generation.end(FinishReason.CANCELLED)

    def add_name(self, name: str) -> None:
        """The request may be called so as well."""
        self._names.add(name)

    def is_called(self, name: str) -> bool:
        return name in self._names

    @asynccontextmanager
    async def until_ended(self) -> AsyncIterator[None]:
        """Break off what is awaited inside when the request is ended.

        Raises:
            Cancelled: it was, meanwhile or before.
        """
        try:
            async with asyncio.timeout(0.0 if self._is_ended else None) as wait:
                self._waits.add(wait)
                try:
                    yield
                finally:
                    self._waits.discard(wait)
        except TimeoutError as exc:
            if not wait.expired():
                raise
            raise Cancelled("the request was ended before it had said anything") from exc

    def end(self) -> None:
        """End what of it is in work; its answer is told so."""
        if self._is_ended:
            return
        self._is_ended = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            wait.reschedule(now)
        for generation in self.generations:
            generation.end(FinishReason.CANCELLED)

    def add_tokens(self, num_tokens: int, reader_id: str, replica_id: str = "") -> None:
        """They were used by what is no generation. `replica_id`: of a reader that has several."""
        self.other_tokens += num_tokens
        self._reader_ids[reader_id] = None
        if replica_id:
            self._replica_ids[replica_id] = None

    @property
    def reader_ids(self) -> tuple[str, ...]:
        """Of those that worked for it."""
        return tuple(self._reader_ids)

    @property
    def replica_ids(self) -> tuple[str, ...]:
        """Of these readers, where they have several."""
        generated = (replica_id for each in self.generations for replica_id in each.replica_ids)
        return tuple(dict.fromkeys((*self._replica_ids, *generated)))

    @property
    def num_open(self) -> int:
        return self._num_started + sum(each.finish_reason is None for each in self.generations)

    def new_tokens(self) -> int:
        """Those used since it was asked last."""
        used = self.other_tokens
        used += sum(each.prompt_tokens + each.completion_tokens for each in self.generations)
        new, self._charged_tokens = used - self._charged_tokens, used
        return new


class Account:
    """A key and its visits."""

    def __init__(
        self, key: Key | None, clock: Clock = time.monotonic, *, name: str = "", is_stranger: bool = False
    ) -> None:
        """`key` None: of who may do everything without limits, or a stranger, who may do nothing.

        `name` is what the log calls the first, if he had to show something.
        """
        self._name = name
        self._clock = clock
        self._key = key
        self.is_stranger = is_stranger
        self._requests: Bucket | None = None
        self._tokens: Bucket | None = None
        self._ends = DrainRate(clock)
        self._new_requests = self._new_tokens = 0  # that other servers of the same keys were not told of
        self._elsewhere: dict[str, tuple[float, int]] = {}  # what each of those has open, and when it said so
        self._visits: set[Visit] = set()
        if key is not None:
            self.take_limits(key)

    @property
    def tenant(self) -> str:
        """Within which prefixes are reused; a key's stays when its secret changes."""
        return "" if self._key is None else f"key:{self._key.id}"

    @property
    def key_id(self) -> str | None:
        return None if self._key is None else self._key.id

    @property
    def name(self) -> str:
        return self._name if self._key is None else self._key.name

    @property
    def priority(self) -> int:
        """The weight of its share."""
        return DEFAULT_PRIORITY if self._key is None else self._key.priority

    @property
    def models(self) -> frozenset[str]:
        """Names that it may use; none: all."""
        return frozenset() if self._key is None else frozenset(self._key.models)

    def has(self, scope: Scope) -> bool:
        return not self.is_stranger and (self._key is None or scope in self._key.scopes)

    def take_limits(self, key: Key) -> None:
        """The key as it is in the file now."""
        self._key = key
        self._requests = self._bucket(self._requests, key.requests_per_minute)
        self._tokens = self._bucket(self._tokens, key.tokens_per_minute)

    @contextmanager
    def visit(
        self, request_id: str = "", timeout_s: float | None = None, *, is_counted: bool
    ) -> Iterator[Visit]:
        """A request of the key, which may take so long; one that is not counted has no limit.

        Raises:
            RateLimited: there are too many, or too many tokens were used.
        """
        if is_counted:
            self._admit()
        visit = Visit(self, request_id, timeout_s, self._clock)
        self._visits.add(visit)
        try:
            yield visit
        finally:
            self._visits.discard(visit)
            self._use(visit)
            if visit.num_texts:
                self._ends.add(visit.num_texts)

    def end(self, name: str) -> None:
        """End the requests in work that are called so.

        Raises:
            NotFound: there are none of this key's.
        """
        called = [visit for visit in self._visits if visit.is_called(name)]
        if not called:
            raise NotFound(f"no request {name[:128]!r} is in work", param="request_id")
        for visit in called:
            visit.end()

    @property
    def num_open(self) -> int:
        """Texts in work here."""
        return sum(each.num_open for each in self._visits)

    def spent(self) -> Spent:
        """For other servers of the same keys, so that limits hold over all of them."""
        for visit in self._visits:
            self._use(visit)
        spent = Spent(self._new_requests, self._new_tokens, self.num_open)
        self._new_requests = self._new_tokens = 0
        return spent

    def take_spent(self, server: str, spent: Spent) -> None:
        """Another server of the same keys has said this."""
        self._elsewhere[server] = self._clock(), spent.num_open
        if self._requests is not None:
            self._requests.take(spent.requests)
        if self._tokens is not None:
            self._tokens.take(spent.tokens)

    def _open_elsewhere(self) -> int:
        since = self._clock() - HEARD_S
        return sum(num_open for said_at, num_open in self._elsewhere.values() if said_at >= since)

    def check_open(self, visit: Visit) -> None:
        """Raises as `Visit.work`, if one more text would be too many."""
        limit = None if self._key is None else self._key.max_open
        if limit is None:
            return
        if visit.num_open >= limit:
            raise InvalidRequest(
                f"the request has more than {limit} texts or choices, and the key {self.name!r} may have "
                f"{limit} in work at once",
                hint="send them in several requests",
            )
        num_open = self.num_open + self._open_elsewhere()
        if num_open == 0:
            self._ends.restart()
        if num_open >= limit:
            raise RateLimited(
                f"{num_open} texts of the key {self.name!r} are in work, the limit is {limit}",
                retry_after_s=self._ends.seconds_for(1),
                of="requests",
            )

    def _admit(self) -> None:
        """Raises as `visit`."""
        if self._tokens is not None:
            for visit in self._visits:
                self._use(visit)
        for bucket, what in ((self._tokens, "tokens"), (self._requests, "requests")):
            if bucket is not None and bucket.wait_s > 0:
                raise RateLimited(
                    f"the key {self.name!r} has used its {bucket.per_minute} {what} a minute; "
                    f"there is more in {bucket.wait_s:.1f} s",
                    retry_after_s=bucket.wait_s,
                    of=what,
                )
        if self._requests is not None:
            self._requests.take(1)
        self._new_requests += 1

    def _use(self, visit: Visit) -> None:
        tokens = visit.new_tokens()
        if self._tokens is not None:
            self._tokens.take(tokens)
        self._new_tokens += tokens

    def _bucket(self, bucket: Bucket | None, per_minute: int | None) -> Bucket | None:
        if per_minute is None:
            return None
        if bucket is None:
            return Bucket(per_minute, self._clock)
        bucket.limit(per_minute)
        return bucket

"""How many threads compute while other programs want the cores, too.

The threads of a call wait for each other after each of its some hundred operations. If the system gives the
core of one of them to another program for a few milliseconds, the others wait so long, sleep, and lose their
own cores to somebody, too: a call takes tens of times as long. With a thread less than there are cores left,
or with one, which waits for nobody, it takes as long as its work does.

A call was crowded if its threads got less than half of the processor time that so many can have: threads that
only wait for a short while spin. Then fewer compute, and now and then one call tries more again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

CROWDED_BELOW = 0.5  # of the processor time of all threads
CROWDED_CALLS = 3  # in a row
LEAST_S = 0.004  # of a call that tells anything: in a short one much is done by one thread
TRIED_S = 0.1  # a longer call than this is not what more threads are tried with
PATIENCE_S, LONGEST_PATIENCE_S = 2.0, 60.0  # between two tries
MARGIN = 8.0  # that a call may take longer in which more threads are tried, before it counts as a hang

logger = logging.getLogger(__name__)


class Crowding:
    """Of one engine. One thread calls it."""

    def __init__(
        self,
        n_threads: int,
        *,
        is_watched: bool,
        clock: Callable[[], float] = time.perf_counter,
        processor_clock: Callable[[], float] = time.process_time,
    ) -> None:
        """`n_threads` is the most; they are what is asked for unless `is_watched`.

        `processor_clock` says seconds of all threads of this process.
        """
        steps = {n_threads, max(n_threads - 1, 1), max(n_threads // 2, 1), 1}
        self._steps = sorted(steps, reverse=True) if is_watched else [n_threads]
        self._at = 0  # of the steps
        self._clock = clock
        self._processor_clock = processor_clock
        self._num_crowded = 0
        self._is_trying = False
        self._patience_s = PATIENCE_S
        self._since = clock()
        self._is_told = False

    def expected_s(self, expected_s: float) -> float:
        """What a call should be thought to take that is about to be made; see `threads`."""
        return MARGIN * expected_s if self._is_trying or self._may_try(expected_s) else expected_s

    @contextmanager
    def threads(self, wanted: int, expected_s: float) -> Iterator[int]:
        """So many should compute the call that is made inside; `wanted` if nobody disturbs them."""
        if len(self._steps) == 1:
            yield wanted
            return
        if self._may_try(expected_s):
            self._at -= 1
            self._is_trying = True
        n_threads = min(wanted, self._steps[self._at])
        started, used = self._clock(), self._processor_clock()
        yield n_threads
        seconds, used_s = self._clock() - started, self._processor_clock() - used
        if n_threads > 1 and seconds >= LEAST_S:
            self._learn(used_s / (seconds * n_threads))
        elif self._is_trying:  # it was quick
            self._learn(1.0)

    def _may_try(self, expected_s: float) -> bool:
        if self._at == 0 or self._is_trying or expected_s > TRIED_S:
            return False
        return self._clock() - self._since >= self._patience_s

    def _learn(self, share: float) -> None:
        """The threads of a call got `share` of the time that they could have."""
        if share >= CROWDED_BELOW:
            self._num_crowded = 0
            if self._is_trying:
                self._is_trying = False
                self._patience_s = PATIENCE_S
                self._since = self._clock()
            return
        self._num_crowded += 1
        if self._is_trying or (self._num_crowded >= CROWDED_CALLS and self._at < len(self._steps) - 1):
            self._step_down()

    def _step_down(self) -> None:
        if self._is_trying:
            self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
        elif not self._is_told:  # it may come and go
            self._is_told = True
            told = "other programs hold the cores: fewer threads than %d compute, until they are free again"
            logger.info(told, self._steps[0])
        self._is_trying = False
        self._num_crowded = 0
        self._at += 1
        self._since = self._clock()

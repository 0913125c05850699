"""When running sequences are snapshotted, so that an engine's death costs little of their work.

A snapshot is of the whole sequence, so one every N tokens would cost a long one more than it may. Here the
time is fixed, 2 % of the steps', and N follows: whenever enough of it has been saved up, the sequence is
written that has most to lose for what writing it takes.
"""

from __future__ import annotations

from collections.abc import Callable

from takeoff.engine.prefix_sharing import PrefixSharing
from takeoff.engine.scheduler import Scheduler
from takeoff.engine.sequence import Sequence

SHARE = 0.02  # of the steps' time
MIN_LOST_TOKENS = 24  # fewer are computed again as fast as they are restored
LONGEST_S = 0.05  # that streams are held up, where their steps are shorter than that


class Checkpoints:
    """Takes what is saved up after each step. One thread calls it."""

    def __init__(
        self,
        scheduler: Scheduler,
        prefixes: PrefixSharing,
        *,
        longest_s: float,
        clock: Callable[[], float],
    ) -> None:
        """`longest_s`: one checkpoint never takes more, unless steps do; `clock` says seconds."""
        self._scheduler = scheduler
        self._prefixes = prefixes
        self._longest_s = longest_s
        self._clock = clock
        self._saved_up_s = 0.0
        self._token_s = 0.0  # that a token of a snapshot takes, by the last one

    def after_step(self, step_s: float) -> None:
        """Write at most one checkpoint; the step before it took `step_s`."""
        longest_s = max(self._longest_s, step_s)
        self._saved_up_s = min(self._saved_up_s + SHARE * step_s, longest_s)
        if self._saved_up_s <= 0.0:
            return
        seq = max(self._scheduler.running, key=_share_to_lose, default=None)
        if seq is None or seq.num_unsafe_tokens < MIN_LOST_TOKENS:
            return
        if self._token_s * seq.num_computed_tokens > self._saved_up_s:
            return
        started = self._clock()
        is_written = self._prefixes.checkpoint(seq)
        took_s = self._clock() - started
        self._saved_up_s -= took_s
        if is_written:
            self._token_s = took_s / seq.num_computed_tokens


def _share_to_lose(seq: Sequence) -> float:
    return seq.num_unsafe_tokens / max(seq.num_computed_tokens, MIN_LOST_TOKENS)

"""Sequences start from what others have computed: snapshots, running sequences, and leaders to wait for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Tokens
from concurrent.futures import Future
from typing import Any

import numpy as np

from takeoff.engine.counters import Counters
from takeoff.engine.disk_tier import DiskNews, DiskTier, FileHashes
from takeoff.engine.llama.rows import Kernels
from takeoff.engine.prefix_cache import MIN_SHARED_TOKENS, Entry, Match, PrefixCache, Scope, common_length
from takeoff.engine.scheduler import Scheduler
from takeoff.engine.sequence import Sequence
from takeoff.errors import EngineFailed
from takeoff.ipc.arena import Arena
from takeoff.ipc.messages import Load
from takeoff.observe.misses import MissReason, diverged_below

MIN_KEPT_TOKENS = 32  # shorter sequences are not worth a snapshot

logger = logging.getLogger(__name__)


class PrefixSharing:
    """Decides where a sequence's first tokens come from, and keeps what others may want.

    `prompts_only` (deterministic mode) shares only what was computed as a prompt: tokens that were
    decoded one by one differ in their last bits from the same tokens prefilled.
    """

    def __init__(
        self, scheduler: Scheduler, kernels: Kernels, arena: Arena, counters: Counters, *, prompts_only: bool
    ) -> None:
        self._scheduler = scheduler
        self._kernels = kernels
        self._cache = PrefixCache(arena, can_trim=kernels.can_trim)
        self._is_on = arena.size_bytes > 0
        self._counters = counters
        self._prompts_only = prompts_only
        self._disk: DiskTier | None = None

    def open_disk(
        self, load: Load, engine_build: str, hashes: Future[FileHashes], tell: Callable[[Any], None]
    ) -> None:
        """Keep snapshots on disk, too; documented at `DiskTier`."""
        self._disk = DiskTier(
            load,
            self._cache,
            self._counters,
            can_trim=self._kernels.can_trim,
            engine_build=engine_build,
            hashes=hashes,
            tell=tell,
        )
        self._disk.start()

    def fetch(self, scope: Scope, token_ids: Tokens[int], then: object) -> bool:
        """Read the beginning of a prompt from disk; `then` is told when that is done. False: in vain."""
        if self._disk is None:
            return False
        return self._disk.fetch(scope, np.array(token_ids[:-1], np.int32), then)

    def settle(self, news: DiskNews) -> None:
        """Take note of what the threads of the disk have done."""
        assert self._disk is not None, "nobody else has news"
        self._disk.settle(news)
        self._counters.set("cache_bytes", self._cache.used_bytes)

    def adopt(self, seq: Sequence) -> None:
        """Give `seq`, which runs and has computed nothing, the longest prefix there is.

        If a sequence ahead of it is about to compute more of it, `seq` waits for that one instead. One
        that wants the logits of its prompt computes all of it.
        """
        if not self._is_on or seq.params.prompt_logprobs or self._resume(seq):
            return
        wanted = np.array(seq.token_ids[: self._scheduler.reusable_tokens(seq)], np.int32)
        self._snapshot_running(seq, wanted)
        match = self._cache.find(seq.scope, wanted)
        num_available = match.length if match else 0
        if (found := self._scheduler.leader_for(seq, num_available)) is not None:
            seq.leader, seq.fork_at = found
            if not self._kernels.can_trim:
                seq.leader.fork_points.add(seq.fork_at)
            return
        if not self._kernels.can_trim:
            self._remember_divergence(seq, wanted, num_available)
        self._count_misses(seq, wanted, num_available)
        if match is not None:
            self._restore(seq, match)

    def keep_fork_point(self, seq: Sequence) -> None:
        """Snapshot `seq` where others will fork from it and couldn't trim it back."""
        if seq.num_computed_tokens in seq.fork_points:
            seq.fork_points.discard(seq.num_computed_tokens)
            self._keep(seq, is_awaited=True)

    def keep(self, seq: Sequence) -> None:
        """Snapshot a sequence that is about to leave its slot."""
        if seq.num_computed_tokens >= MIN_KEPT_TOKENS:
            self._keep(seq)
        if self._prompts_only and seq.num_safe_tokens > seq.num_prompt_tokens:
            self._drop_checkpoint(seq)

    def checkpoint(self, seq: Sequence) -> bool:
        """Snapshot a sequence that goes on, for the engine that takes over from this one; whether it was."""
        token_ids = seq.computed_token_ids()
        scope = self._decoded(seq) if len(token_ids) > seq.num_prompt_tokens else seq.scope
        if self._cache.covers(scope, token_ids):
            seq.num_safe_tokens = len(token_ids)
            return False
        return self._store(seq, scope, token_ids, "checkpoint") is not None

    def _decoded(self, seq: Sequence) -> Scope:
        """Within what its decoded tokens may be reused: like a prompt's, or only by a replay."""
        return seq.scope._replace(decoded_from=seq.num_prompt_tokens) if self._prompts_only else seq.scope

    def _resume(self, seq: Sequence) -> bool:
        """Go on where a checkpoint has what was decoded of `seq` before; its tokens count as said again."""
        if not (self._prompts_only and seq.to_say_again):
            return False
        wanted = np.array([*seq.token_ids, *seq.to_say_again[:0:-1]], np.int32)
        match = self._cache.find(self._decoded(seq), wanted)
        if match is None or match.length <= seq.num_prompt_tokens or not self._restore(seq, match):
            return False
        for _ in range(match.length + 1 - seq.num_prompt_tokens):
            seq.say_again()
        return True

    def _drop_checkpoint(self, seq: Sequence) -> None:
        """Of a sequence that has ended: nobody will replay it."""
        match = self._cache.find(self._decoded(seq), seq.computed_token_ids())
        if match is not None:
            self._cache.discard(match.entry)
            self._counters.set("cache_bytes", self._cache.used_bytes)

    def _snapshot_running(self, seq: Sequence, wanted: np.ndarray[tuple[int], np.dtype[np.int32]]) -> None:
        """If a running sequence holds more of `wanted` than any snapshot does, snapshot it now."""
        if not self._kernels.can_trim:
            return
        match = self._cache.find(seq.scope, wanted)
        most, source = (match.length if match else 0) + MIN_SHARED_TOKENS - 1, None
        for other in self._scheduler.running:
            if other is seq or other.scope != seq.scope or other.num_computed_tokens <= most:
                continue
            length = common_length(other.computed_token_ids(self._shareable(other)), wanted)
            if length > most:
                most, source = length, other
        if source is not None:
            self._keep(source, is_awaited=True)

    def _remember_divergence(
        self, seq: Sequence, wanted: np.ndarray[tuple[int], np.dtype[np.int32]], num_available: int
    ) -> None:
        """Where `seq` leaves what was seen before, a third prompt may leave too: snapshot it there."""
        length = self._cache.longest_common(seq.scope, wanted)
        if length >= num_available + MIN_SHARED_TOKENS:
            seq.fork_points.add(length)

    def _count_misses(
        self, seq: Sequence, wanted: np.ndarray[tuple[int], np.dtype[np.int32]], found: int
    ) -> None:
        """Count the lookup, the tokens that were missed by their reasons, and it for its main reason."""
        self._counters.add("cache_lookups")
        common = self._cache.longest_common(seq.scope, wanted)
        misses = self._cache.memory.explain(seq.scope, seq.lora, wanted, found=found, common=common)
        for miss in misses:
            self._counters.add(f"cache_missed_{miss.reason}_tokens", miss.num_tokens)
        if misses:
            main = max(misses, key=lambda miss: miss.num_tokens)
            self._counters.add(f"cache_missed_{main.reason}")
            if main.reason is MissReason.DIVERGED:
                self._counters.add(f"cache_diverged_{diverged_below(main.start)}")

    def _restore(self, seq: Sequence, match: Match) -> bool:
        """Whether the slot of `seq` now holds what was found."""
        assert seq.slot is not None
        try:
            with self._counters.timed("restore", tokens=match.length):
                self._kernels.restore(seq.slot, match.entry.region.data)
                if self._kernels.can_trim:
                    self._kernels.trim(seq.slot, match.length)
        except EngineFailed as exc:
            logger.warning("a prefix is computed again: %s", exc)
            self._kernels.clear(seq.slot)
            self._cache.discard(match.entry)
            return False
        seq.num_computed_tokens = seq.num_cached_tokens = seq.num_safe_tokens = match.length
        self._cache.use(match)
        self._counters.add("cache_hits")
        return True

    def _keep(self, seq: Sequence, *, is_awaited: bool = False) -> None:
        token_ids = seq.computed_token_ids(self._shareable(seq))
        if not self._is_on or self._cache.covers(seq.scope, token_ids):
            return
        if len(token_ids) < seq.num_computed_tokens and not self._kernels.can_trim:
            return
        entry = self._store(seq, seq.scope, token_ids, "save", is_awaited=is_awaited)
        if entry is not None and self._disk is not None:
            self._disk.offer(entry)

    def _store(
        self,
        seq: Sequence,
        scope: Scope,
        token_ids: np.ndarray[tuple[int], np.dtype[np.int32]],
        kind: str,
        *,
        is_awaited: bool = False,
    ) -> Entry | None:
        """Write a snapshot of its slot, to reuse the tokens `token_ids` [n] from; None: no room."""
        assert seq.slot is not None
        num_bytes = self._kernels.snapshot_bytes(seq.slot)
        entry = self._cache.reserve(scope, token_ids, num_bytes, is_awaited=is_awaited)
        if entry is not None:
            with self._counters.timed(kind, tokens=len(token_ids)):
                self._kernels.save(seq.slot, entry.region.data)
            self._cache.seal(entry, seq.num_computed_tokens)
            seq.num_safe_tokens = len(token_ids)
        self._counters.set("cache_bytes", self._cache.used_bytes)
        self._counters.set("cache_evictions", self._cache.num_evicted)
        return entry

    def _shareable(self, seq: Sequence) -> int:
        """How many of its first tokens others may reuse."""
        return seq.num_prompt_tokens if self._prompts_only else len(seq.token_ids)

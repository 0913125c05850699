"""What the server measures of itself, for Prometheus. A registry of its own, no globals."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from takeoff.ipc.messages import Heartbeat
from takeoff.request import FinishReason

# From a lone GPU stream to a laptop with a full queue.
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
ITL_BUCKETS_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
STEP_KINDS = ("decode", "prefill", "sample", "save", "restore", "move")


class Metrics:
    """Counters, gauges and histograms of one server."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.accepted = Counter("takeoff_requests_accepted", "Requests accepted", registry=registry)
        self.ended = Counter(
            "takeoff_requests_ended", "Accepted requests by how they ended", ["reason"], registry=registry
        )
        self.refused = Counter(
            "takeoff_requests_refused", "Requests refused, by error code", ["code"], registry=registry
        )
        self.open = Gauge("takeoff_requests_open", "Accepted requests that have not ended", registry=registry)
        self.running = Gauge("takeoff_requests_running", "Requests that hold a slot", registry=registry)
        self.waiting = Gauge("takeoff_requests_waiting", "Requests that wait for a slot", registry=registry)
        self.queued_tokens = Gauge(
            "takeoff_queued_tokens", "Prompt tokens that wait for their first token", registry=registry
        )
        self.prompt_tokens = Counter(
            "takeoff_prompt_tokens", "Prompt tokens of accepted requests", registry=registry
        )
        self.completion_tokens = Counter(
            "takeoff_completion_tokens", "Tokens that were generated", registry=registry
        )
        self.cached_tokens = Counter(
            "takeoff_cached_tokens",
            "Prompt tokens not computed, thanks to the prefix cache",
            registry=registry,
        )
        self.prepare_s = _seconds(registry, "prepare", "From arrival to token ids", TTFT_BUCKETS_S)
        self.queue_s = _seconds(registry, "queue", "From the engine's queue to a slot", TTFT_BUCKETS_S)
        self.ttft_s = _seconds(registry, "ttft", "From arrival to the first token", TTFT_BUCKETS_S)
        self.itl_s = _seconds(registry, "itl", "Between two tokens of one request", ITL_BUCKETS_S)
        self.engine_restarts = Counter(
            "takeoff_engine_restarts", "Engine processes that died", registry=registry
        )
        self.preparer_restarts = Counter(
            "takeoff_preparer_restarts", "Preparer processes that were late or died", registry=registry
        )
        self._engine = _EngineCounters(registry)
        for reason in FinishReason:  # so that a rate starts from zero, not from nothing
            self.ended.labels(reason.value)

    def observe_heartbeat(self, beat: Heartbeat) -> None:
        """Take over what the engine counts."""
        self.running.set(beat.running)
        self.waiting.set(beat.waiting)
        self._engine.take(beat.counters)

    def engine_died(self) -> None:
        """The next engine counts from zero."""
        self.engine_restarts.inc()
        self.running.set(0)
        self.waiting.set(0)
        self._engine.restart()

    def render(self) -> bytes:
        """The page that Prometheus reads; of `content_type`."""
        return generate_latest(self.registry)


class _EngineCounters:
    """Sums that an engine keeps since its start, made into counters that never go back."""

    def __init__(self, registry: CollectorRegistry) -> None:
        steps = ["kind"]
        self._calls = Counter("takeoff_step_calls", "Calls of a step, by kind", steps, registry=registry)
        self._seconds = Counter("takeoff_step_seconds", "Time in these calls", steps, registry=registry)
        self._tokens = Counter("takeoff_step_tokens", "Tokens in these calls", steps, registry=registry)
        self._lookups = Counter(
            "takeoff_prefix_cache_lookups", "Prompts looked up in the prefix cache", registry=registry
        )
        self._hits = Counter("takeoff_prefix_cache_hits", "Prompts with a cached prefix", registry=registry)
        self._bytes = Gauge("takeoff_prefix_cache_bytes", "Memory of cached prefixes", registry=registry)
        self._last: dict[str, float] = {}

    def take(self, sums: Mapping[str, float]) -> None:
        for kind in STEP_KINDS:
            self._calls.labels(kind).inc(self._growth(sums, f"{kind}_calls"))
            self._seconds.labels(kind).inc(self._growth(sums, f"{kind}_seconds"))
            self._tokens.labels(kind).inc(self._growth(sums, f"{kind}_tokens"))
        self._lookups.inc(self._growth(sums, "cache_lookups"))
        self._hits.inc(self._growth(sums, "cache_hits"))
        self._bytes.set(sums.get("cache_bytes", 0.0))
        self._last = dict(sums)

    def restart(self) -> None:
        self._last = {}

    def _growth(self, sums: Mapping[str, float], name: str) -> float:
        return max(sums.get(name, 0.0) - self._last.get(name, 0.0), 0.0)


def _seconds(
    registry: CollectorRegistry, name: str, documentation: str, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(
        f"takeoff_{name}_seconds", f"{documentation}, in seconds", buckets=buckets, registry=registry
    )

"""What the server measures of itself, for Prometheus. A registry of its own, no globals."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from takeoff.ipc.messages import Heartbeat
from takeoff.observe.dashboards import TTFT_BUCKETS_S, Dashboards
from takeoff.observe.misses import DIVERGED_BELOW, MissReason
from takeoff.request import FinishReason

ITL_BUCKETS_S = (0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)
STEP_KINDS = (
    "decode",
    "verify",
    "prefill",
    "sample",
    "save",
    "checkpoint",
    "restore",
    "move",
    "park",
    "unpark",
    "encode",
)

_DISK_COUNTERS = {
    "reads": "Prefixes read from disk",
    "read_seconds": "Time in these reads",
    "writes": "Prefixes written to disk",
    "written_bytes": "Bytes of these writes",
    "damaged": "Prefixes on disk that were not what was written, and were deleted",
}


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
            "takeoff_queued_tokens",
            "Of requests that wait for their first token, prompts and the completions that they want",
            registry=registry,
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
        self.replayed = Counter(
            "takeoff_requests_replayed", "Requests that were given to another engine", registry=registry
        )
        self.preparer_restarts = Counter(
            "takeoff_preparer_restarts", "Preparer processes that were late or died", registry=registry
        )
        self._cache_bytes = Gauge(
            "takeoff_prefix_cache_bytes", "Memory of cached prefixes", registry=registry
        )
        self._disk_bytes = Gauge(
            "takeoff_prefix_disk_bytes", "Disk space of cached prefixes", registry=registry
        )
        self._gpu_layers = Gauge(
            "takeoff_gpu_layers", "Layers of models that are on a GPU", registry=registry
        )
        self._engines = _EngineCounters(registry)
        self._dashboards = Dashboards(registry)
        self._loads = Counter(
            "takeoff_reader_loads",
            "Engines that have loaded a model, by reader",
            ["reader"],
            registry=registry,
        )
        self._unloads = Counter(
            "takeoff_reader_unloads", "Readers that were unloaded or ended", ["reader"], registry=registry
        )
        self._planned_bytes = Gauge(
            "takeoff_reader_planned_bytes",
            "Memory that the plan of a reader counts with, of those that are loaded",
            ["reader"],
            registry=registry,
        )
        self.limit_bytes = Gauge(
            "takeoff_memory_limit_bytes", "Memory that all readers may plan with", registry=registry
        )
        self._replicas = _Replicas(registry)
        self._beats: dict[Hashable, Heartbeat] = {}  # the last of each reader's engine
        for reason in FinishReason:  # so that a rate starts from zero, not from nothing
            self.ended.labels(reason.value)

    def observe_http(self, method: str, path: str, status: int, seconds: float) -> None:
        """A door has answered a request of the route `path`."""
        self._dashboards.request(method, path, status, seconds)

    def observe_batch(self, group: str, num_texts: int) -> None:
        """A request of so many texts was accepted for `group`."""
        self._dashboards.batch(group, num_texts)

    def observe_tokens(self, path: str, num_tokens: int) -> None:
        """So many tokens were generated for a request of the route `path`."""
        self._dashboards.tokens(path, num_tokens)

    def observe_first_token(self, group: str, seconds: float) -> None:
        """A completion for `group` has begun, so long after its request arrived."""
        self.ttft_s.observe(seconds)
        self._dashboards.first_token(group, seconds)

    def observe_completion(self, group: str, num_tokens: int) -> None:
        """A completion for `group` has ended."""
        self._dashboards.completion(group, num_tokens)

    def observe_heartbeat(self, reader: Hashable, beat: Heartbeat) -> None:
        """Take over what the engine of `reader` counts: itself, because its id may become another's."""
        self._beats[reader] = beat
        self._engines.take(reader, beat.counters)
        self._sum_up()

    def engine_died(self, reader: Hashable) -> None:
        """The reader's next engine counts from zero."""
        self.engine_restarts.inc()
        self._engine_ended(reader)

    def reader_loaded(self, reader_id: str) -> None:
        """An engine of it is up."""
        self._loads.labels(reader_id).inc()

    def reader_unloaded(self, reader: Hashable, reader_id: str) -> None:
        """It has no process any more."""
        self._unloads.labels(reader_id).inc()
        self._engine_ended(reader)

    def note_memory(self, planned_bytes: Mapping[str, int]) -> None:
        """What the plans of the readers that hold memory count with."""
        self._planned_bytes.clear()
        for reader_id, num_bytes in planned_bytes.items():
            self._planned_bytes.labels(reader_id).set(num_bytes)

    def note_replicas(self, reader_id: str, beats: Mapping[str, Heartbeat]) -> None:
        """The replicas that serve a reader now, and what the engine of each has said last."""
        self._replicas.take(reader_id, beats)

    def _engine_ended(self, reader: Hashable) -> None:
        self._beats.pop(reader, None)
        self._engines.restart(reader)
        self._sum_up()

    def _sum_up(self) -> None:
        beats = self._beats.values()
        self.running.set(sum(beat.running for beat in beats))
        self.waiting.set(sum(beat.waiting for beat in beats))
        self._cache_bytes.set(sum(beat.counters.get("cache_bytes", 0.0) for beat in beats))
        self._disk_bytes.set(sum(beat.counters.get("disk_bytes", 0.0) for beat in beats))
        self._gpu_layers.set(sum(beat.counters.get("gpu_layers", 0.0) for beat in beats))

    def render(self) -> bytes:
        """The page that Prometheus reads; of `content_type`."""
        return generate_latest(self.registry)


class _Replicas:
    """What each replica of a reader does, by its id; none without a cluster."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["reader", "replica"]
        self._running = Gauge(
            "takeoff_replica_requests_running",
            "Requests that hold a slot of a replica",
            labels,
            registry=registry,
        )
        self._waiting = Gauge(
            "takeoff_replica_requests_waiting",
            "Requests that wait for a slot of a replica",
            labels,
            registry=registry,
        )
        self._decoded = Gauge(
            "takeoff_replica_decoded_tokens",
            "Tokens that the engine of a replica has decoded since its start",
            labels,
            registry=registry,
        )
        self._prefilled = Gauge(
            "takeoff_replica_prefilled_tokens",
            "Tokens of prompts that the engine of a replica has computed since its start",
            labels,
            registry=registry,
        )
        self._known: dict[str, set[str]] = {}  # by reader

    def take(self, reader_id: str, beats: Mapping[str, Heartbeat]) -> None:
        families = (self._running, self._waiting, self._decoded, self._prefilled)
        for gone in self._known.get(reader_id, set()) - beats.keys():
            for family in families:
                family.remove(reader_id, gone)
        self._known[reader_id] = set(beats)
        for name, beat in beats.items():
            decoded = beat.counters.get("sample_tokens", 0.0)
            values = (beat.running, beat.waiting, decoded, beat.counters.get("prefill_tokens", 0.0))
            for family, value in zip(families, values, strict=True):
                family.labels(reader_id, name).set(value)


class _EngineCounters:
    """Sums that engines keep since their start, made into counters that never go back."""

    def __init__(self, registry: CollectorRegistry) -> None:
        steps = ["kind"]
        self._calls = Counter("takeoff_step_calls", "Calls of a step, by kind", steps, registry=registry)
        self._seconds = Counter("takeoff_step_seconds", "Time in these calls", steps, registry=registry)
        self._tokens = Counter("takeoff_step_tokens", "Tokens in these calls", steps, registry=registry)
        self._lookups = Counter(
            "takeoff_prefix_cache_lookups", "Prompts looked up in the prefix cache", registry=registry
        )
        self._hits = Counter("takeoff_prefix_cache_hits", "Prompts with a cached prefix", registry=registry)
        self._evictions = Counter(
            "takeoff_prefix_cache_evictions", "Prefixes that made room for others", registry=registry
        )
        self._misses = Counter(
            "takeoff_prefix_cache_misses",
            "Prompts not found as a whole, by the reason for most of their tokens",
            ["reason"],
            registry=registry,
        )
        self._missed_tokens = Counter(
            "takeoff_prefix_cache_missed_tokens", "Tokens not found, by reason", ["reason"], registry=registry
        )
        self._diverged = Counter(
            "takeoff_prefix_cache_diverged",
            "Prompts missed as diverged, by the place where they part from all others: its upper bound",
            ["below"],
            registry=registry,
        )
        self._disk = {
            name: Counter(f"takeoff_prefix_disk_{name}", text, registry=registry)
            for name, text in _DISK_COUNTERS.items()
        }
        for missed in MissReason:
            self._misses.labels(missed.value)
            self._missed_tokens.labels(missed.value)
        self._drafted = Counter(
            "takeoff_drafted_tokens", "Tokens computed ahead because they might come", registry=registry
        )
        self._accepted = Counter(
            "takeoff_accepted_draft_tokens", "Of those, tokens that came", registry=registry
        )
        self._last: dict[Hashable, Mapping[str, float]] = {}  # by reader

    def take(self, reader: Hashable, sums: Mapping[str, float]) -> None:
        before = self._last.get(reader, {})

        def growth(name: str) -> float:
            return max(sums.get(name, 0.0) - before.get(name, 0.0), 0.0)

        for kind in STEP_KINDS:
            self._calls.labels(kind).inc(growth(f"{kind}_calls"))
            self._seconds.labels(kind).inc(growth(f"{kind}_seconds"))
            self._tokens.labels(kind).inc(growth(f"{kind}_tokens"))
        self._lookups.inc(growth("cache_lookups"))
        self._hits.inc(growth("cache_hits"))
        self._evictions.inc(growth("cache_evictions"))
        for name, counter in self._disk.items():
            counter.inc(growth(f"disk_{name}"))
        for reason in MissReason:
            self._misses.labels(reason.value).inc(growth(f"cache_missed_{reason}"))
            self._missed_tokens.labels(reason.value).inc(growth(f"cache_missed_{reason}_tokens"))
        for bound in (*map(str, DIVERGED_BELOW), "inf"):
            self._diverged.labels(bound).inc(growth(f"cache_diverged_{bound}"))
        self._drafted.inc(growth("drafted_tokens"))
        self._accepted.inc(growth("accepted_draft_tokens"))
        self._last[reader] = dict(sums)

    def restart(self, reader: Hashable) -> None:
        self._last.pop(reader, None)


def _seconds(
    registry: CollectorRegistry, name: str, documentation: str, buckets: tuple[float, ...]
) -> Histogram:
    return Histogram(
        f"takeoff_{name}_seconds", f"{documentation}, in seconds", buckets=buckets, registry=registry
    )

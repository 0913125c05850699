"""The names that Titan Takeoff's dashboards ask for, each with the meaning it has here.

Left out is what this server has no truth for: states of a refill-and-drain loop, preemption, and the
quantiles of summaries.
"""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, Summary
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

HTTP_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300)
# From a lone GPU stream to a laptop with a full queue.
TTFT_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Dashboards:
    """Requests at the doors, and generations by consumer group."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["method", "path", "status"]
        self._requests = Counter("http_requests", "Requests answered", labels, registry=registry)
        self._seconds = Histogram(
            "http_requests_duration_seconds",
            "From a request's header to the end of its answer",
            labels,
            buckets=HTTP_BUCKETS_S,
            registry=registry,
        )
        group = ["consumer_group"]
        self._batch = Summary("user_batch_size", "Texts of one request", group, registry=registry)
        self._ttft = Histogram(
            "time_to_first_token",
            "From arrival to the first token, in seconds",
            group,
            buckets=TTFT_BUCKETS_S,
            registry=registry,
        )
        self._lengths = Summary(
            "generate_sequence_lengths", "Tokens of one completion", group, registry=registry
        )
        self._tokens = _TokensByPath(registry)

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """A request was answered; `path` is its route's."""
        labels = (method, path, str(status))
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)

    def batch(self, group: str, num_texts: int) -> None:
        """A request of so many texts was accepted."""
        self._batch.labels(group).observe(num_texts)

    def tokens(self, path: str, num_tokens: int) -> None:
        """So many tokens were generated for requests of a route."""
        self._tokens.sums[path] += num_tokens

    def first_token(self, group: str, seconds: float) -> None:
        """A completion has begun."""
        self._ttft.labels(group).observe(seconds)

    def completion(self, group: str, num_tokens: int) -> None:
        """A completion has ended."""
        self._lengths.labels(group).observe(num_tokens)


class _TokensByPath(Collector):
    """`generate_tokens`: the client library's counters would add `_total` to the name."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.sums: Sums[str] = Sums()
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        metric = Metric("generate_tokens", "Tokens generated, by route", "unknown")
        for path, num_tokens in self.sums.items():
            metric.add_sample("generate_tokens", {"path": path}, num_tokens)
        yield metric

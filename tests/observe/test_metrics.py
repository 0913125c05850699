from __future__ import annotations

from takeoff.ipc.messages import Heartbeat
from takeoff.observe.metrics import Metrics


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def beat(**counters: float) -> Heartbeat:
    return Heartbeat(0, 0.0, 3, 2, counters)


def test_two_servers_do_not_share_a_registry() -> None:
    one, other = Metrics(), Metrics()
    one.accepted.inc()
    assert value(one, "takeoff_requests_accepted_total") == 1.0
    assert value(other, "takeoff_requests_accepted_total") == 0.0


def test_every_end_is_shown_from_the_start() -> None:
    page = Metrics().render().decode()
    for reason in ("stop", "length", "cancelled", "deadline", "failed"):
        assert f'takeoff_requests_ended_total{{reason="{reason}"}} 0.0' in page


def test_the_engines_sums_go_on_growing_over_a_restart() -> None:
    metrics = Metrics()
    metrics.observe_heartbeat("r1", beat(decode_calls=10, decode_seconds=0.5, cache_hits=4, cache_bytes=99))
    metrics.observe_heartbeat("r1", beat(decode_calls=15, decode_seconds=0.75, cache_hits=4, cache_bytes=50))
    assert value(metrics, "takeoff_step_calls_total", kind="decode") == 15.0
    assert (value(metrics, "takeoff_requests_running"), value(metrics, "takeoff_requests_waiting")) == (3, 2)
    metrics.engine_died("r1")
    assert value(metrics, "takeoff_requests_running") == 0.0
    metrics.observe_heartbeat("r1", beat(decode_calls=2, decode_seconds=0.25))
    assert value(metrics, "takeoff_step_calls_total", kind="decode") == 17.0
    assert value(metrics, "takeoff_step_seconds_total", kind="decode") == 1.0
    assert value(metrics, "takeoff_prefix_cache_hits_total") == 4.0
    assert value(metrics, "takeoff_prefix_cache_bytes") == 0.0
    assert value(metrics, "takeoff_engine_restarts_total") == 1.0

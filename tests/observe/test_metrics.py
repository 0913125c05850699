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


def test_what_an_engine_counts_stays_its_own_when_two_readers_exchange_their_ids() -> None:
    metrics, old, new = Metrics(), object(), object()
    metrics.observe_heartbeat(old, beat(decode_calls=100))
    metrics.observe_heartbeat(new, beat(decode_calls=3))
    metrics.reader_unloaded(old, "chat-2")
    metrics.observe_heartbeat(new, beat(decode_calls=5))
    assert value(metrics, "takeoff_step_calls_total", kind="decode") == 105.0
    assert value(metrics, "takeoff_requests_running") == 3.0
    assert value(metrics, "takeoff_reader_unloads_total", reader="chat-2") == 1.0


def test_the_memory_of_readers_is_of_those_that_have_some_now() -> None:
    metrics = Metrics()
    metrics.note_memory({"one": 60, "two": 40})
    metrics.note_memory({"two": 40})
    assert value(metrics, "takeoff_reader_planned_bytes", reader="one") is None
    assert value(metrics, "takeoff_reader_planned_bytes", reader="two") == 40.0


def test_layers_on_a_gpu_are_those_of_all_engines_that_live() -> None:
    metrics = Metrics()
    metrics.observe_heartbeat("r1", beat(gpu_layers=31))
    metrics.observe_heartbeat("r2", beat(gpu_layers=10))
    assert value(metrics, "takeoff_gpu_layers") == 41.0
    metrics.engine_died("r1")
    assert value(metrics, "takeoff_gpu_layers") == 10.0


def test_drafts_are_counted_and_their_calls_timed() -> None:
    metrics = Metrics()
    counters = {"verify_calls": 3, "verify_seconds": 0.25, "verify_tokens": 48}
    metrics.observe_heartbeat("r1", beat(**counters, drafted_tokens=45, accepted_draft_tokens=40))
    names = ("calls", "seconds", "tokens")
    assert [value(metrics, f"takeoff_step_{name}_total", kind="verify") for name in names] == [3, 0.25, 48]
    assert value(metrics, "takeoff_drafted_tokens_total") == 45.0
    assert value(metrics, "takeoff_accepted_draft_tokens_total") == 40.0


def test_the_batches_of_encoders_are_counted_and_timed_as_steps_are() -> None:
    metrics = Metrics()
    metrics.observe_heartbeat("r1", beat(encode_calls=4, encode_seconds=0.5, encode_tokens=900))
    names = ("calls", "seconds", "tokens")
    assert [value(metrics, f"takeoff_step_{name}_total", kind="encode") for name in names] == [4, 0.5, 900]


def test_the_dashboards_names_say_what_happened_by_group_and_route() -> None:
    metrics = Metrics()
    metrics.observe_http("POST", "/tokenize/:reader_id", 200, 0.25)
    metrics.observe_http("POST", "/tokenize/:reader_id", 200, 0.5)
    labels = {"method": "POST", "path": "/tokenize/:reader_id", "status": "200"}
    assert value(metrics, "http_requests_total", **labels) == 2.0
    assert value(metrics, "http_requests_duration_seconds_sum", **labels) == 0.75
    assert value(metrics, "http_requests_duration_seconds_bucket", **labels, le="0.1") == 0.0
    metrics.observe_batch("g", 3)
    metrics.observe_batch("g", 1)
    assert value(metrics, "user_batch_size_sum", consumer_group="g") == 4.0
    assert value(metrics, "user_batch_size_count", consumer_group="g") == 2.0
    metrics.observe_completion("g", 7)
    assert value(metrics, "generate_sequence_lengths_sum", consumer_group="g") == 7.0
    assert value(metrics, "generate_sequence_lengths_count", consumer_group="g") == 1.0


def test_a_first_token_is_seen_by_group_and_in_all() -> None:
    metrics = Metrics()
    metrics.observe_first_token("g", 0.25)
    metrics.observe_first_token("other", 0.5)
    assert value(metrics, "time_to_first_token_sum", consumer_group="g") == 0.25
    assert value(metrics, "time_to_first_token_count", consumer_group="other") == 1.0
    assert value(metrics, "takeoff_ttft_seconds_sum") == 0.75


def test_generated_tokens_have_the_very_name_that_the_dashboards_ask_for() -> None:
    metrics = Metrics()
    metrics.observe_tokens("/generate", 5)
    metrics.observe_tokens("/generate", 2)
    page = metrics.render().decode()
    assert 'generate_tokens{path="/generate"} 7.0' in page
    assert "# TYPE generate_tokens untyped" in page

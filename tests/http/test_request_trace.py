"""The trace of a request: its line in the log as attributes, its texts as stages; no word of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.http.door import FakeService, ask, broken_script, make_door

from takeoff.observe.lines import Logs
from takeoff.observe.traces import Stage

PROMPT = "tell nobody of the whale"
PARENT = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


class Traced(list[tuple[Stage, Mapping[str, str]]]):
    """What was told."""

    @property
    def logs(self) -> Logs:
        return Logs(requests=None, audit=None, traces=lambda *told: self.append(told))

    @property
    def only(self) -> Stage:
        ((stage, _),) = self
        return stage


def test_a_completion_is_a_request_a_text_and_its_stages() -> None:
    traced = Traced()
    fields: dict[str, Any] = {"prompt": PROMPT}
    ask(make_door(logs=traced.logs), "POST", "/v1/completions", fields, [PARENT, (b"x-request-id", b"mine")])
    ((request, headers),) = traced
    assert headers["traceparent"] == PARENT[1].decode()
    assert request.name == "POST /v1/completions"
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "client.address": "127.0.0.1",
        "server.port": 8000,
        "takeoff.request_id": "mine",
        "takeoff.state": "stop",
        "takeoff.reader": "smollm2",
        "gen_ai.usage.input_tokens": len(PROMPT),
        "gen_ai.usage.output_tokens": 3,
    }
    assert request.facts.items() >= expected.items()
    assert request.ended_at - request.began_at == request_seconds(request)
    assert not request.has_failed
    (text,) = request.parts
    assert text.name == "generate"
    assert text.facts["gen_ai.response.finish_reasons"] == ["stop"]
    assert text.facts["gen_ai.usage.output_tokens"] == 3
    assert [part.name for part in text.parts] == ["queue", "prefill", "decode"]
    queue, prefill, decode = text.parts
    moments = [queue.began_at, queue.ended_at, prefill.ended_at, decode.ended_at]
    assert moments == sorted(moments)
    assert (prefill.began_at, decode.began_at) == (queue.ended_at, prefill.ended_at)
    assert request.began_at <= queue.began_at
    assert decode.ended_at <= request.ended_at
    assert "whale" not in repr(traced)


def request_seconds(request: Stage) -> float:
    seconds = request.facts["takeoff.total_s"]
    assert isinstance(seconds, float)
    length = request.ended_at - request.began_at
    assert abs(length - seconds) < 0.01
    return length


def test_prompts_are_in_no_trace_even_where_the_log_has_them() -> None:
    traced = Traced()
    app = make_door(log_prompts=True, logs=traced.logs)
    ask(app, "POST", "/v1/completions", {"prompt": PROMPT})
    assert ask(app, "POST", "/v1/completions", {"prompt": "a", "whale": 1}).status == 400
    assert len(traced) == 2
    assert "whale" not in repr(traced)


def test_what_failed_is_marked_and_what_was_refused_is_told() -> None:
    traced = Traced()
    service = FakeService(lambda request: ("x",) if request.prompt == "a" else broken_script())
    ask(make_door(service, "takeoff", logs=traced.logs), "POST", "/generate_stream", {"text": ["a", "bc"]})
    assert traced.only.has_failed
    assert [part.has_failed for part in traced.only.parts] == [False, True]
    traced.clear()
    ask(make_door(logs=traced.logs), "POST", "/v1/completions", {"prompt": PROMPT, "max_tokens": -1})
    assert traced.only.facts["error.type"] == "invalid_body"
    assert traced.only.facts["http.response.status_code"] == 400
    assert not traced.only.has_failed
    assert traced.only.parts == []


def test_probes_have_no_trace() -> None:
    traced = Traced()
    ask(make_door(logs=traced.logs), "GET", "/livez")
    assert traced == []

"""Stages become spans that hang together, at the times that they had, at a collector that is really asked."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from tests.observe.collector import collecting

from takeoff.errors import SettingsError
from takeoff.observe import traces
from takeoff.observe.traces import Stage, opened_traces

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def request(**more: object) -> Stage:
    now = time.monotonic()
    part = Stage(name="part", began_at=now - 2.0, ended_at=now - 1.5, facts={"names": ["a", "b"]})
    facts = {"text": "x", "whole": 3, "half": 0.5}
    return Stage(name="GET /", began_at=now - 3.0, ended_at=now - 1.0, facts=facts, parts=[part], **more)


def test_a_request_and_its_parts_are_spans_of_one_trace_at_their_times() -> None:
    with collecting() as collected, opened_traces(collected.url) as tell:
        assert tell is not None
        now_ns = time.time_ns()
        tell(request(), {})
        tell(request(has_failed=True), {})
    with_part = [span for span in collected.spans if span.name == "GET /"]
    assert [span.has_failed for span in with_part] == [False, True]
    assert with_part[0].trace_id != with_part[1].trace_id
    whole = with_part[0]
    assert whole.parent_id == ""
    assert whole.kind == 2, "a server's"
    assert whole.facts == {"text": "x", "whole": 3, "half": 0.5}
    assert whole.seconds == pytest.approx(2.0)
    assert (now_ns - whole.ended_ns) / 1e9 == pytest.approx(1.0, abs=0.5)
    (part,) = collected.parts(whole).values()
    assert (part.trace_id, part.name) == (whole.trace_id, "part")
    assert part.facts == {"names": ["a", "b"]}
    assert part.seconds == pytest.approx(0.5)
    assert (part.began_ns - whole.began_ns) / 1e9 == pytest.approx(1.0)
    assert collected.resource["service.name"] == "takeoff"
    assert collected.resource["service.version"]


@pytest.mark.parametrize(
    ("header", "is_taken"),
    [(f"00-{TRACE}-{PARENT}-01", True), (f"00-{TRACE}-{PARENT}", False), ("x" * 100_000, False)],
)
def test_it_is_a_part_of_the_trace_that_its_header_names(header: str, is_taken: bool) -> None:
    with collecting() as collected, opened_traces(collected.url) as tell:
        assert tell is not None
        tell(request(), {"traceparent": header})
    whole = next(span for span in collected.spans if span.name == "GET /")
    assert ((whole.trace_id, whole.parent_id) == (TRACE, PARENT)) is is_taken


def test_who_asks_for_no_trace_has_none() -> None:
    """The last number of the header says that whoever asks keeps none."""
    with collecting() as collected, opened_traces(collected.url) as tell:
        assert tell is not None
        tell(request(), {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert collected.spans == []


def test_a_collector_that_is_not_there_holds_up_nobody() -> None:
    started = time.monotonic()
    with opened_traces("http://127.0.0.1:9") as tell:
        assert tell is not None
        for _ in range(5_000):
            tell(request(), {})
        told = time.monotonic()
    assert told - started < 3.0
    assert time.monotonic() - told < 5.0


def test_variables_of_opentelemetry_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-team=blue")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    with collecting() as collected, opened_traces(collected.url) as tell:
        assert tell is not None
        tell(request(), {})
    assert collected.spans
    assert collected.headers[0]["x-team"] == "blue"
    assert collected.resource["service.name"] == "ours"


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "find_spec", lambda name: None)
    with pytest.raises(SettingsError) as refused, opened_traces("http://127.0.0.1:9"):
        pass
    assert "takeoff-server[traces]" in (refused.value.hint or "")
    assert refused.value.param == "traces_url"


def test_nobody_who_wants_no_traces_imports_what_makes_them() -> None:
    code = (
        "import sys; from takeoff.observe.traces import opened_traces\n"
        "with opened_traces(None) as tell: assert tell is None\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

"""What the doors count: requests by route and status, texts by group, tokens by route."""

from __future__ import annotations

import asyncio

import pytest
from tests.http.door import Connection, FakeService, ask, broken_script, make_door, make_scope

from takeoff.errors import Overloaded


def counted(service: FakeService, method: str, path: str, status: int) -> float | None:
    labels = {"method": method, "path": path, "status": str(status)}
    registry = service.metrics.registry
    count = registry.get_sample_value("http_requests_total", labels)
    assert registry.get_sample_value("http_requests_duration_seconds_count", labels) == count
    return count


def test_a_request_is_counted_under_its_routes_template() -> None:
    service = FakeService()
    app = make_door(service, "takeoff")
    for reader_id in ("smollm2", "smollm2", "nobody"):
        ask(app, "POST", f"/tokenize/{reader_id}", {"text": "a"})
    assert counted(service, "POST", "/tokenize/:reader_id", 200) == 2.0
    assert counted(service, "POST", "/tokenize/:reader_id", 400) == 1.0
    ask(app, "GET", "/web/style.css")
    assert counted(service, "GET", "/web/:name", 200) == 1.0
    ask(make_door(service), "POST", "/v1/completions", {"prompt": "a"})
    assert counted(service, "POST", "/v1/completions", 200) == 1.0


def test_what_strangers_make_up_becomes_no_series_of_its_own() -> None:
    service = FakeService()
    app = make_door(service, api_key="s3cret")
    ask(app, "POST", "/generate", {"text": "a"})
    assert counted(service, "POST", "other", 401) == 1.0
    for path in ("/a", "/b", "/c"):
        ask(app, "BREW", path, headers=[(b"x-api-key", b"s3cret")])
    assert counted(service, "other", "other", 404) == 3.0
    assert b"/a" not in service.metrics.render()
    assert b"BREW" not in service.metrics.render()


def test_bugs_refusals_and_departures_are_counted_by_their_status() -> None:
    service = FakeService()
    app = make_door(service)
    service.refusal = RuntimeError("a bug")
    assert ask(app, "POST", "/generate", {"text": "a"}).status == 500
    assert counted(service, "POST", "/generate", 500) == 1.0
    service.refusal = Overloaded("full", retry_after_s=1)
    ask(app, "POST", "/generate", {"text": "a"})
    assert counted(service, "POST", "/generate", 429) == 1.0

    async def leave() -> None:
        service.preparing = asyncio.Event()
        service.is_asked.clear()
        connection = Connection([b'{"text": "a"}'], spec_version="2.3")
        task = asyncio.create_task(connection.run(app, make_scope("POST", "/generate")))
        await service.is_asked.wait()
        connection.has_left.set()
        await task

    asyncio.run(leave())
    assert counted(service, "POST", "/generate", 499) == 1.0


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_texts_and_tokens_are_counted(path: str) -> None:
    service = FakeService(("a", "b", "c"))
    app = make_door(service, "takeoff")
    ask(app, "POST", path, {"text": "x"})
    ask(app, "POST", path, {"text": ["x", "y"]})
    ask(app, "POST", path, {"text": ["x", "y"], "consumer_group": "no such group"})
    value = service.metrics.registry.get_sample_value
    assert value("generate_tokens", {"path": path}) == 9.0
    assert value("user_batch_size_count", {"consumer_group": "primary"}) == 2.0
    assert value("user_batch_size_sum", {"consumer_group": "primary"}) == 3.0
    assert b"no such group" not in service.metrics.render()


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_tokens_of_what_failed_were_generated_too(path: str) -> None:
    service = FakeService(broken_script())
    ask(make_door(service), "POST", path, {"text": "x"})
    assert service.metrics.registry.get_sample_value("generate_tokens", {"path": path}) == 2.0


def test_no_texts_are_no_batch() -> None:
    service = FakeService()
    assert ask(make_door(service), "POST", "/generate", {"text": []}).status == 200
    assert b"user_batch_size_count" not in service.metrics.render()

"""The management door, and what the doors tell of the readers' state."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.http.door import PORTS, Connection, FakeReader, FakeService, ask, make_door, make_scope

from takeoff.errors import InvalidRequest, NoRoom, NotReady
from takeoff.settings import ReaderSettings


def reader(reader_id: str, state: str = "live", group: str = "primary", **more: Any) -> FakeReader:
    settings = ReaderSettings(model="gemma", consumer_group=group, device="cpu", max_slots=8)
    return FakeReader(reader_id, settings, state, **more)


def mixed_service() -> FakeService:
    service = FakeService()
    service.fleet = [
        reader("one"),
        reader("two", "draining"),
        reader("three", "loading", "embed", progress=0.25, task="embed"),
        reader("four", "failed", "g4", error="there is no file x.gguf"),
        reader("five", "stopped"),
    ]
    return service


def test_one_that_is_loaded_on_demand_is_among_the_live_because_it_answers() -> None:
    service = FakeService()
    service.fleet = [reader("one", "unloaded"), reader("two", "unloading")]
    status = ask(make_door(service, "takeoff"), "GET", "/status").json
    assert {name: each["state"] for name, each in status["live_readers"].items()} == {
        "one": "unloaded",
        "two": "unloading",
    }
    groups = ask(make_door(service, "management"), "GET", "/reader_groups").json
    assert [each["reader_id"] for each in groups["primary"]] == ["one", "two"]
    (model, _) = ask(make_door(service, "openai"), "GET", "/v1/models").json["data"]
    assert (model["id"], model["state"]) == ("gemma", "unloaded")


ONE = {
    "reader_id": "one",
    "state": "live",
    "model_name": "gemma",
    "model_type": "generate",
    "quantization": "Q8_0",
    "device": "cpu",
    "consumer_group": "primary",
    "consumer_groups": ["primary"],
    "consumer_name": "one",
    "max_batch_size": 8,
    "loras": None,
    "pids": [11, 12],
    "on_demand": False,
    "planned_bytes": 500_000_000,
}


def test_the_takeoff_door_tells_its_readers_by_state() -> None:
    status = ask(make_door(mixed_service(), "takeoff"), "GET", "/status").json
    assert list(status["live_readers"]) == ["one", "two"]
    assert status["live_readers"]["one"] == ONE
    assert status["live_readers"]["two"]["state"] == "draining"
    assert status["loading_readers"].keys() == {"three"}
    assert status["loading_readers"]["three"]["progress"] == 0.25
    assert status["loading_readers"]["three"]["model_type"] == "embed"
    assert list(status["dead_readers"]) == ["four", "five"]
    assert status["dead_readers"]["four"]["error"] == "there is no file x.gguf"
    assert status["ports"] == [8000, 3000, 3001, 3003]


def test_the_status_is_a_200_with_live_readers_before_anything_is_loaded() -> None:
    service = FakeService()
    service.is_ready = False
    service.fleet = []
    answer = ask(make_door(service, "takeoff"), "GET", "/status")
    assert answer.status == 200
    assert answer.json["live_readers"] == answer.json["loading_readers"] == answer.json["dead_readers"] == {}


def test_adapters_are_told_by_their_names() -> None:
    service = FakeService()
    service.fleet = [FakeReader("one", ReaderSettings(loras={"a": "/x/a.gguf", "b": "/x/b.gguf"}))]
    status = ask(make_door(service, "takeoff"), "GET", "/status")
    assert status.json["live_readers"]["one"]["loras"] == "a,b"
    assert b"gguf" not in status.body


def test_the_management_status_has_config_readers_and_heartbeat() -> None:
    service = mixed_service()
    app = make_door(service, "management", api_key="s3cret", max_user_batch_size=77, reserved_consumers="a,b")
    answer = ask(app, "GET", "/status", headers=[(b"x-api-key", b"s3cret")])
    config, status = answer.json["config"], answer.json["status"]
    assert (config["port"], config["management_port"], config["openai_port"]) == (3000, 3001, 3003)
    assert config["front_port"] == PORTS["port"]
    assert config["body_size_limit_bytes"] == 2_097_152
    assert (config["max_user_batch_size"], config["max_prompt_string_bytes"]) == (77, 150_000)
    assert config["reserved_consumers"] == "a,b"
    assert (config["echo"], config["enable_metrics"], config["allow_remote_images"]) == (False, True, False)
    assert status["live_readers"]["one"] == ONE
    assert status["last_heartbeat"] is None
    assert b"s3cret" not in answer.body
    service.last_heartbeat_at = 1_700_000_000.5
    beaten = ask(app, "GET", "/status", headers=[(b"x-api-key", b"s3cret")]).json
    assert beaten["status"]["last_heartbeat"] == {"heartbeat_timestamp": 1_700_000_000.5}


def test_groups_list_the_readers_that_serve_them_or_will() -> None:
    groups = ask(make_door(mixed_service(), "management"), "GET", "/reader_groups").json
    listed = {group: [each["reader_id"] for each in readers] for group, readers in groups.items()}
    assert listed == {"primary": ["one", "two"], "embed": ["three"]}
    assert groups["primary"][0] == ONE


def test_a_reader_is_added_at_once_with_its_id_and_config() -> None:
    service = FakeService()
    app = make_door(service, "management")
    body = {"model_name": "gemma", "device": "cpu", "consumer_group": "", "max_batch_size": 3, "backend": "x"}
    answer = ask(app, "POST", "/reader", body)
    assert answer.status == 201
    told = answer.json
    assert told["reader_id"] == "gemma-2"
    assert (told["state"], told["model_name"], told["device"]) == ("loading", "gemma", "cpu")
    assert (told["consumer_group"], told["max_batch_size"]) == ("primary", 3)
    added = service.fleet[-1].settings
    assert (added.model, added.max_slots, added.consumer_group) == ("gemma", 3, "primary")
    assert ask(app, "GET", "/reader_groups").json["primary"][1]["reader_id"] == "gemma-2"


def test_a_readers_secret_is_not_told() -> None:
    body = {"model_name": "gemma", "access_token": "hf_s3cret"}
    answer = ask(make_door(door="management"), "POST", "/reader", body)
    assert answer.status == 201
    assert b"s3cret" not in answer.body


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b"{}", "model_name"),
        (b'{"model_name": ""}', "model_name"),
        (b'{"model_name": "a", "max_batch_size": 0}', "max_batch_size"),
        (b'{"model_name": "a", "max_batch_size": "8"}', "max_batch_size"),
        (b'{"model_name": "a", "device": "api"}', "device"),
        (b'{"model_name": "a", "tensor_parallel": 3}', "tensor_parallel"),
    ],
)
def test_a_wrong_reader_is_a_422_that_names_the_key(body: bytes, words: str) -> None:
    service = FakeService()
    answer = ask(make_door(service, "management"), "POST", "/reader", body)
    assert answer.status == 422
    assert words in answer.detail
    assert len(service.fleet) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidRequest("/etc is in no configured folder"), 400),
        (NoRoom("x needs 600 MB, and there are 500 MB"), 409),
        (NotReady("the server is stopping"), 503),
    ],
)
def test_a_reader_that_the_service_refuses_is_told(error: Any, status: int) -> None:
    service = FakeService()
    service.refusal = error
    for method, path in (("POST", "/reader"), ("PUT", "/reader/smollm2")):
        answer = ask(make_door(service, "management"), method, path, {"model_name": "/etc/x.gguf"})
        assert (answer.status, answer.detail) == (status, error.message)


def test_a_reader_is_replaced_under_its_id_and_in_its_group() -> None:
    service = FakeService()
    service.fleet = [reader("one", group="chat")]
    app = make_door(service, "management")
    body = {"model_name": "other", "consumer_group": "", "max_batch_size": 3}
    answer = ask(app, "PUT", "/reader/one", body)
    assert answer.status == 200
    told = answer.json
    assert (told["reader_id"], told["state"], told["model_name"]) == ("one", "live", "other")
    assert (told["consumer_group"], told["max_batch_size"]) == ("chat", 3)
    assert ask(app, "PUT", "/reader/one", {"model_name": "other"}).json["consumer_group"] == "chat"
    named = ask(app, "PUT", "/reader/one", {"model_name": "other", "consumer_group": "g2"})
    assert named.json["consumer_group"] == "g2", "the service refuses it, not the door"


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/reader/nobody", {"model_name": "other"}, 404, "there is no reader 'nobody'"),
        ("/reader/smollm2", {}, 422, "model_name"),
        (
            "/reader/smollm2",
            {"model_name": "other", "keep_alive_s": 5.0},
            422,
            "keep_alive_s needs on_demand",
        ),
    ],
)
def test_a_wrong_replacement_is_refused_by_name(
    path: str, body: dict[str, Any], status: int, words: str
) -> None:
    service = FakeService()
    answer = ask(make_door(service, "management"), "PUT", path, body)
    assert answer.status == status
    assert words in answer.detail
    assert service.fleet[0].settings.model == "smollm2"


def test_a_removal_is_answered_when_the_reader_has_drained() -> None:
    async def run() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        connection = Connection([b""], spec_version="2.3")
        app = make_door(service, "management")
        removing = asyncio.create_task(connection.run(app, make_scope("DELETE", "/reader/smollm2")))
        while service.fleet[0].state != "draining":  # noqa: ASYNC110  (a few turns of the loop)
            await asyncio.sleep(0)
        assert connection.answer.status == 0
        service.gate.set()
        answer = await removing
        assert (answer.status, answer.body, service.fleet) == (204, b"", [])

    asyncio.run(run())


def test_a_models_config_is_told_and_of_strangers_there_is_none() -> None:
    app = make_door(door="management")
    assert ask(app, "GET", "/config/smollm2").json == {"model_type": "llama", "name": "smollm2"}
    for method, path in (("GET", "/config/nobody"), ("DELETE", "/reader/nobody")):
        answer = ask(app, method, path)
        assert (answer.status, answer.detail) == (404, "there is no reader 'nobody'")


@pytest.mark.parametrize("door", ["front", "takeoff", "management", "openai"])
def test_every_door_tells_whether_anything_is_served(door: str) -> None:
    service = FakeService()
    app = make_door(service, door)
    assert ask(app, "GET", "/healthz").status == 200
    service.is_ready, service.status = False, "loading"
    answer = ask(app, "GET", "/healthz")
    assert (answer.status, answer.json) == (503, {"status": "loading"})
    assert service.calls == []


@pytest.mark.parametrize("door", ["front", "takeoff", "management", "openai"])
def test_life_readiness_and_start_are_told_apart(door: str) -> None:
    service = FakeService()
    app = make_door(service, door)

    def told() -> list[int]:
        return [ask(app, "GET", path).status for path in ("/livez", "/readyz", "/startupz")]

    service.is_ready, service.has_started, service.status = False, False, "loading"
    assert told() == [200, 503, 503]
    service.is_ready, service.has_started, service.status = True, True, "live"
    assert told() == [200, 200, 200]
    service.is_ready, service.status = False, "loading"
    reader = service.fleet[0]
    reader.state, reader.error = "loading", "the engine died"
    assert told() == [200, 503, 200], "an engine was lost: another is coming"
    answer = ask(app, "GET", "/readyz").json
    assert answer["status"] == "loading"
    assert answer["readers"][0]["reader_id"] == reader.reader_id
    assert answer["readers"][0]["error"] == "the engine died"


def test_health_waits_for_a_state_of_all_readers_when_told() -> None:
    service = FakeService()
    app = make_door(service, "openai")
    service.states = {"draining": True}
    assert ask(app, "GET", "/healthz?state=draining").status == 200
    assert ask(app, "GET", "/healthz?state=live&wait=2.5").status == 503
    assert service.calls == [("wait_state", "draining", 0.0), ("wait_state", "live", 2.5)]
    service.calls.clear()
    assert ask(app, "GET", "/healthz?wait=9").status == 200
    assert service.calls == [], "something is served: there is nothing to wait for"
    service.is_ready = False
    assert ask(app, "GET", "/healthz?wait=9").status == 503
    assert service.calls == [("wait_state", "live", 9.0)]


@pytest.mark.parametrize("query", ["state=asleep", "wait=-1", "wait=x", "wait=601", "wait=nan"])
def test_a_wrong_question_about_health_is_a_422(query: str) -> None:
    answer = ask(make_door(), "GET", f"/healthz?{query}")
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["query", query.partition("=")[0]]


def test_metrics_can_be_switched_off() -> None:
    for door in ("front", "management"):
        assert ask(make_door(door=door), "GET", "/metrics").status == 200
        assert ask(make_door(door=door, enable_metrics=False), "GET", "/metrics").status == 404
    assert ask(make_door(door="takeoff"), "GET", "/metrics").status == 404

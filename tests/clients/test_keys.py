"""Clients that know nothing of keys: what their users write to reach a server that asks for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.clients.doors import Doors, chat_reader, serving_manifest, write_manifest
from tests.clients.environments import Environment, Raised

KEY = "correct-horse"


@pytest.fixture(scope="module")
def locked_doors(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """The doors of a server that asks for a key."""
    readers = {"chat": chat_reader(smollm2_path, max_batch_size=1)}
    manifest = write_manifest(tmp_path_factory.mktemp("manifest"), readers)
    with serving_manifest(manifest, "--api-key", KEY) as (server, doors):
        server.wait_ready()
        yield doors


@pytest.mark.parametrize("version", ["0_0_4", "0_6_0", "0_7_0"])
def test_a_key_in_the_address_opens_every_door_that_a_client_knocks_at(
    environment: Callable[[str], Environment], locked_doors: Doors, version: str
) -> None:
    call = environment(f"takeoff_client_{version}").call
    target = "takeoff_client.TakeoffClient"
    with_key = locked_doors.client_settings() | {"base_url": f"http://takeoff:{KEY}@127.0.0.1"}
    answer = call(target, "Say yes.", settings=with_key, method="generate", kwargs={"max_new_tokens": 4})
    assert answer["text"]
    assert call(target, settings=with_key, method="get_readers")["primary"][0]["reader_id"] == "chat"
    with pytest.raises(Raised, match="API key"):
        call(target, "Say yes.", settings=locked_doors.client_settings(), method="generate")


def test_the_key_of_anthropics_package_is_taken(
    environment: Callable[[str], Environment], locked_doors: Doors
) -> None:
    call = environment("anthropic_2_14_0").call
    body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "Say yes."}]}
    settings = {"base_url": f"http://127.0.0.1:{locked_doors.front}", "api_key": KEY}
    assert call("anthropic_calls.create", settings, body)["content"]
    with pytest.raises(Raised, match="authentication_error") as caught:
        call("anthropic_calls.create", settings | {"api_key": "wrong"}, body)
    assert (caught.value.type, caught.value.status_code) == ("AuthenticationError", 401)


def test_the_key_of_openais_package_is_taken(
    environment: Callable[[str], Environment], locked_doors: Doors
) -> None:
    call = environment("openai_3_57_0").call
    body = {"model": "chat", "max_tokens": 4, "messages": [{"role": "user", "content": "Say yes."}]}
    asked = ("chat.completions.create", body)
    for port in (locked_doors.front, locked_doors.openai):
        settings = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": KEY}
        assert call("openai_calls.ask", settings, *asked)["choices"][0]["message"]["content"]
        refused = call("openai_calls.refusal", settings | {"api_key": "wrong"}, *asked)
        assert (refused["class"], refused["status_code"]) == ("AuthenticationError", 401)

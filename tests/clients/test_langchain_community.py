"""langchain-community's TitanTakeoff, TitanTakeoffPro and TitanTakeoffEmbed against the real server."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment, Raised

HI = "hi"
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
FRENCH = "Say hello in French."
CLASSES = ["TitanTakeoff", "TitanTakeoffPro"]
Call = Callable[..., Any]


@pytest.fixture(params=["0_6_0", "0_7_0"])
def call(request: pytest.FixtureRequest, environment: Callable[[str], Environment]) -> Call:
    """Calls into langchain-community over takeoff-client of this version."""
    return environment(f"langchain_community_client_{request.param}").call


@pytest.fixture(params=CLASSES)
def llm(request: pytest.FixtureRequest, call: Call, doors: Doors) -> Call:
    """Calls a method of TitanTakeoff or TitanTakeoffPro."""

    def method(name: str, *args: object, made: dict[str, Any] | None = None, **kwargs: object) -> Any:
        settings = doors.client_settings(**(made or {}))
        target = f"langchain_community.llms.{request.param}"
        return call(target, *args, settings=settings, method=name, kwargs=kwargs)

    return method


@pytest.fixture
def embed(call: Call, doors: Doors) -> Call:
    """Calls a method of TitanTakeoffEmbed. It has no argument for the port of the OpenAI door."""

    def method(name: str, *args: object) -> Any:
        return call(
            "langchain_community.embeddings.TitanTakeoffEmbed",
            *args,
            settings=doors.client_settings(),
            attributes={"client.oai_url": f"{HOST}:{doors.openai}"},
            method=name,
            kwargs={"consumer_group": "embed"},
        )

    return method


def test_invoke_is_the_text_of_generate(llm: Call, doors: Doors) -> None:
    answer = requests.post(f"{HOST}:{doors.takeoff}/generate", json={"text": HI}, timeout=LIMIT_S)
    assert answer.json()["text"] == HELLO
    assert llm("invoke", HI) == answer.json()["text"]


def test_a_stream_joins_to_what_invoke_says(llm: Call) -> None:
    whole = llm("invoke", HI, max_new_tokens=20)
    assert "".join(llm("stream", HI, max_new_tokens=20)) == whole
    assert "".join(llm("astream", HI, max_new_tokens=20)) == whole
    assert llm("invoke", HI, made={"streaming": True}) == llm("invoke", HI)


def test_a_batch_is_answered_in_order(llm: Call) -> None:
    alone = [llm("invoke", prompt, max_new_tokens=12) for prompt in (HI, FRENCH)]
    assert llm("batch", [HI, FRENCH], max_new_tokens=12) == alone
    assert llm("ainvoke", FRENCH, max_new_tokens=12) == alone[1]


def test_its_stop_words_cut_the_text(llm: Call) -> None:
    assert llm("invoke", HI, stop=[" can"]) == "Hello there! How"


def test_an_error_reaches_its_user_with_the_servers_words(llm: Call) -> None:
    with pytest.raises(Raised, match="nowhere") as caught:
        llm("invoke", HI, consumer_group="nowhere")
    assert caught.value.type == "TakeoffException"


def test_its_models_become_readers_of_their_group(llm: Call, doors: Doors) -> None:
    wanted = {"model_name": "smollm2", "device": "cpu", "consumer_group": "chain"}
    management = f"{HOST}:{doors.management}"
    assert llm("get_name", made={"models": [wanted]})
    groups = requests.get(f"{management}/reader_groups", timeout=LIMIT_S).json()
    (reader_id,) = [reader["reader_id"] for reader in groups["chain"]]
    wait_live(management, reader_id)
    assert llm("invoke", HI, consumer_group="chain") == llm("invoke", HI)
    requests.delete(f"{management}/reader/{reader_id}", timeout=LIMIT_S).raise_for_status()


def wait_live(management: str, reader_id: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        status = requests.get(f"{management}/status", timeout=LIMIT_S).json()["status"]
        if reader_id in status["live_readers"]:
            return
        assert reader_id not in status["dead_readers"], status
        assert time.monotonic() < deadline, status
        time.sleep(0.05)


def test_its_embeddings_are_flat_for_a_query_and_nested_for_documents(embed: Call, doors: Doors) -> None:
    texts = ["A cat sits on the mat.", "Interest rates rose in May."]
    body = {"text": texts, "consumer_group": "embed"}
    vectors = requests.post(f"{HOST}:{doors.takeoff}/embed", json=body, timeout=LIMIT_S).json()["result"]
    assert [len(vector) for vector in vectors] == [384, 384]
    documents = embed("embed_documents", texts)
    for document, vector in zip(documents, vectors, strict=True):
        assert document == pytest.approx(vector, abs=1e-5)
    assert embed("embed_query", texts[0]) == pytest.approx(vectors[0], abs=1e-5)

"""langchain 0.0.335: its TitanTakeoff speaks to the front door, its TitanTakeoffPro to the Takeoff API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment, Raised

HI = "hi"
HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to that
THREE = "List three colours, each on a line of its own."
Call = Callable[..., Any]


@pytest.fixture
def call(environment: Callable[[str], Environment]) -> Call:
    return environment("langchain_0_0_335").call


@pytest.fixture
def first(call: Call, doors: Doors) -> Call:
    """Calls a method of TitanTakeoff."""

    def method(name: str, *args: object, **settings: object) -> Any:
        made = {"base_url": f"{HOST}:{doors.front}", **settings}
        return call("langchain.llms.TitanTakeoff", *args, settings=made, method=name)

    return method


@pytest.fixture
def pro(call: Call, doors: Doors) -> Call:
    """Calls a method of TitanTakeoffPro."""

    def method(name: str, *args: object, **settings: object) -> Any:
        made = {"base_url": f"{HOST}:{doors.takeoff}", **settings}
        return call("langchain.llms.TitanTakeoffPro", *args, settings=made, method=name)

    return method


def test_the_first_generation_invokes_and_streams_the_same_text(first: Call, doors: Doors) -> None:
    body = {"text": THREE, "generate_max_length": 24}
    answer = requests.post(f"{HOST}:{doors.front}/generate", json=body, timeout=LIMIT_S)
    whole = answer.json()["message"]
    assert "\n" in whole
    assert first("invoke", THREE, generate_max_length=24) == whole
    assert "".join(first("stream", THREE, generate_max_length=24)) == whole
    assert first("invoke", THREE, generate_max_length=24, streaming=True) == whole


def test_the_first_generations_parameters_are_kept(first: Call) -> None:
    longer = first("invoke", THREE, generate_max_length=30)
    shorter = first("invoke", THREE, generate_max_length=5)
    assert len(shorter) < len(longer)
    assert longer.startswith(shorter)
    bound = first("invoke", THREE, generate_max_length=30, repetition_penalty=2.0)
    assert bound != longer


def test_the_first_generation_is_told_of_an_error(first: Call) -> None:
    with pytest.raises(Raised, match="422") as caught:
        first("invoke", HI, generate_max_length=0)
    assert caught.value.type == "HTTPError"


def test_pro_invokes_with_only_what_is_set(pro: Call, doors: Doors) -> None:
    answer = requests.post(f"{HOST}:{doors.takeoff}/generate", json={"text": HI}, timeout=LIMIT_S)
    assert answer.json()["text"] == HELLO
    assert pro("invoke", HI) == answer.json()["text"]
    digits = pro("invoke", "A number?", regex_string="[0-9]{5}")
    assert len(digits) == 5
    assert digits.isdigit()


def test_pro_streams_the_same_words_though_it_reads_events_as_raw_text(pro: Call) -> None:
    """Its parser keeps the space that frames a token which begins with one: spaces come doubled."""
    whole = pro("invoke", HI, max_new_tokens=16)
    streamed = "".join(pro("stream", HI, max_new_tokens=16))
    assert streamed.split() == whole.split()
    assert "data:" not in streamed

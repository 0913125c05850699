"""takeoff-haystack 0.1.0 (over takeoff-client 0.0.4) against the real server."""

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


@pytest.fixture
def run(environment: Callable[[str], Environment], doors: Doors) -> Callable[..., Any]:
    """Runs a TakeoffGenerator that is made with these settings."""
    call = environment("takeoff_haystack_0_1_0").call

    def generator(prompt: str, kwargs: dict[str, Any] | None = None, **settings: object) -> Any:
        made = {"base_url": HOST, "port": doors.takeoff, **settings}
        target = "takeoff_haystack.TakeoffGenerator"
        asked = {"settings": made, "method": "run", "kwargs": {"generation_kwargs": kwargs}}
        return call(target, prompt, **asked)

    return generator


def test_a_prompt_gets_one_reply_the_text_of_generate(run: Callable[..., Any], doors: Doors) -> None:
    answer = requests.post(f"{HOST}:{doors.takeoff}/generate", json={"text": HI}, timeout=LIMIT_S)
    assert answer.json()["text"] == HELLO
    assert run(HI) == {"replies": [answer.json()["text"]]}


def test_its_generation_kwargs_are_kept(run: Callable[..., Any]) -> None:
    digits = run("A number?", {"regex_string": "[0-9]{5}"})["replies"][0]
    assert len(digits) == 5
    assert digits.isdigit()
    assert run("A number?", generation_kwargs={"regex_string": "[0-9]{5}"}) == {"replies": [digits]}


def test_its_consumer_group_is_the_one_that_is_asked(run: Callable[..., Any]) -> None:
    with pytest.raises(Raised, match="nowhere"):
        run(HI, consumer_group="nowhere")

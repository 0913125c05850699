"""simonw's llm 0.36, run as its users do, with the server as an extra model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment

HELLO = "Hello there! How can I assist you today?"  # what SmolLM2 says to "hi"
ENTRIES = """
- model_id: takeoff
  model_name: primary
  api_base: {url}
  supports_schema: true
  supports_tools: true
- model_id: takeoff-text
  model_name: primary
  api_base: {url}
  completion: true
"""
Llm = Callable[..., str]


@pytest.fixture
def llm(environment: Callable[[str], Environment], doors: Doors, tmp_path: Path) -> Llm:
    """Runs llm, with two extra models."""
    entries = ENTRIES.format(url=f"{HOST}:{doors.front}/v1")
    (tmp_path / "extra-openai-models.yaml").write_text(entries)

    def llm(*arguments: str) -> str:
        return environment("llm_0_36").run("llm", *arguments, folder=tmp_path, LLM_USER_PATH=str(tmp_path))

    return llm


def test_a_prompt_is_answered_streamed_or_not_and_logged_with_its_tokens(llm: Llm) -> None:
    prompt = ("-m", "takeoff", "-o", "temperature", "0", "hi")
    assert llm(*prompt).strip() == HELLO
    assert llm(*prompt, "--no-stream").strip() == HELLO
    logged = json.loads(llm("logs", "--json"))
    assert [each["response"] for each in logged] == [HELLO, HELLO]
    assert len({(each["input_tokens"], each["output_tokens"]) for each in logged}) == 1
    assert logged[0]["output_tokens"] == 11


def test_a_text_is_completed(llm: Llm) -> None:
    options = ("-o", "temperature", "0", "-o", "max_tokens", "8")
    assert llm("-m", "takeoff-text", *options, "The capital of France is").startswith(" Paris")


def test_a_schema_is_obeyed_and_a_conversation_goes_on(llm: Llm) -> None:
    options = ("-o", "temperature", "0", "-o", "max_tokens", "120")
    schema = ("--schema", "name, age int", *options)
    person = json.loads(llm("-m", "takeoff", *schema, "Ann is 30 years old. Write her name and age."))
    assert (type(person["name"]), type(person["age"])) == (str, int)
    llm("-m", "takeoff", *options, "-s", "You are brief.", "Say hello.")
    assert llm("-c", *options, "Say it again.").strip()


def test_tools_may_be_told_of(llm: Llm) -> None:
    function = (
        'def area(width: int, height: int) -> int:\n    "The area of a rectangle"\n    return width * height'
    )
    options = ("-o", "temperature", "0", "-o", "max_tokens", "60", "--functions", function)
    assert llm("-m", "takeoff", *options, "hi").strip()

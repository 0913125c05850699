"""The real server with a model that thinks: the default weights under a template that opens thoughts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import requests
from tests.cli.test_serve import LIMIT_S, serving

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}"
)
QUESTION = "How many legs has a cat?"
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "maximum": 9}},
    "required": ["n"],
    "additionalProperties": False,
}


def write_thinking_model(path: Path, weights: Path) -> None:
    """`weights` under the template."""
    script = "gguf.scripts.gguf_new_metadata"
    command = [sys.executable, "-m", script, "--chat-template", TEMPLATE, str(weights), str(path)]
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module")
def client(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    path = tmp_path_factory.mktemp("thinking") / "thinking.gguf"
    write_thinking_model(path, smollm2_path)
    with serving("--model", str(path), "--port", "0", "--max-slots", "2", "--context", "512") as server:
        url = server.wait_ready()
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            yield client


def asked(client: openai.OpenAI, **body: Any) -> Any:
    messages = [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(
        **{"model": "primary", "messages": messages, "temperature": 0, **body}
    )


def test_a_thought_that_is_cut_is_told_as_such_plain_and_streamed(client: openai.OpenAI) -> None:
    answer = asked(client, max_tokens=12)
    (choice,) = answer.choices
    assert choice.message.content == ""
    assert choice.message.reasoning_content.strip()
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == answer.usage.completion_tokens_details.reasoning_tokens == 12
    chunks = list(asked(client, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    thought = "".join(getattr(delta, "reasoning_content", "") for delta in deltas)
    assert thought == choice.message.reasoning_content
    assert "".join(delta.content or "" for delta in deltas) == ""
    assert chunks[-1].usage.completion_tokens_details.reasoning_tokens == 12


def test_thinking_is_turned_off_and_what_constrains_the_answer_holds_from_its_beginning(
    client: openai.OpenAI,
) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    answer = asked(client, reasoning_effort="none", response_format=form, max_tokens=40)
    message = answer.choices[0].message
    assert json.loads(message.content)["n"] <= 9
    assert not hasattr(message, "reasoning_content")
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


def test_tokenize_tells_the_prompt_that_the_effort_makes(client: openai.OpenAI) -> None:
    url, messages = str(client.base_url).removesuffix("/v1/"), [{"role": "user", "content": QUESTION}]
    counts = []
    for effort in ("none", "medium"):
        body = {"messages": messages, "reasoning_effort": effort}
        told = requests.post(f"{url}/tokenize", json=body, timeout=LIMIT_S).json()
        counts.append(told["count"])
        assert told["count"] == asked(client, reasoning_effort=effort, max_tokens=1).usage.prompt_tokens
        prompt = requests.post(f"{url}/detokenize", json={"tokens": told["tokens"]}, timeout=LIMIT_S).json()
        assert prompt["prompt"].endswith("</think>\n\n") is (effort == "none")
    assert counts[0] > counts[1]


def test_a_constrained_answer_thinks_first(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    answer = asked(client, response_format=form, max_tokens=12)
    assert answer.choices[0].message.content == ""
    assert answer.choices[0].message.reasoning_content.strip()


def test_an_effort_that_the_template_does_not_know_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="send none or medium") as caught:
        asked(client, reasoning_effort="high")
    assert caught.value.param == "reasoning_effort"

"""The `openai` package's `responses` against the real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseStreamEvent
from pydantic import BaseModel, Field, TypeAdapter
from tests.engine.test_logprobs import OTHER_ROWS

FRANCE = "What is the capital of France?"
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)


def client_of(server_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


def check(response: Response) -> None:
    """Its shape is the package's, to the type."""
    Response.model_validate_json(response.model_dump_json(exclude_unset=True, by_alias=True), strict=True)


def final(client: openai.OpenAI, **asked: Any) -> Response:
    """The last event's response, of a stream whose deltas make its text."""
    texts: list[str] = []
    with client.responses.create(**asked, stream=True) as stream:
        for event in stream:
            EVENT.validate_json(event.model_dump_json(exclude_unset=True, by_alias=True), strict=True)
            if event.type == "response.output_text.delta":
                texts.append(event.delta)
    assert event.type in ("response.completed", "response.incomplete")
    assert "".join(texts) == event.response.output_text
    return event.response


def test_an_answer_is_the_chats_and_the_same_in_every_way_to_ask(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "input": FRANCE, "max_output_tokens": 24, "temperature": 0}
    with client_of(server_url) as client:
        chat = client.chat.completions.create(
            model="primary", messages=[{"role": "user", "content": FRANCE}], max_tokens=24, temperature=0
        )
        whole = client.responses.create(**asked)
        check(whole)
        assert whole.output_text == chat.choices[0].message.content != ""
        assert whole.usage is not None
        assert chat.usage is not None
        assert whole.usage.input_tokens == chat.usage.prompt_tokens
        assert whole.usage.output_tokens == chat.usage.completion_tokens
        assert whole.usage.total_tokens == chat.usage.total_tokens
        assert whole.usage.input_tokens_details.cached_tokens == whole.usage.input_tokens - 1
        streamed = final(client, **asked)
        assert streamed.output_text == whole.output_text
        assert (streamed.status, streamed.usage) == (whole.status, whole.usage)
        with client.responses.stream(**asked) as stream:
            for event in stream:
                if event.type == "response.output_text.delta":
                    assert whole.output_text.startswith(event.snapshot)

    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
            answer = await client.responses.create(**asked)
            events = [event async for event in await client.responses.create(**asked, stream=True)]
            assert events[-1].response.output_text == answer.output_text
            return str(answer.output_text)

    assert asyncio.run(ask()) == whole.output_text


def test_a_conversation_goes_on_with_the_items_that_were_answered(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "temperature": 0, "max_output_tokens": 16}
    asked["instructions"] = "Answer with one word."
    with client_of(server_url) as client:
        items: list[Any] = [{"role": "user", "content": FRANCE}]
        first = client.responses.create(input=items, **asked)
        items += [each.model_dump() for each in first.output]
        items.append({"role": "user", "content": [{"type": "input_text", "text": "And of Italy?"}]})
        second = client.responses.create(input=items, **asked)
        chat = client.chat.completions.create(
            model="primary",
            messages=[
                {"role": "system", "content": asked["instructions"]},
                {"role": "user", "content": FRANCE},
                {"role": "assistant", "content": first.output_text},
                {"role": "user", "content": "And of Italy?"},
            ],
            max_tokens=16,
            temperature=0,
        )
        assert second.output_text == chat.choices[0].message.content
        assert second.usage is not None
        assert chat.usage is not None
        assert second.usage.input_tokens == chat.usage.prompt_tokens


def test_an_answer_that_is_cut_off_says_so(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "input": FRANCE, "max_output_tokens": 3, "temperature": 0}
    with client_of(server_url) as client:
        for response in (client.responses.create(**asked), final(client, **asked)):
            check(response)
            assert response.status == "incomplete"
            assert response.incomplete_details is not None
            assert response.incomplete_details.reason == "max_output_tokens"
            assert response.usage is not None
            assert response.usage.output_tokens == 3
            (item,) = response.output
            assert item.type == "message"
            assert item.status == "incomplete"


def test_logprobs_come_token_by_token(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "input": FRANCE, "max_output_tokens": 6, "temperature": 0}
    asked |= {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    with client_of(server_url) as client:
        whole = client.responses.create(**asked)
        check(whole)
        (item,) = whole.output
        assert item.type == "message"
        assert item.content[0].type == "output_text"
        logprobs = item.content[0].logprobs
        assert logprobs is not None
        assert len(logprobs) == 6
        assert "".join(each.token for each in logprobs) == whole.output_text
        for each in logprobs:
            assert len(each.top_logprobs) == 2
            assert each.logprob == each.top_logprobs[0].logprob <= 0
            assert bytes(each.bytes).decode() == each.token
        (streamed,) = final(client, **asked).output
        assert streamed.type == "message"
        assert streamed.content[0].type == "output_text"
        again = streamed.content[0].logprobs or []
        assert [each.token for each in again] == [each.token for each in logprobs]
        values = [each.logprob for each in logprobs]
        assert [each.logprob for each in again] == pytest.approx(values, abs=OTHER_ROWS)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
def test_a_call_is_valid_and_its_result_goes_back(server_url: str, choice: Any) -> None:
    items: list[Any] = [{"role": "user", "content": "How is the weather in Oslo?"}]
    asked: dict[str, Any] = {
        "model": "primary",
        "tools": [WEATHER],
        "temperature": 0,
        "parallel_tool_calls": False,
    }
    with client_of(server_url) as client:
        whole = client.responses.create(input=items, tool_choice=choice, **asked)
        check(whole)
        assert whole.status == "completed"
        (call,) = whole.output
        assert isinstance(call, ResponseFunctionToolCall)
        assert call.name == "get_weather"
        jsonschema.validate(json.loads(call.arguments), WEATHER["parameters"])
        with client.responses.stream(input=items, tool_choice=choice, **asked) as stream:
            (streamed,) = stream.get_final_response().output
        assert streamed.type == "function_call"
        assert streamed.arguments == call.arguments
        items += [
            call.model_dump(),
            {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 21 degrees"},
        ]
        answer = client.responses.create(input=items, tool_choice="none", max_output_tokens=24, **asked)
        assert answer.output_text
        broken = {**call.model_dump(), "arguments": '{"city": '}
        items[1] = broken
        again = client.responses.create(input=items, max_output_tokens=24, **asked)
        assert again.status in ("completed", "incomplete")


def test_an_answer_is_parsed_into_a_model(server_url: str) -> None:
    items: list[Any] = [{"role": "user", "content": "Tell me about Ann, who is 31 years old."}]
    asked: dict[str, Any] = {"model": "primary", "text_format": Person, "temperature": 0}
    with client_of(server_url) as client:
        parsed = client.responses.parse(input=items, **asked)
        assert isinstance(parsed.output_parsed, Person)
        assert json.loads(parsed.output_text) == parsed.output_parsed.model_dump()
        with client.responses.stream(input=items, **asked) as stream:
            assert stream.get_final_response().output_parsed == parsed.output_parsed
        items += [
            *parsed.output,
            *(each.model_dump() for each in parsed.output),
            {"role": "user", "content": "And of Bob, who is 7."},
        ]
        assert client.responses.parse(input=items, **asked).output_parsed is not None
        items = [{"role": "user", "content": "How is the weather in Oslo?"}]
        calling: Any = {"model": "primary", "tools": [WEATHER], "tool_choice": "required", "temperature": 0}
        (call,) = client.responses.parse(input=items, parallel_tool_calls=False, **calling).output
        assert call.type == "function_call"
        assert call.parsed_arguments.keys() == {"city", "unit"}  # type: ignore[union-attr]
        items += [
            call.model_dump(),
            {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"},
        ]
        assert client.responses.create(model="primary", input=items, max_output_tokens=8).output_text


def test_with_tools_and_a_format_an_answer_is_a_call_or_the_format(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "temperature": 0, "parallel_tool_calls": False}
    with client_of(server_url) as client:
        for question in ("How is the weather in Oslo?", "Tell me about Ann, who is 31 years old."):
            parsed = client.responses.parse(input=question, tools=[WEATHER], text_format=Person, **asked)
            (item,) = parsed.output
            if item.type == "function_call":
                jsonschema.validate(json.loads(item.arguments), WEATHER["parameters"])
            else:
                assert isinstance(parsed.output_parsed, Person)


def test_what_is_not_served_is_refused_by_name(server_url: str) -> None:
    with client_of(server_url) as client:
        first = client.responses.create(model="primary", input="Hi", max_output_tokens=1)
        assert first.model_dump()["store"] is False
        with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported"):
            client.responses.create(model="primary", input="Hi", previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError, match="store is not supported"):
            client.responses.create(model="primary", input="Hi", store=True)
        with pytest.raises(openai.BadRequestError, match="only tools of the type function are served"):
            client.responses.create(model="primary", input="Hi", tools=[{"type": "web_search"}])
        with pytest.raises(openai.NotFoundError, match="nothing is stored"):
            client.responses.retrieve(first.id)
        with pytest.raises(openai.NotFoundError, match="nothing is stored"):
            client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError, match="sequence holds 1024") as caught:
            client.responses.create(model="primary", input="word " * 1_100)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="gpt-9", input="Hi")
        bad: Any = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "frog"}}}
        with pytest.raises(openai.BadRequestError, match=r'text\.format: "type" "frog"') as caught:
            client.responses.create(model="primary", input="Hi", text=bad)
        assert caught.value.param == "text.format"

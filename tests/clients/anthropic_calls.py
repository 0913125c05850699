"""What users of the package `anthropic` write, as functions of JSON; call.py runs them in its interpreter."""

from __future__ import annotations

from typing import Any

from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import beta, message_count_tokens_params, message_create_params
from pydantic import BaseModel

Json = dict[str, Any]
IN_HEADERS = {"betas", "user_profile_id", "workspace_id"}  # parameters that are no fields of the body


class Person(BaseModel):
    """What an answer may be parsed as."""

    name: str
    age: int


def create(settings: Json, body: Json) -> Json:
    """A message, whole."""
    message = Anthropic(**settings).messages.create(**body)
    assert message._request_id is not None
    return message.to_dict(mode="json")


def create_stream(settings: Json, body: Json) -> list[Json]:
    """The events of a message."""
    with Anthropic(**settings).messages.create(stream=True, **body) as events:
        return [event.to_dict(mode="json") for event in events]


def stream(settings: Json, body: Json) -> Json:
    """What the helper makes of a stream: the texts as they come, the kinds of its events, the message."""
    with Anthropic(**settings).messages.stream(**body) as events:
        kinds, texts = [], []
        for event in events:
            kinds.append(event.type)
            if event.type == "text":
                texts.append(event.text)
        return {"texts": texts, "kinds": kinds, "message": events.get_final_message().to_dict(mode="json")}


async def create_async(settings: Json, body: Json) -> Json:
    """As `create`."""
    async with AsyncAnthropic(**settings) as client:
        return (await client.messages.create(**body)).to_dict(mode="json")


async def create_stream_async(settings: Json, body: Json) -> list[Json]:
    """As `create_stream`."""
    async with AsyncAnthropic(**settings) as client:
        events = await client.messages.create(stream=True, **body)
        return [event.to_dict(mode="json") async for event in events]


async def stream_async(settings: Json, body: Json) -> Json:
    """As `stream`, from its texts alone."""
    async with AsyncAnthropic(**settings) as client, client.messages.stream(**body) as events:
        texts = [text async for text in events.text_stream]
        return {"texts": texts, "message": (await events.get_final_message()).to_dict(mode="json")}


def parse(settings: Json, body: Json) -> Json:
    """A person, as the model wrote it down."""
    parsed = Anthropic(**settings).messages.parse(output_format=Person, **body).parsed_output
    assert isinstance(parsed, Person)
    return parsed.model_dump()


def count(settings: Json, body: Json) -> int:
    """The tokens of a prompt."""
    return Anthropic(**settings).messages.count_tokens(**body).input_tokens


def beta_stream(settings: Json, body: Json) -> Json:
    """The message that the beta client makes of a stream."""
    with Anthropic(**settings).beta.messages.stream(**body) as events:
        return events.get_final_message().to_dict(mode="json")


def beta_count(settings: Json, body: Json) -> int:
    """The tokens of a prompt, by the beta client."""
    return Anthropic(**settings).beta.messages.count_tokens(**body).input_tokens


def round_trip(settings: Json, body: Json, result: str) -> Json:
    """The message after the result of a tool that the first one calls, both as the package has them."""
    client = Anthropic(**settings)
    first = client.messages.create(**body)
    calls = [block for block in first.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": result} for call in calls]
    messages = [*body["messages"], first.to_param(), {"role": "user", "content": results}]
    asked = {**body, "messages": messages, "tool_choice": {"type": "none"}}
    return {
        "calls": [call.to_dict(mode="json") for call in calls],
        "message": client.messages.create(**asked).to_dict(mode="json"),
    }


def body_fields() -> dict[str, list[str]]:
    """The fields that the two routes have by the package's types."""
    kinds = {
        "messages": [
            message_create_params.MessageCreateParamsStreaming,
            beta.message_create_params.MessageCreateParamsStreaming,
        ],
        "count_tokens": [
            message_count_tokens_params.MessageCountTokensParams,
            beta.message_count_tokens_params.MessageCountTokensParams,
        ],
    }
    return {
        route: sorted({name for each in both for name in _fields(each)} - IN_HEADERS)
        for route, both in kinds.items()
    }


def _fields(kind: type) -> set[str]:
    return {name for each in (kind, *kind.__orig_bases__) for name in getattr(each, "__annotations__", {})}

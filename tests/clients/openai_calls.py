"""What users of the package `openai` write, as functions of JSON; call.py runs them in its interpreter."""

from __future__ import annotations

import operator
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

Json = dict[str, Any]


class Person(BaseModel):
    """What an answer may be parsed as."""

    name: str
    age: int


def ask(settings: Json, method: str, body: Json) -> Json:
    """The whole answer of a method, as in `chat.completions.create`."""
    with OpenAI(**settings) as client:
        return operator.attrgetter(method)(client)(**body).to_dict(mode="json")


def ask_stream(settings: Json, method: str, body: Json) -> list[Json]:
    """The chunks of a streamed answer."""
    with OpenAI(**settings) as client, operator.attrgetter(method)(client)(stream=True, **body) as chunks:
        return [chunk.to_dict(mode="json") for chunk in chunks]


async def ask_async(settings: Json, method: str, body: Json) -> Json:
    """As `ask`."""
    async with AsyncOpenAI(**settings) as client:
        return (await operator.attrgetter(method)(client)(**body)).to_dict(mode="json")


async def ask_stream_async(settings: Json, method: str, body: Json) -> list[Json]:
    """As `ask_stream`."""
    async with AsyncOpenAI(**settings) as client:
        chunks = await operator.attrgetter(method)(client)(stream=True, **body)
        return [chunk.to_dict(mode="json") async for chunk in chunks]


def refusal(settings: Json, method: str, body: Json) -> Json:
    """The error that a method raises, as the package's user catches it."""
    with OpenAI(**settings) as client:
        try:
            operator.attrgetter(method)(client)(**body)
        except openai.APIStatusError as exc:
            names = ("status_code", "type", "code", "param", "message")
            return {"class": type(exc).__name__, **{name: getattr(exc, name) for name in names}}
    raise AssertionError("it was answered")


def models(settings: Json) -> list[str]:
    """The names of all models, and of each as it is retrieved alone."""
    with OpenAI(**settings) as client:
        names = [model.id for model in client.models.list()]
        assert [client.models.retrieve(name).id for name in names] == names
        return names


def stream(settings: Json, body: Json) -> Json:
    """What the helper makes of a chat's stream: the kinds of its events, and the completion."""
    with OpenAI(**settings) as client, client.chat.completions.stream(**body) as events:
        kinds = [event.type for event in events]
        return {"kinds": kinds, "completion": events.get_final_completion().to_dict(mode="json")}


async def stream_async(settings: Json, body: Json) -> Json:
    """As `stream`."""
    async with AsyncOpenAI(**settings) as client, client.chat.completions.stream(**body) as events:
        kinds = [event.type async for event in events]
        return {"kinds": kinds, "completion": (await events.get_final_completion()).to_dict(mode="json")}


def parse(settings: Json, body: Json) -> Json:
    """A person, as the model wrote it down."""
    with OpenAI(**settings) as client:
        parsed = client.chat.completions.parse(response_format=Person, **body).choices[0].message.parsed
    assert isinstance(parsed, Person)
    return parsed.model_dump()


def parse_tool(settings: Json, body: Json) -> Json:
    """The arguments of a call of a tool that a person is handed to."""
    tool = openai.pydantic_function_tool(Person, name="remember")
    with OpenAI(**settings) as client:
        answer = client.chat.completions.parse(tools=[tool], tool_choice="required", **body)
    (call,) = answer.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Person)
    return call.function.parsed_arguments.model_dump()


def vectors(settings: Json, body: Json) -> list[list[float] | str]:
    """The embeddings of texts, as the package hands them out."""
    with OpenAI(**settings) as client:
        return [each.embedding for each in client.embeddings.create(**body).data]

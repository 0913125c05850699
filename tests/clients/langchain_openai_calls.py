"""What users of `langchain-openai` write, as functions of JSON; call.py runs them in its interpreter."""

from __future__ import annotations

import functools
import operator
from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import BaseModel

Json = dict[str, Any]


class Person(BaseModel):
    """A person, and how old they are."""

    name: str
    age: int


def call(settings: Json, prompt: str) -> Json:
    """The calls of an answer that must call, and those put together from its stream."""
    model = ChatOpenAI(**settings).bind_tools([Person], tool_choice="any")
    streamed = functools.reduce(operator.add, model.stream(prompt))
    return {"whole": _calls(model.invoke(prompt)), "streamed": _calls(streamed)}


def round_trip(settings: Json, prompt: str, result: str) -> str:
    """What is said once the result of a call is known."""
    model = ChatOpenAI(**settings)
    asked = model.bind_tools([Person], tool_choice="Person").invoke(prompt)
    results = [{"role": "tool", "content": result, "tool_call_id": each["id"]} for each in asked.tool_calls]
    return model.bind_tools([Person], tool_choice="none").invoke([("user", prompt), asked, *results]).text


def structured(settings: Json, prompt: str, **options: Any) -> Json:
    """A person, in the way that `options` say or in the default one."""
    person = ChatOpenAI(**settings).with_structured_output(Person, **options).invoke(prompt)
    assert isinstance(person, Person)
    return person.model_dump()


def stream(settings: Json, prompt: str) -> Json:
    """The texts of a stream, and the tokens that it tells once it is asked to."""
    chunks = list(ChatOpenAI(stream_usage=True, **settings).stream(prompt))
    usage = functools.reduce(operator.add, chunks).usage_metadata
    return {"texts": [chunk.text for chunk in chunks], "usage": usage}


async def in_a_loop(settings: Json, prompt: str) -> Json:
    """An answer whole and streamed, in one event loop: clients with the same settings share connections."""
    model = ChatOpenAI(**settings)
    return {
        "whole": (await model.ainvoke(prompt)).text,
        "texts": [chunk.text async for chunk in model.astream(prompt)],
    }


def _calls(message: Any) -> list[Json]:
    return [{"name": each["name"], "args": each["args"]} for each in message.tool_calls]

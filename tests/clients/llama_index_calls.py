"""What users of LlamaIndex' OpenAILike write, as functions of JSON; call.py runs them in its interpreter."""

from __future__ import annotations

from typing import Any

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

Json = dict[str, Any]


class Person(BaseModel):
    """A person, and how old they are."""

    name: str
    age: int


def complete(settings: Json, prompt: str) -> str:
    """A prompt continued."""
    return OpenAILike(**settings).complete(prompt).text


def stream_complete(settings: Json, prompt: str) -> list[str]:
    """The pieces of a continuation."""
    return [each.delta for each in OpenAILike(**settings).stream_complete(prompt)]


def chat(settings: Json, messages: list[tuple[str, str]]) -> str:
    """The answer of a conversation."""
    return OpenAILike(**settings).chat(_conversation(messages)).message.content


def stream_chat(settings: Json, messages: list[tuple[str, str]]) -> list[str]:
    """The pieces of an answer."""
    return [each.delta for each in OpenAILike(**settings).stream_chat(_conversation(messages))]


async def stream_chat_async(settings: Json, messages: list[tuple[str, str]]) -> list[str]:
    """As `stream_chat`."""
    chunks = await OpenAILike(**settings).astream_chat(_conversation(messages))
    return [each.delta async for each in chunks]


def structured(settings: Json, prompt: str) -> Json:
    """A person, as the model wrote it down."""
    person = OpenAILike(**settings).as_structured_llm(Person).complete(prompt).raw
    assert isinstance(person, Person)
    return person.model_dump()


def call(settings: Json, prompt: str) -> list[Json]:
    """The calls of an answer that must call."""
    model = OpenAILike(**settings)
    answer = model.chat_with_tools([FunctionTool.from_defaults(_remember)], prompt, tool_required=True)
    return [
        {"name": each.tool_name, "args": each.tool_kwargs}
        for each in model.get_tool_calls_from_response(answer)
    ]


def _remember(name: str, age: int) -> str:
    """Remember how old somebody is."""
    return f"{name} is {age}"


def _conversation(messages: list[tuple[str, str]]) -> list[ChatMessage]:
    return [ChatMessage(role=role, content=content) for role, content in messages]

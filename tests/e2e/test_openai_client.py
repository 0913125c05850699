"""The `openai` package against the real server."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall


def test_completions_plain_and_streamed_agree(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        model = client.models.list().data[0].id
        asked = {"model": model, "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
        whole = client.completions.create(**asked)
        assert whole.choices[0].text.strip().startswith("Paris")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (5, 12)
        assert whole.choices[0].finish_reason == "length"
        with client.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        ) as stream:
            chunks = list(stream)
        assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_several_choices_differ_by_seed_and_repeat_with_it(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
        asked = {"model": "primary", "prompt": "Once upon a time", "max_tokens": 16, "n": 3, "seed": 7}
        texts = [choice.text for choice in client.completions.create(**asked).choices]
        assert len(set(texts)) == 3


def test_what_is_not_served_is_refused_by_name(server_url: str) -> None:
    with openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0) as client:
        asked = {"model": "primary", "prompt": "a"}
        with pytest.raises(
            openai.BadRequestError, match="logprobs: Input should be less than or equal to 20"
        ):
            client.completions.create(**asked, logprobs=21)
        with pytest.raises(openai.BadRequestError, match="did you mean 'temperature'"):
            client.completions.create(**asked, extra_body={"temprature": 1})
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="gpt-9", prompt="a")


def chatter(server_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


def test_chat_plain_streamed_and_async_agree(server_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
    asked: dict[str, Any] = {"model": "primary", "messages": messages, "max_tokens": 24, "temperature": 0}
    with chatter(server_url) as client:
        whole = client.chat.completions.create(**asked)
        choice = whole.choices[0]
        assert choice.message.role == "assistant"
        assert whole.usage is not None
        assert whole.usage.prompt_tokens == 37
        usage = {"include_usage": True}
        with client.chat.completions.create(**asked, stream=True, stream_options=usage) as stream:
            *chunks, last = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == choice.message.content != ""
        assert chunks[-1].choices[0].finish_reason == choice.finish_reason
        assert chunks[0].choices[0].delta.role == "assistant"
        assert last.usage is not None
        assert last.usage.completion_tokens == whole.usage.completion_tokens
        assert last.usage.prompt_tokens_details is not None
        assert last.usage.prompt_tokens_details.cached_tokens == 36, "all but the last token are known"

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
            return await client.chat.completions.create(**asked)

    assert asyncio.run(ask()).choices[0].message.content == text


def test_roles_parts_and_a_prefill_reach_the_model(server_url: str) -> None:
    asked: dict[str, Any] = {"model": "primary", "max_tokens": 12, "temperature": 0}
    with chatter(server_url) as client:
        parts = [{"type": "text", "text": "The capital of"}, {"type": "text", "text": "France?"}]
        conversation: list[Any] = [
            {"role": "developer", "content": "Answer with one word."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": "The capital of France is"},
        ]
        answer = client.chat.completions.create(messages=conversation, **asked)
        assert str(answer.choices[0].message.content).startswith(" Paris")
        joined = [{"role": "system", "content": "Answer with one word."}]
        joined += [{"role": "user", "content": "The capital of\nFrance?"}, conversation[2]]
        again = client.chat.completions.create(messages=joined, **asked)
        assert again.choices[0].message.content == answer.choices[0].message.content
        assert answer.usage is not None
        assert again.usage is not None
        assert again.usage.prompt_tokens == answer.usage.prompt_tokens


def test_fields_of_a_chat_do_what_they_say(server_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Count: one, two, three, four, five, six."}]
    asked: dict[str, Any] = {"model": "primary", "messages": messages, "max_tokens": 16}
    with chatter(server_url) as client:
        create = client.chat.completions.create
        seeded = [create(**asked, seed=7, n=3) for _ in range(2)]
        texts = [[choice.message.content for choice in answer.choices] for answer in seeded]
        assert texts[0] == texts[1]
        assert len(set(texts[0])) == 3
        assert seeded[0].usage is not None
        assert seeded[0].usage.completion_tokens <= 48
        whole = create(**asked, temperature=0)
        text = str(whole.choices[0].message.content)
        word = text.split()[2]
        stopped = create(**asked, temperature=0, stop=[word])
        assert stopped.choices[0].message.content == text[: text.index(word)]
        assert stopped.choices[0].finish_reason == "stop"
        longer = create(
            **asked | {"max_tokens": None, "max_completion_tokens": 40}, extra_body={"ignore_eos": True}
        )
        assert longer.usage is not None
        assert (longer.usage.completion_tokens, longer.choices[0].finish_reason) == (40, "length")
        pinned = create(**asked | {"max_tokens": 3}, logit_bias={"28": 100}, extra_body={"min_tokens": 3})
        assert pinned.choices[0].message.content == ",,,"


def test_a_chat_goes_to_the_end_of_the_context_and_not_beyond(server_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "word " * 1_010}]
    with chatter(server_url) as client:
        with pytest.raises(
            openai.BadRequestError, match=r"has 1\d\d\d tokens, but a sequence holds 1024"
        ) as caught:
            client.chat.completions.create(model="primary", messages=messages)
        assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")
        messages[0]["content"] = "word " * 960
        whole = client.chat.completions.create(
            model="primary", messages=messages, extra_body={"ignore_eos": True}
        )
        assert whole.usage is not None
        assert (whole.usage.total_tokens, whole.choices[0].finish_reason) == (1_024, "length")


def test_the_models_can_be_asked_one_by_one(server_url: str) -> None:
    with chatter(server_url) as client:
        assert client.models.retrieve("primary").id == "primary"
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9'"):
            client.models.retrieve("gpt-9")


def test_answers_match_what_they_must(server_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Tell me about a person named Ann, 31 years old."}]
    asked: dict[str, Any] = {"model": "primary", "messages": messages, "max_tokens": 60, "seed": 3}
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "maximum": 150},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    with chatter(server_url) as client:
        create = client.chat.completions.create
        strict: Any = {
            "type": "json_schema",
            "json_schema": {"name": "person", "strict": True, "schema": schema},
        }
        person = json.loads(str(create(**asked, response_format=strict).choices[0].message.content))
        assert person.keys() == {"name", "age"}
        assert (type(person["name"]), type(person["age"])) == (str, int)
        free = create(**asked, temperature=0, response_format={"type": "json_object"}).choices[0]
        if free.finish_reason == "stop":
            assert isinstance(json.loads(str(free.message.content)), dict)
        assert str(free.message.content).lstrip().startswith("{")
        for extra in (
            {"regex": "(yes|no)!"},
            {"grammar": 'start: ("yes" | "no") "!"'},
            {"grammar": 'root ::= ("yes" | "no") "!"'},
            {"structured_outputs": {"choice": ["yes!", "no!"]}},
        ):
            assert create(**asked, extra_body=extra).choices[0].message.content in ("yes!", "no!")
        with pytest.raises(openai.BadRequestError, match='response_format: "type" "frog"') as caught:
            create(
                **asked, response_format={**strict, "json_schema": {"name": "x", "schema": {"type": "frog"}}}
            )
        assert caught.value.param == "response_format"


CITIES = ["Paris", "Rome", "Oslo", "Lima", "Cairo", "Tokyo", "Delhi", "Perth", "Quito", "Bern"]
ASKS = [
    "What is the weather in {}?",
    "Set a timer called {} for 5 minutes.",
    "Translate the word {} into French.",
    "Convert 20 euros for my trip to {}.",
    "Book a table for two in {} tomorrow.",
]


def tool(name: str, required: list[str], **properties: Any) -> Any:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": name, "parameters": parameters}}


TOOLS = [
    tool("get_weather", ["city"], city={"type": "string", "maxLength": 30}, unit={"enum": ["C", "F"]}),
    tool(
        "set_timer",
        ["label", "minutes"],
        label={"type": "string", "maxLength": 30},
        minutes={"type": "integer"},
    ),
    tool(
        "translate", ["text", "to"], text={"type": "string", "maxLength": 40}, to={"enum": ["fr", "de", "es"]}
    ),
    tool(
        "convert",
        ["amount"],
        amount={"type": "number"},
        currencies={"type": "array", "items": {"enum": ["EUR"]}, "maxItems": 2},
    ),
    tool(
        "book", ["people"], people={"type": "integer", "minimum": 1, "maximum": 12}, late={"type": "boolean"}
    ),
]
SCHEMAS = {each["function"]["name"]: each["function"]["parameters"] for each in TOOLS}


def test_fifty_of_fifty_required_calls_are_valid(server_url: str) -> None:
    prompts = [ask.format(city) for ask in ASKS for city in CITIES]

    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
            asked: dict[str, Any] = {"model": "primary", "tools": TOOLS, "tool_choice": "required", "seed": 1}
            asked["parallel_tool_calls"] = False
            create = client.chat.completions.create
            return await asyncio.gather(
                *(create(**asked, messages=[{"role": "user", "content": prompt}]) for prompt in prompts)
            )

    answers = asyncio.run(ask_all())
    assert len(answers) == 50
    for answer in answers:
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls", choice
        assert choice.message.content is None
        assert len(choice.message.tool_calls) == 1
        for call in choice.message.tool_calls:
            jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def test_an_answer_with_tools_and_a_format_is_a_valid_call_or_valid_json(server_url: str) -> None:
    yes_or_no = {"type": "string", "enum": ["Yes, it is.", "No, it is not."]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "answer", "schema": yes_or_no}}
    asked: dict[str, Any] = {"model": "primary", "tools": TOOLS, "response_format": form, "max_tokens": 200}
    ends = set()
    with chatter(server_url) as client:
        for prompt in (ASKS[0].format("Rome"), ASKS[1].format("Oslo"), "Is it cold?", "Is 2 odd?"):
            messages: Any = [{"role": "user", "content": prompt}]
            for bias in ({}, {"18": 100}):  # of a quote, with which only the text begins
                create = client.chat.completions.create
                (choice,) = create(**asked, messages=messages, logit_bias=bias, seed=1).choices
                for call in choice.message.tool_calls or []:
                    arguments = json.loads(call.function.arguments)
                    jsonschema.validate(arguments, SCHEMAS[call.function.name])
                if not choice.message.tool_calls:
                    jsonschema.validate(json.loads(str(choice.message.content)), yes_or_no)
                ends.add(("call" if choice.message.tool_calls else "text", choice.finish_reason))
    may_be_led = ("call", "length")  # arguments of any length: some were led to their end
    assert ends - {may_be_led} <= {("call", "tool_calls"), ("text", "stop")}
    assert {kind for kind, _ in ends} == {"call", "text"}


def unbounded(value: Any) -> Any:
    """A schema without the bounds of its texts, lists and numbers."""
    if not isinstance(value, dict):
        return value
    bounds = ("maxLength", "maxItems", "minimum", "maximum")
    return {name: unbounded(each) for name, each in value.items() if name not in bounds}


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("parallel", [False, True])
def test_calls_that_a_small_model_would_not_end_are_valid(
    server_url: str, temperature: float, parallel: bool
) -> None:
    tools = [unbounded(each) for each in TOOLS]
    schemas = {each["function"]["name"]: each["function"]["parameters"] for each in tools}
    prompts = [ask.format(city) for ask in ASKS for city in CITIES[:3]]

    async def ask_all() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client:
            asked: dict[str, Any] = {"model": "primary", "tools": tools, "tool_choice": "required", "seed": 2}
            asked |= {"temperature": temperature, "parallel_tool_calls": parallel, "max_tokens": 64}
            create = client.chat.completions.create
            return await asyncio.gather(
                *(create(**asked, messages=[{"role": "user", "content": prompt}]) for prompt in prompts)
            )

    answers = asyncio.run(ask_all())
    for answer in answers:
        choice = answer.choices[0]
        assert choice.finish_reason in ("tool_calls", "length")
        assert choice.message.content is None
        assert choice.message.tool_calls
        for call in choice.message.tool_calls:
            jsonschema.validate(json.loads(call.function.arguments), schemas[call.function.name])


def test_a_named_call_streamed_is_the_whole_one_and_its_result_can_be_told(server_url: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "How is the weather in Oslo?"}]
    asked: dict[str, Any] = {"model": "primary", "tools": TOOLS, "temperature": 0, "max_tokens": 60}
    choice: Any = {"type": "function", "function": {"name": "get_weather"}}
    with chatter(server_url) as client:
        whole = (
            client.chat.completions.create(messages=messages, tool_choice=choice, **asked).choices[0].message
        )
        assert whole.tool_calls is not None
        (call,) = whole.tool_calls
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert call.function.name == "get_weather"
        with client.chat.completions.stream(messages=messages, tool_choice=choice, **asked) as stream:
            streamed = stream.get_final_completion().choices[0].message
        assert streamed.tool_calls is not None
        assert streamed.tool_calls[0].function.arguments == call.function.arguments
        messages += [
            whole.model_dump(),
            {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"},
        ]
        answer = client.chat.completions.create(messages=messages, **asked, tool_choice="none")
        assert answer.choices[0].message.content
        broken = call.model_copy(deep=True)
        broken.function.arguments = '{"city": '
        messages[1]["tool_calls"] = [broken.model_dump()]
        answer = client.chat.completions.create(messages=messages, **asked)
        assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")

"""/v1/responses: its objects and events as the `openai` package has them, streamed and whole the same."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.http.door import (
    Answer,
    Connection,
    FakeGeneration,
    FakeService,
    Script,
    ask,
    broken_script,
    make_door,
    make_scope,
    post,
)

from takeoff.errors import EngineFailed
from takeoff.http.openai.responses.output import Output
from takeoff.request import FinishReason, Request, SamplingParams, TokenEvent, TokenLogprob, TokenLogprobs
from takeoff.thoughts import ThoughtFormat, ThoughtStart

PATH = "/v1/responses"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "d", "parameters": SCHEMA, "strict": True}
NOW = {"type": "function", "name": "now"}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Genève}"}}\n</tool_call>'
ARGUMENTS = '{"city": "Genève}"}'
HELLO = Request(prompt="Hello", sampling=SamplingParams())
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)

Said = list[tuple[str, str]]  # the type of each item of an output, and its text
SCRIPTS: dict[str, tuple[Script, Said]] = {
    "text": (("No ", "<tool> ", "here. "), [("message", "No <tool> here. ")]),
    "a call": ((CALL,), [("function_call", ARGUMENTS)]),
    "a call in pieces": (tuple(CALL), [("function_call", ARGUMENTS)]),
    "text, calls, text": (
        ("Let me", " see.\n", CALL[:9], CALL[9:], "\n" + CALL, "\nDone", "."),
        [
            ("message", "Let me see."),
            ("function_call", ARGUMENTS),
            ("function_call", ARGUMENTS),
            ("message", "Done."),
        ],
    ),
    "nothing": (("",), [("message", "")]),
}


def asked(script: Script, **body: Any) -> dict[str, Any]:
    """The whole answer, of the package's shape."""
    answer = post(FakeService(script), PATH, **({"input": "Hello"} | body))
    assert answer.status == 200, answer.body
    Response.model_validate_json(answer.body, strict=True)
    return dict(answer.json)


def events_of(answer: Answer) -> list[dict[str, Any]]:
    """The events, numbered one after the other, each of the package's shape and named by its type."""
    assert answer.status == 200, answer.body
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.body.endswith(b"\n\n")
    events = []
    for block in answer.body.decode().removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert kind == f"event: {event['type']}"
        assert EVENT.validate_json(data.removeprefix("data: "), strict=True).type == event["type"]
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def streamed(script: Script, **body: Any) -> list[dict[str, Any]]:
    return events_of(post(FakeService(script), PATH, **({"input": "Hello", "stream": True} | body)))


def unnamed(value: Any) -> Any:
    """`value` without what every answer has of its own: ids, and when it was made."""
    if isinstance(value, list):
        return [unnamed(each) for each in value]
    if not isinstance(value, dict):
        return value
    own = {"id", "item_id", "call_id", "created_at", "completed_at"}
    return {name: unnamed(each) for name, each in value.items() if name not in own}


def said(output: list[dict[str, Any]]) -> Said:
    texts = {
        "message": lambda item: "".join(part["text"] for part in item["content"]),
        "reasoning": lambda item: "".join(part["text"] for part in item["content"]),
        "function_call": lambda item: item["arguments"],
    }
    return [(item["type"], texts[item["type"]](item)) for item in output]


def put_together(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The output that a client makes of the events, which has to be what they end with."""
    output: list[dict[str, Any]] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(output)
                assert event["item"]["status"] == "in_progress"
                output.append(event["item"])
            case "content_part.added":
                assert event["content_index"] == len(output[-1]["content"])
                output[-1]["content"].append(event["part"])
            case "output_text.delta" | "reasoning_text.delta":
                assert event["item_id"] == output[event["output_index"]]["id"]
                output[-1]["content"][-1]["text"] += event["delta"]
            case "output_text.done" | "reasoning_text.done":
                assert event["text"] == output[-1]["content"][-1]["text"]
            case "content_part.done":
                assert event["part"] == output[-1]["content"][-1]
            case "function_call_arguments.delta":
                assert event["item_id"] == output[event["output_index"]]["id"]
                output[-1]["arguments"] += event["delta"]
            case "function_call_arguments.done":
                assert event["arguments"] == output[-1]["arguments"]
            case "output_item.done":
                assert event["item"] == output[-1] | {"status": event["item"]["status"]}
                output[-1] = event["item"]
    assert events[-1]["response"]["output"] == output
    return output


def test_the_answer_tells_what_was_asked_and_the_tokens() -> None:
    answer = asked(
        ("Hello", " wörld", "!"),
        instructions="Be brief.",
        metadata={"a": "b"},
        temperature=0.5,
        max_output_tokens=9,
        user="u",
        text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}},
    )
    assert answer["id"].startswith("resp_")
    assert answer["output"][0]["id"].startswith("msg_")
    told = {
        "object": "response",
        "status": "completed",
        "model": "smollm2",
        "error": None,
        "incomplete_details": None,
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 1.0,
        "max_output_tokens": 9,
        "user": "u",
        "store": False,
        "previous_response_id": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "truncation": "disabled",
    }
    assert {name: answer[name] for name in told} == told
    form = {"type": "json_schema", "name": "x", "schema": SCHEMA, "description": None, "strict": True}
    assert answer["text"] == {"format": form, "verbosity": "medium"}
    part = {"type": "output_text", "text": "Hello wörld!", "annotations": [], "logprobs": []}
    assert unnamed(answer["output"]) == [
        {"type": "message", "status": "completed", "role": "assistant", "content": [part]}
    ]
    assert answer["usage"] == {
        "input_tokens": 2,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 5,
    }


def test_a_text_comes_in_this_order() -> None:
    events = streamed(("Hello", " wörld", "!"))
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        *["output_text.delta"] * 3,
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["delta"] for event in events if "delta" in event] == ["Hello", " wörld", "!"]
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert (last["status"], last["id"]) == ("completed", first["id"])
    assert last["completed_at"] >= last["created_at"]


def test_a_call_comes_in_this_order() -> None:
    events = streamed((CALL[:40], CALL[40:52], CALL[52:]), tools=[WEATHER, NOW])
    assert [event["type"].removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        *["function_call_arguments.delta"] * 2,
        "function_call_arguments.done",
        "output_item.done",
        "completed",
    ]
    item = events[-1]["response"]["output"][0]
    assert (item["name"], item["arguments"], item["status"]) == ("weather", ARGUMENTS, "completed")
    assert len(item["call_id"]) == 9
    assert item["id"].startswith("fc_")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_stream_put_together_is_the_whole_answer(name: str) -> None:
    script, wanted = SCRIPTS[name]
    body = {"tools": [WEATHER, NOW], "parallel_tool_calls": True}
    whole = asked(script, **body)
    assert said(whole["output"]) == wanted
    events = streamed(script, **body)
    assert unnamed(put_together(events)) == unnamed(whole["output"])
    assert unnamed(events[-1]["response"]) == unnamed(whole)
    assert {item["status"] for item in whole["output"]} == {"completed"}


def test_without_tools_a_text_that_looks_like_a_call_is_text() -> None:
    assert said(asked((CALL,))["output"]) == [("message", CALL)]
    assert said(asked((CALL,), tools=[WEATHER], tool_choice="none")["output"]) == [("message", CALL)]


def test_tools_are_told_with_the_answer_as_they_are_enforced() -> None:
    answer = asked(("x",), tools=[WEATHER, NOW], tool_choice={"type": "function", "name": "now"})
    assert answer["tools"] == [WEATHER, NOW | {"description": None, "parameters": None, "strict": True}]
    assert answer["tool_choice"] == {"type": "function", "name": "now"}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_reaches_its_length_is_incomplete(stream: bool) -> None:
    service = FakeService((CALL[:53], ""))
    service.end = FinishReason.LENGTH
    answer = post(service, PATH, input="Hello", stream=stream, tools=[WEATHER])
    told = events_of(answer)[-1]["response"] if stream else answer.json
    assert told["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told["completed_at"] is None
    (item,) = told["output"]
    assert (item["status"], item["arguments"]) == ("incomplete", ARGUMENTS[:8])
    if stream:
        assert events_of(answer)[-1]["type"] == "response.incomplete"
        assert put_together(events_of(answer)) == [item]


def test_a_stream_that_fails_ends_with_what_there_is_and_why() -> None:
    events = streamed(broken_script())
    assert [event["type"] for event in events[-2:]] == ["response.output_item.done", "response.failed"]
    failed = events[-1]["response"]
    assert failed["status"] == "failed"
    assert failed["error"]["code"] == "server_error"
    assert "killed by signal 9" in failed["error"]["message"]
    (item,) = put_together(events)
    assert (item["status"], said([item])) == ("incomplete", [("message", "Hello wör")])


def test_a_whole_answer_that_fails_is_an_error() -> None:
    answer = post(FakeService(broken_script()), PATH, input="Hello")
    assert (answer.status, answer.json["error"]["code"]) == (EngineFailed.status, "engine_failed")


def test_a_stream_that_waits_begins_at_once_and_ends_with_its_client() -> None:
    async def run() -> None:
        service = FakeService()
        service.gate = asyncio.Event()
        body = json.dumps({"input": "Hello", "stream": True}).encode()
        connection = Connection([body], spec_version="2.3")
        door = make_door(service, stream_keep_alive_s=0.05)
        task = asyncio.create_task(connection.run(door, make_scope("POST", PATH)))
        await connection.has_body.wait()
        await asyncio.sleep(0.2)
        told, *comments = connection.answer.body.split(b": keep-alive\n\n")
        connection.answer.body = told
        kinds = [event["type"] for event in events_of(connection.answer)]
        assert kinds == ["response.created", "response.in_progress"]
        assert 2 <= len(comments) <= 4
        connection.has_left.set()
        await task
        assert [generation.num_cancelled for generation in service.generations] == [1]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses/resp_1"),
        ("DELETE", "/v1/responses/resp_1"),
        ("GET", "/v1/responses/resp_1/input_items"),
        ("POST", "/v1/responses/resp_1/cancel"),
    ],
)
@pytest.mark.parametrize("door", ["front", "openai"])
def test_nothing_is_stored(method: str, path: str, door: str) -> None:
    answer = ask(make_door(door=door), method, path)
    assert answer.status == 404
    assert "there is no response 'resp_1': nothing is stored" in answer.json["error"]["message"]


def test_the_openai_door_answers_too() -> None:
    answer = ask(make_door(door="openai"), "POST", PATH, {"input": "Hello"})
    assert said(answer.json["output"]) == [("message", "Hello wörld!")]


def token(piece: bytes, logprob: float = -1.0) -> TokenLogprobs:
    likeliest = TokenLogprob(7, b"Oslo", -0.5)
    return TokenLogprobs(TokenLogprob(len(piece), piece, logprob), (likeliest,))


def said_by(*events: TokenEvent) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The items of an answer without tools, and its deltas."""
    output = Output(FakeGeneration(HELLO, (), None), has_tools=False)
    told = [event for each in events for event in output.take(each)]
    return output.items, [event for event in told if event["type"].endswith(".delta")]


def test_logprobs_come_with_the_text_that_their_tokens_made() -> None:
    items, deltas = said_by(
        TokenEvent(request_id=0, text="", logprobs=(token(b"\xc3"),)),
        TokenEvent(request_id=0, text="é", logprobs=(token(b"\xa9", -2.0),)),
        TokenEvent(request_id=0, text="!", logprobs=(token(b"!"),)),
        TokenEvent(request_id=0, logprobs=(token(b""),), finish_reason=FinishReason.STOP),
    )
    oslo = {"token": "Oslo", "bytes": [79, 115, 108, 111], "logprob": -0.5}
    first = [
        {"token": "bytes:\\xc3", "bytes": [0xC3], "logprob": -1.0, "top_logprobs": [oslo]},
        {"token": "bytes:\\xa9", "bytes": [0xA9], "logprob": -2.0, "top_logprobs": [oslo]},
    ]
    last = [{"token": "!", "bytes": [33], "logprob": -1.0, "top_logprobs": [oslo]}]
    assert [delta["logprobs"] for delta in deltas] == [first, last]
    assert items[0]["content"][0]["logprobs"] == first + last, "an end of text is no token of the text"
    TypeAdapter(ResponseOutputItem).validate_python(items[0], strict=True)


THINKS = ThoughtStart(format=ThoughtFormat.TAGS, is_open=False)


@pytest.mark.parametrize(
    ("script", "end", "wanted"),
    [
        (
            ("<think>\nI ", "see.\n</think>\n\nYes", "."),
            FinishReason.STOP,
            [("reasoning", "I see.", "completed"), ("message", "Yes.", "completed")],
        ),
        (
            ("<think>\nI see.\n</think>", CALL),
            FinishReason.STOP,
            [("reasoning", "I see.", "completed"), ("function_call", ARGUMENTS, "completed")],
        ),
        (
            ("<think>\nI see.\n</think>", ""),
            FinishReason.STOP,
            [("reasoning", "I see.", "completed"), ("message", "", "completed")],
        ),
        (("<think>\nI see", "."), FinishReason.LENGTH, [("reasoning", "I see.", "incomplete")]),
        (("Yes", "."), FinishReason.STOP, [("message", "Yes.", "completed")]),
    ],
)
def test_a_thought_is_an_item_of_its_own(
    script: Script, end: FinishReason, wanted: list[tuple[str, str, str]]
) -> None:
    service = FakeService(script)
    service.thought, service.end = THINKS, end
    whole = post(service, PATH, input="Hello", tools=[WEATHER], reasoning={"effort": "medium"})
    Response.model_validate_json(whole.body, strict=True)
    output = whole.json["output"]
    assert [(*each, item["status"]) for each, item in zip(said(output), output, strict=True)] == wanted
    assert whole.json["reasoning"]["effort"] == "medium"
    events = events_of(post(service, PATH, input="Hello", tools=[WEATHER], stream=True))
    assert unnamed(put_together(events)) == unnamed(output)

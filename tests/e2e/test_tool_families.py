"""Calls of families without weights here: scripted token ids through the real constraint, parser and SSE."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.http.door import FakeService, post
from tests.prepare.family_vocabulary import write_family_vocabulary
from tests.prepare.test_conversation import TEMPLATES
from tests.prepare.test_tool_grammar import FAMILY, NOW, PERSON, RIGHT, WEATHER, answer, tools_constraint

from takeoff.call_formats import SYNTAX, CallFormat
from takeoff.engine.constraint import ConstraintCompiler
from takeoff.engine.text_stream import TextStream
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def families(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("families") / "vocabulary.gguf"
    write_family_vocabulary(smollm2_path, path)
    return Tokenizer(str(path))


@pytest.mark.parametrize("format_", CallFormat)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_token_ids_become_calls(families: Tokenizer, format_: CallFormat, choice: str) -> None:
    families.chat_template = TEMPLATES[FAMILY[format_]]
    calls = [RIGHT, ("now", "{}")] if SYNTAX[format_].between is not None else [RIGHT]
    pieces = completed(families, answer(format_, *calls), choice)
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [{"type": "function", "function": function} for function in (WEATHER, NOW)],
        "tool_choice": choice,
    }
    service = FakeService(pieces)
    service.call_format = format_
    message = post(service, "/v1/chat/completions", **body).json["choices"][0]["message"]
    assert message["content"] is None
    told = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    assert told == calls
    streamed: list[list[str]] = []
    *chunks, done = post(service, "/v1/chat/completions", **body, stream=True).events()
    assert done == "[DONE]"
    for chunk in chunks:
        for delta in chunk["choices"][0]["delta"].get("tool_calls", []):
            if "id" in delta:
                streamed.append([delta["function"]["name"], ""])
            streamed[delta["index"]][1] += delta["function"]["arguments"]
    assert [(name, arguments) for name, arguments in streamed] == calls
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("format_", CallFormat)
def test_token_ids_become_a_call_or_json(families: Tokenizer, format_: CallFormat) -> None:
    families.chat_template = TEMPLATES[FAMILY[format_]]
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Hello"}],
        "tools": [{"type": "function", "function": function} for function in (WEATHER, NOW)],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": PERSON}},
    }

    def said(text: str) -> dict[str, Any]:
        service = FakeService(completed(families, text, "auto", PERSON))
        service.call_format = format_
        return dict(post(service, "/v1/chat/completions", **body).json["choices"][0])

    called = said(answer(format_, RIGHT))
    assert called["finish_reason"] == "tool_calls"
    (call,) = called["message"]["tool_calls"]
    assert (call["function"]["name"], call["function"]["arguments"]) == RIGHT
    told = said('{"name": "weather", "friend": {"name": "Jo"}}')
    assert told["finish_reason"] == "stop"
    assert told["message"]["content"] == '{"name": "weather", "friend": {"name": "Jo"}}'
    assert "tool_calls" not in told["message"]


def completed(tokenizer: Tokenizer, text: str, choice: str, response: Any = None) -> list[str]:
    """What the engine sends of a model that says `text`, each token of which its constraint allows."""
    vocabulary = tokenizer.for_constraints()
    constraint = tools_constraint([WEATHER, NOW], choice, response=response)
    grammar = ConstraintTrial(vocabulary, tokenizer).grammar(constraint)
    state = ConstraintCompiler(vocabulary, tokenizer.n_vocab).compile(grammar)
    stream = TextStream(lambda each: b"" if tokenizer.is_control(each) else tokenizer.piece(each), (), ())
    pieces = []
    for token_id in tokenizer.tokenize(text, parse_special=True):
        assert not state.blocked()[token_id], (pieces, tokenizer.piece(token_id))
        state.consume(token_id)
        pieces.append(stream.push(token_id, may_stop=True)[0])
    assert state.is_finished or not state.blocked()[tokenizer.tokenize("<|im_end|>", parse_special=True)[0]]
    return pieces

"""Calls told apart from text: however it is cut into pieces, the same comes out."""

from __future__ import annotations

import random

import pytest

from takeoff.call_formats import SYNTAX, CallFormat
from takeoff.http.openai.calls import Arguments, Begun, CallParser

CALLS = [
    ("weather", '{"city": "Genève}\\"{"}'),
    ("now", "{}"),
    ("f-1_b", '{"a": [{"b": "]"}, [1]], "c": {}}'),
]
Read = tuple[str, list[tuple[str, str]]]


def read(format_: CallFormat, *pieces: str) -> Read:
    """The content, and the calls with their arguments."""
    parser = CallParser(SYNTAX[format_])
    content, calls = "", []
    for piece in [each for text in pieces for each in parser.push(text)] + list(parser.end()):
        match piece:
            case Begun(name):
                calls.append((name, ""))
            case Arguments(text):
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
            case str():
                content += piece
    return content, calls


def written(format_: CallFormat, calls: list[tuple[str, str]]) -> str:
    syntax = SYNTAX[format_]
    bodies = [f"{syntax.opening}{name}{syntax.middle}{text}{syntax.closing}" for name, text in calls]
    return syntax.begin + (syntax.between or "").join(bodies) + syntax.end


@pytest.mark.parametrize("format_", CallFormat)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_calls_are_read_as_they_are_written(format_: CallFormat, size: int) -> None:
    calls = CALLS if SYNTAX[format_].between is not None else CALLS[:1]
    text = written(format_, calls)
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert read(format_, *pieces) == ("", calls)


CASES: list[tuple[CallFormat, str, str, list[tuple[str, str]]]] = [
    (CallFormat.HERMES, "Let me see.\n\n" + written(CallFormat.HERMES, CALLS) + "\n", "Let me see.", CALLS),
    (
        CallFormat.HERMES,
        written(CallFormat.HERMES, CALLS[:1]) + "\n\nDone, I think. \n",
        "Done, I think.",
        CALLS[:1],
    ),
    (CallFormat.HERMES, " no call \n", " no call \n", []),
    (CallFormat.HERMES, "a <tool_cal", "a <tool_cal", []),
    (CallFormat.HERMES, 'a <tool_call>{"nam', 'a<tool_call>{"nam', []),
    (CallFormat.HERMES, "<tool_call>oops</tool_call> b", "<tool_call>oops</tool_call> b", []),
    (CallFormat.HERMES, '<tool_call> { "name":"f","arguments":{"a":1', "", [("f", '{"a":1')]),
    (CallFormat.LLAMA3, '{"name": "f", "parameters": {"a": 1}}', "", [("f", '{"a": 1}')]),
    (CallFormat.LLAMA3, '{"name": "f"}', '{"name": "f"}', []),
    (CallFormat.LLAMA3, 'Call {"name": "f", "parameters": {}}', 'Call {"name": "f", "parameters": {}}', []),
    (CallFormat.LLAMA3, '{"name": "f", "parameters": {}} and more', "", [("f", "{}")]),
    (CallFormat.MISTRAL, ' [ {"name": "f", "arguments": {}} ]', "", [("f", "{}")]),
    (CallFormat.MISTRAL, '[{"title": "f"}]', '[{"title": "f"}]', []),
    (CallFormat.JSON, '{"name": "f", "arguments": "x"}', '{"name": "f", "arguments": "x"}', []),
    (CallFormat.JSON, "", "", []),
    (CallFormat.JSON, '{"name": "f", "arguments": {}}\n{"name": "f", "arg', "", [("f", "{}")]),
    (CallFormat.HERMES, written(CallFormat.HERMES, CALLS[:1]) + '\n<tool_call>{"na', "", CALLS[:1]),
]


@pytest.mark.parametrize(("format_", "text", "content", "calls"), CASES)
def test_text_and_calls_are_told_apart(
    format_: CallFormat, text: str, content: str, calls: list[tuple[str, str]]
) -> None:
    assert read(format_, text) == (content, calls)
    assert read(format_, *text) == (content, calls)


def test_any_cutting_of_any_text_gives_the_same() -> None:
    rng = random.Random(5)
    bits = [
        "<tool_call>", "</tool_call>", "\n", " ", "{", "}", "[", "]", '"name"', ": ", '"', ", ", "<tool",
        "f", "\\", "text", '"arguments"', '{"name": "f", "arguments": ', '{"a": "}"}',
        '{"name": "f", "parameters": {}}',
        *(written(format_, CALLS[:2]) for format_ in CallFormat),
    ]  # fmt: skip
    for _ in range(4_000):
        text = "".join(rng.choices(bits, k=rng.randrange(12)))
        cuts = sorted(rng.choices(range(len(text) + 1), k=rng.randrange(9)))
        pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        for format_ in CallFormat:
            assert read(format_, *pieces) == read(format_, text), (format_, text, pieces)

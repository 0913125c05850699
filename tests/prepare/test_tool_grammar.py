"""Answers that call tools, in the formats of the families, through the real grammar on a real vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from llguidance import LLMatcher
from tests.prepare.family_vocabulary import write_family_vocabulary
from tests.prepare.test_conversation import TEMPLATES

from takeoff.call_formats import SYNTAX, CallFormat, call_format_of
from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
NOW = {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}
RIGHT, WRONG, UNKNOWN = ("weather", '{"city": "Rome"}'), ("weather", '{"town": "Rome"}'), ("wether", "{}")
FAMILY = {
    CallFormat.HERMES: "chatml",
    CallFormat.LLAMA3: "llama3",
    CallFormat.MISTRAL: "mistral",
    CallFormat.JSON: "zephyr",
}
Accepts = Callable[..., bool]


@pytest.fixture(scope="module")
def families(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("families") / "vocabulary.gguf"
    write_family_vocabulary(smollm2_path, path)
    return Tokenizer(str(path))


@pytest.fixture(scope="module")
def accepts(families: Tokenizer) -> Accepts:
    """Whether a whole answer is one that the grammar lets a model end with."""
    vocabulary = families.for_constraints()

    def check(
        format_: CallFormat, text: str, choice: str = "auto", *, parallel: bool = True, response: Any = None
    ) -> bool:
        families.chat_template = TEMPLATES[FAMILY[format_]]
        constraint = tools_constraint([WEATHER, NOW], choice, parallel=parallel, response=response)
        grammar = ConstraintTrial(vocabulary, families).grammar(constraint)
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        assert not matcher.is_error(), matcher.get_error()
        ids = families.tokenize(text, parse_special=True)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    return check


def tools_constraint(
    tools: list[Any], choice: str, *, parallel: bool = True, response: Any = None
) -> Constraint:
    source: dict[str, Any] = {
        "tools": tools,
        "is_required": choice == "required",
        "is_parallel": parallel,
    }
    if response is not None:
        source["response"] = json.dumps(response)
    return Constraint(ConstraintKind.TOOLS, json.dumps(source))


def answer(format_: CallFormat, *calls: tuple[str, str]) -> str:
    syntax = SYNTAX[format_]
    bodies = [f"{syntax.opening}{name}{syntax.middle}{text}{syntax.closing}" for name, text in calls]
    return syntax.control_text + syntax.begin + (syntax.between or "").join(bodies) + syntax.end


def test_the_format_is_the_templates() -> None:
    assert {name: call_format_of(source) for name, source in TEMPLATES.items()} == {
        "chatml": CallFormat.HERMES,
        "llama3": CallFormat.LLAMA3,
        "mistral": CallFormat.MISTRAL,
        "deepseek": CallFormat.JSON,
        "gemma": CallFormat.JSON,
        "phi": CallFormat.JSON,
        "zephyr": CallFormat.JSON,
    }
    assert call_format_of(None) is CallFormat.JSON


@pytest.mark.parametrize(
    "template", ["{{ tools }}<tool_call>\n<function=", "{{ tools }}[TOOL_CALLS]f[ARGS]{}"]
)
def test_a_way_that_only_shares_a_tag_with_a_format_is_another(template: str) -> None:
    assert call_format_of(template) is CallFormat.JSON


@pytest.mark.parametrize("format_", CallFormat)
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_calls_are_right_or_they_cannot_be_said(accepts: Accepts, format_: CallFormat, choice: str) -> None:
    assert accepts(format_, answer(format_, RIGHT), choice)
    assert accepts(format_, answer(format_, ("now", "{}")), choice)
    assert not accepts(format_, answer(format_, WRONG), choice)
    assert not accepts(format_, answer(format_, UNKNOWN), choice)
    assert not accepts(format_, answer(format_, ("weather", '{"city": "Rome", "days": 10}')), choice)
    assert not accepts(format_, answer(format_, RIGHT)[:-2], choice)


@pytest.mark.parametrize("format_", CallFormat)
def test_text_may_stand_in_place_of_a_call_unless_one_is_required(
    accepts: Accepts, format_: CallFormat
) -> None:
    for text in ("It is 12 °C.\n", '{"title": "x"}', "[1]", "a < b > c </tool_call>", ""):
        assert accepts(format_, text, "auto")
        assert not accepts(format_, text, "required")


@pytest.mark.parametrize("format_", CallFormat)
def test_several_calls_where_the_format_has_them_and_the_client_wants_them(
    accepts: Accepts, format_: CallFormat
) -> None:
    several = answer(format_, RIGHT, ("now", "{}"), RIGHT)
    has_several = SYNTAX[format_].between is not None
    for choice in ("auto", "required"):
        assert accepts(format_, several, choice) is has_several
        assert not accepts(format_, several, choice, parallel=False)
        assert not accepts(format_, answer(format_, RIGHT, WRONG), choice)


def test_text_goes_before_calls_of_a_format_that_marks_them(accepts: Accepts) -> None:
    calls = answer(CallFormat.HERMES, RIGHT)
    for parallel in (True, False):
        assert accepts(CallFormat.HERMES, "Let me see.\n" + calls, parallel=parallel)
        assert not accepts(
            CallFormat.HERMES, "Let me see.\n" + answer(CallFormat.HERMES, WRONG), parallel=parallel
        )
    assert not accepts(CallFormat.HERMES, "Let me see.\n" + calls, "required")
    assert accepts(CallFormat.HERMES, calls + "\nDone.")


@pytest.mark.parametrize("format_", [CallFormat.LLAMA3, CallFormat.MISTRAL, CallFormat.JSON])
def test_a_call_spelt_in_another_way_is_held_to_the_schema_too(accepts: Accepts, format_: CallFormat) -> None:
    syntax = SYNTAX[format_]
    spelt = ' {"name" :"' if not syntax.begin else '[ {"name" :"'
    rest = syntax.middle + '{"city": "Rome"}' + syntax.closing + syntax.end
    assert accepts(format_, spelt + "weather" + rest)
    assert not accepts(format_, spelt + "wether" + rest)
    assert not accepts(
        format_, spelt + "weather" + syntax.middle + '{"town": 1}' + syntax.closing + syntax.end
    )


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "friend": {"$ref": "#"}},
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("format_", CallFormat)
def test_json_of_a_schema_may_stand_in_place_of_calls(accepts: Accepts, format_: CallFormat) -> None:
    def check(text: str, **more: Any) -> bool:
        return accepts(format_, text, response=PERSON, **more)

    for text in ('{"name": "weather"}', '{"name":"Jo","friend":{"name": "n"}}', '{\n"name": "a"}'):
        assert check(text)
    for text in ('{"friend": {"name": "n"}}', '{"name": "weather", "arguments": {}}', "Hello", ""):
        assert not check(text)
    several = answer(format_, RIGHT, ("now", "{}"))
    assert check(answer(format_, RIGHT))
    assert check(several) is (SYNTAX[format_].between is not None)
    assert not check(several, parallel=False)
    for call in (WRONG, UNKNOWN):
        assert not check(answer(format_, call))
    assert not check("Let me see.\n" + answer(format_, RIGHT))
    assert not check(answer(format_, RIGHT) + '{"name": "a"}')


OPEN = {"type": "object"}
LIKE_A_CALL = {**PERSON, "properties": {"name": {}, "arguments": {}, "parameters": {}}}
MAY_BE = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/a"}]}
OBJECTS = {CallFormat.LLAMA3, CallFormat.JSON}


@pytest.mark.parametrize("format_", CallFormat)
@pytest.mark.parametrize(
    ("response", "unclear"),
    [
        (OPEN, OBJECTS),
        ({}, {*OBJECTS, CallFormat.MISTRAL}),
        (LIKE_A_CALL, OBJECTS),
        ({**MAY_BE, "$defs": {"a": OPEN}}, OBJECTS),
        ({**MAY_BE, "$defs": {"a": PERSON | {"properties": {"name": {}}}}}, set()),
        ({"enum": ["a", {"name": "a"}]}, set()),
        ({"const": [1]}, {CallFormat.MISTRAL}),
        ({"type": ["number", "array"]}, {CallFormat.MISTRAL}),
    ],
)
def test_json_that_could_be_taken_for_a_call_is_refused(
    accepts: Accepts, format_: CallFormat, response: Any, unclear: set[CallFormat]
) -> None:
    if format_ not in unclear:
        assert accepts(format_, answer(format_, RIGHT), response=response)
        return
    with pytest.raises(InvalidRequest, match="can't be told from a call") as caught:
        accepts(format_, "", response=response)
    assert caught.value.param == "tools"


def test_a_tool_whose_schema_cannot_be_enforced_is_refused_by_its_name(
    families: Tokenizer, accepts: Accepts
) -> None:
    trial = ConstraintTrial(families.for_constraints(), families)
    bad = {"name": "frog", "parameters": {"type": "object", "properties": {"a": {"type": "frog"}}}}
    with pytest.raises(InvalidRequest, match="frog") as caught:
        trial.grammar(tools_constraint([WEATHER, bad], "auto"))
    assert caught.value.param == "tools"

"""Grammars of clients, in Lark's syntax and GBNF, tried on the default model's vocabulary."""

from __future__ import annotations

from pathlib import Path

import pytest
from llguidance import LLMatcher

from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

LARK = r"""
start: sum
sum: NUMBER ("+" NUMBER)*
NUMBER: /[0-9]{1,3}/
"""
GBNF = r"""
root ::= number ("+" number)*
number ::= [0-9]+
"""


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    return Tokenizer(str(smollm2_path))


@pytest.fixture(scope="module")
def trial(tokenizer: Tokenizer) -> ConstraintTrial:
    return ConstraintTrial(tokenizer.for_constraints())


@pytest.mark.parametrize("source", [LARK, GBNF])
def test_a_grammar_takes_what_it_describes(trial: ConstraintTrial, tokenizer: Tokenizer, source: str) -> None:
    grammar = trial.grammar(Constraint(ConstraintKind.GRAMMAR, source))
    vocabulary = tokenizer.for_constraints()
    for text, is_right in (("12+3+456", True), ("7", True), ("1+", False), ("+1", False), ("a", False)):
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        ids = tokenizer.tokenize(text, parse_special=False)
        assert (matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()) is is_right, text


WITH_SCHEMA = r"""
start: "%json [" answer "]"  // %json {
answer: %json {"type": "object", "properties": {"a/b": {"type": "integer"}}, "required": ["a/b"],
    "additionalProperties": false} | /no|%json/
"""


def test_a_schema_in_a_grammar_is_kept_as_others_are(trial: ConstraintTrial, tokenizer: Tokenizer) -> None:
    grammar = trial.grammar(Constraint(ConstraintKind.GRAMMAR, WITH_SCHEMA))
    vocabulary = tokenizer.for_constraints()
    for text, is_right in (
        ('{"a/b":1}', True),
        ("no", True),
        ("%json", True),
        ('{"a/b": 9007199254740992}', False),  # no double of its own
        ('{"a/b":' + " " * 9 + "1}", False),  # more blanks than elsewhere
        (r'{"\u0061/b":1}', False),
    ):
        matcher = LLMatcher(vocabulary, grammar, log_level=0)
        ids = tokenizer.tokenize(f"%json [{text}]", parse_special=False)
        assert (matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()) is is_right, text


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("", "as GBNF: No 'root' rule found"),
        ("start: nothing", "can't be enforced"),
        ("root ::= [0-9", "as GBNF"),
        ("root ::= (" * 5_000, "can't be used"),
        ('%llguidance {"allow_invalid_utf8": true}\nstart: "a"', "%llguidance can't be used here"),
        ('start: %json {"x-guidance": {}}', "x-guidance can't be used here"),
        ('start: %json {"pattern": "(?=a)"}', "lookahead"),
        ('start: %json {"propertys": {}}', '"propertys" can\'t be enforced'),
        ("start: %json {", "can't be used"),
        ('start: "a"' + " " * 100_000, "it has 100010 characters, over 100000"),
    ],
)
def test_a_grammar_that_cannot_be_used_is_refused(trial: ConstraintTrial, source: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        trial.grammar(Constraint(ConstraintKind.GRAMMAR, source))
    assert says in caught.value.message
    assert caught.value.param == "grammar"

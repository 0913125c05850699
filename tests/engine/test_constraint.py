"""Constraints on real vocabularies: what ends with stop matches, whatever the model would rather say."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from tests.engine.real import RealEngine

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.engine.sampler import Sampler, SamplingState
from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import Submit
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind, FinishReason, SamplingParams

REGEXES = (
    r"[0-9]{4}",
    r"^(red|green|blue)$",
    r"[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8}){1,2}",
    r"([0-9]{1,3}\.){3}[0-9]{1,3}",
    r"é?[äöü]{2,5}😀?",
    r"a|ab|abc",
    r"(yes|no)(, (yes|no)){0,3}\.",
    r"",
    r"\w{1,9}\d\s?\W",
    r"(?i)ab[c-e]{1,3}",
    r"[^a-z]{1,5}|^x$",
    r"(a+?)(?:b|c){2}.",
)
SCHEMAS: tuple[Any, ...] = (
    {"type": "integer", "minimum": 5, "maximum": 120},
    {"enum": ["cat", "dog", 3, None]},
    {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    {"type": "string", "pattern": r"^\W{1,3}$"},
    {"type": "string", "pattern": r"[0-9]{2}", "maxLength": 6},
    {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "maxProperties": 2},
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "born": {"type": "string", "format": "date"},
            "pet": {"$ref": "#/$defs/pet"},
        },
        "required": ["name", "pet"],
        "additionalProperties": False,
        "$defs": {
            "pet": {
                "oneOf": [
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "maximum": 9}},
                        "required": ["kind", "lives"],
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "properties": {"kind": {"const": "dog"}, "good": {"type": "boolean"}},
                        "required": ["kind"],
                        "additionalProperties": False,
                    },
                ]
            }
        },
    },
)
NEVER = dict.fromkeys(range(1_000), -1e9)


def regex(source: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, source)


def schema(value: Any) -> Constraint:
    return Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(value))


def assert_matches(constraint: Constraint, text: str) -> None:
    if constraint.kind is ConstraintKind.REGEX:
        assert re.fullmatch(constraint.source, text), (constraint.source, text)
    else:
        jsonschema.validate(json.loads(text), json.loads(constraint.source))


ALL = [*map(regex, REGEXES), *map(schema, SCHEMAS)]


@pytest.fixture(scope="module", params=["smollm2_path", "gemma_path"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return Tokenizer(str(request.getfixturevalue(request.param)))


@pytest.fixture(scope="module")
def trial(smollm2_path: Path) -> ConstraintTrial:
    return ConstraintTrial(Tokenizer(str(smollm2_path)).for_constraints())


def test_random_choices_that_end_match(tokenizer: Tokenizer) -> None:
    guidance = tokenizer.for_constraints()
    trial = ConstraintTrial(guidance)
    compiler = ConstraintCompiler(guidance, tokenizer.n_vocab)
    ends = set(guidance.eos_tokens)
    sampler = Sampler(tokenizer.n_vocab, sorted(ends))
    chance = np.random.default_rng(3)
    num_ended = 0
    for constraint in ALL:
        grammar = trial.grammar(constraint)
        for seed in range(12):
            params = SamplingParams(temperature=1.0, seed=seed, min_new_tokens=3 * (seed % 2))
            state = SamplingState(params, [], tokenizer.n_vocab, compiler.compile(grammar))
            assert state.constraint is not None
            data = b""
            for _ in range(150):
                row = chance.normal(0, 3, (1, tokenizer.n_vocab)).astype(np.float32)
                row[0, sorted(ends)] += 6  # random text seldom wants to end
                (token_id,) = sampler.sample(row, [state])
                assert token_id is not None, (constraint, data)
                state.append(token_id)
                has_ended = token_id in ends
                data += b"" if has_ended else tokenizer.piece(token_id)
                if has_ended or state.constraint.is_finished:
                    assert_matches(constraint, data.decode())
                    assert state.constraint.accepts(data.decode())
                    num_ended += 1
                    break
    assert num_ended > 0.8 * 12 * len(ALL)


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, n_slots=8, n_ctx_slot=512)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def compiler(engine: RealEngine) -> ConstraintCompiler:
    return ConstraintCompiler(engine.kernels.constraint_tokenizer(), engine.kernels.n_vocab)


class Asked:
    """Requests to one engine, numbered."""

    def __init__(
        self, engine: RealEngine, compiler: ConstraintCompiler, trial: ConstraintTrial, prompt: list[int]
    ) -> None:
        self.engine, self._compiler, self._trial = engine, compiler, trial
        self._prompt = prompt
        self._next = random.randrange(10**9)

    def submit(self, constraint: Constraint | None, **params: Any) -> int:
        self._next += 1
        sampling = SamplingParams(**{"temperature": 0.0, "seed": 0, "max_new_tokens": 120} | params)
        submit = Submit(self._next, self._prompt, sampling, "")
        state = self._compiler.compile(self._trial.grammar(constraint)) if constraint else None
        self.engine.engine.submit(submit, state)
        return self._next

    def token(self, text: str) -> int:
        pieces = [self.engine.kernels.piece(n) for n in range(self.engine.kernels.n_vocab)]
        return pieces.index(text.encode())

    def tokens_of_last(self) -> list[int]:
        return [each for event in self.engine.events[self._next] for each in event.token_ids]

    def complete(self, constraint: Constraint, **params: Any) -> tuple[str, FinishReason | None]:
        number = self.submit(constraint, **params)
        self.engine.run_until_idle()
        return self.engine.text(number), self.engine.finish_reason(number)


@pytest.fixture
def asked(
    engine: RealEngine, compiler: ConstraintCompiler, trial: ConstraintTrial, smollm2_path: Path
) -> Asked:
    prompt = Tokenizer(str(smollm2_path)).tokenize("Tell me about a pet in a few words:", parse_special=False)
    return Asked(engine, compiler, trial, prompt)


def test_many_constraints_in_one_batch_give_what_each_gives_alone(asked: Asked) -> None:
    alone = [asked.complete(constraint) for constraint in ALL]
    free = asked.submit(None)
    numbers = [asked.submit(constraint) for constraint in ALL]
    asked.engine.run_until_idle()
    assert [asked.engine.text(number) for number in numbers] == [text for text, _ in alone]
    for constraint, (text, reason) in zip(ALL, alone, strict=True):
        assert reason is FinishReason.STOP, (constraint, text)
        assert_matches(constraint, text)
    assert "pet" in asked.engine.text(free)


def test_a_completion_cut_by_length_says_so(asked: Asked) -> None:
    text, reason = asked.complete(regex("[a-z ]{400,}"), max_new_tokens=4)
    assert reason is FinishReason.LENGTH
    assert not re.fullmatch("[a-z ]{400,}", text)


ENDLESS: tuple[Any, ...] = (
    {"type": "string"},
    {"type": "number"},
    {"type": "array", "items": {"type": "string"}},
    {"type": "array", "items": {"type": "integer"}, "minItems": 20},
    {"type": "object", "additionalProperties": {"type": "array"}, "required": ["a", "b"]},
    {
        "type": "object",
        "properties": {
            "notes": {
                "type": "array",
                "items": {"type": "object", "properties": {"text": {"type": "string"}}},
            },
            "when": {"type": "string", "format": "date-time"},
            "mail": {"type": "string", "format": "email"},
        },
        "required": ["notes", "when", "mail"],
    },
    {"$ref": "#/$defs/tree", "$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}}}},
)


@pytest.mark.parametrize("value", ENDLESS)
def test_what_would_never_end_ends_in_its_room_and_says_so(asked: Asked, value: Any) -> None:
    kernels = asked.engine.kernels
    pieces = enumerate(map(kernels.piece, range(kernels.n_vocab)))
    closing = [token_id for token_id, piece in pieces if re.search(rb'[]}",]', piece)]
    unwanted = dict.fromkeys((*closing, *kernels.eog_token_ids), -50.0)
    params = {"temperature": 1.0, "logit_bias": unwanted}
    numbers = [
        asked.submit(schema(value), **params, seed=seed, max_new_tokens=70 + 5 * seed) for seed in range(4)
    ]
    asked.engine.run_until_idle()
    for number in numbers:
        jsonschema.validate(json.loads(asked.engine.text(number)), value)
    assert set(map(asked.engine.finish_reason, numbers)) == {FinishReason.LENGTH}


def test_what_ends_in_time_is_not_led(asked: Asked) -> None:
    value = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    free, reason = asked.complete(schema(value), logit_bias={asked.token(","): -1e9})
    assert reason is FinishReason.STOP
    num_tokens = len(asked.tokens_of_last())
    again = asked.complete(schema(value), logit_bias={asked.token(","): -1e9}, max_new_tokens=num_tokens)
    assert again == (free, FinishReason.STOP)


def test_a_room_that_no_way_fits_in_is_used_to_its_end(asked: Asked) -> None:
    value = {"type": "array", "items": {"type": "boolean"}, "minItems": 100}
    text, reason = asked.complete(schema(value), max_new_tokens=30)
    assert reason is FinishReason.LENGTH
    assert text.startswith("[")
    text, _ = asked.complete(schema(value), max_new_tokens=260)
    jsonschema.validate(json.loads(text), value)


def test_a_stop_string_counts_only_where_the_constraint_may_end(asked: Asked) -> None:
    assert asked.complete(regex("ab{3}c{3}d"), stop=("b", "c")) == ("abbbcccd", FinishReason.STOP)
    assert asked.complete(regex("ab{3}(c{3}d)?"), stop=("c",), min_new_tokens=5)[0] in ("abbb", "abbbcccd")
    text, reason = asked.complete(regex("(xyz){2,10}"), stop=("zx",))
    assert reason is FinishReason.STOP
    assert re.fullmatch("(xyz){2,10}", text)


def test_other_bans_yield_where_they_would_leave_nothing(asked: Asked) -> None:
    assert asked.complete(regex("(1){6}"), no_repeat_ngram_size=1) == ("111111", FinishReason.STOP)
    assert asked.complete(regex("[0-9]{2}"), min_new_tokens=20)[1] is FinishReason.STOP
    assert asked.complete(regex("[0-9]{2}"), ignore_eos=True)[1] is FinishReason.STOP
    text, reason = asked.complete(regex("[a-z]{3}"), logit_bias=NEVER)
    assert (reason, len(text)) == (FinishReason.STOP, 3)


def test_a_grammar_without_a_way_on_fails_and_harms_nobody(asked: Asked) -> None:
    neighbour = asked.submit(regex("[0-9]{40}"))
    dead = asked.submit(regex("[0-9]{40}"))
    for _ in range(6):
        asked.engine.engine.step()
    seq = asked.engine.engine._scheduler.find(dead)
    assert seq is not None
    assert seq.sampling.constraint is not None
    seq.sampling.constraint.consume(asked.token("x"))  # what the grammar can't take
    asked.engine.run_until_idle()
    assert asked.engine.finish_reason(dead) is FinishReason.FAILED
    assert "constraint" in (asked.engine.events[dead][-1].error or "")
    assert re.fullmatch("[0-9]{40}", asked.engine.text(neighbour))


@pytest.mark.parametrize(
    ("constraint", "why"),
    [
        (regex("("), "not a regular expression: missing )"),
        (regex("(?=a)b"), "lookahead"),
        (regex("x" * 8_193), "at most 8,192 characters, got 8,193"),
        (regex("a++b"), "possessive"),
        (regex(r"(a)\1"), "backreference"),
        (regex(r"a\b"), "word boundary"),
        (schema({"type": "string", "pattern": "(?=a)b"}), "lookahead"),
        (schema({"not": {"pattern": "^x"}}), '"not"'),
        (schema({"type": "array", "uniqueItems": True}), '"uniqueItems"'),
        (schema({"if": {"pattern": "^x"}, "then": False}), '"if"'),
        (schema({"type": "string", "format": "phone"}), "Unknown format: phone"),
        (schema({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}), "oneOf"),
        (schema({"type": "string", "x-guidance": {"lenient": True}}), "x-guidance"),
        (schema({"$ref": "file:///etc/passwd"}), "no other is fetched"),
        (schema({"$ref": "http://localhost/x.json"}), "no other is fetched"),
        (schema(5), "a schema is an object"),
        (schema(False), "a schema is an object"),
        (Constraint(ConstraintKind.JSON_SCHEMA, "[" * 100_000), "can't be used"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "enforced"),
    ],
)
def test_what_can_not_be_enforced_is_refused_by_name(
    trial: ConstraintTrial, constraint: Constraint, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(why)) as refused:
        trial.grammar(constraint)
    assert refused.value.param == constraint.kind.value
    assert len(refused.value.message) < 600


def test_a_name_can_not_be_spelt_twice(compiler: ConstraintCompiler, trial: ConstraintTrial) -> None:
    named = schema({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]})
    state = compiler.compile(trial.grammar(named))
    assert state.accepts('{"a":1,"b":"x"}')
    assert not state.accepts('{"a":1,"\\u0061":"x"}')


def test_blanks_are_bounded(compiler: ConstraintCompiler, trial: ConstraintTrial) -> None:
    state = compiler.compile(trial.grammar(schema({"type": "object", "properties": {"a": {"type": "null"}}})))
    assert state.accepts('{ "a" : null }')
    assert state.accepts('{\n        "a": null}') is False
    assert state.accepts('{\n       "a": null}')

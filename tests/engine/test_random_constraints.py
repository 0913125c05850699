"""Hundreds of random constraints on a real vocabulary, random choices: what ends is what was asked for."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import jsonschema
import numpy as np
import pytest
from pydantic import BaseModel, Field, TypeAdapter
from tests.engine.random_constraints import random_conditional_schema, random_regex, random_schema

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.engine.sampler import Sampler, SamplingState
from takeoff.errors import InvalidRequest
from takeoff.prepare.constraint_trial import ConstraintTrial
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind, SamplingParams

SEED = 7
MAX_TOKENS = 300

FORMATS = jsonschema.FormatChecker(formats=())


def _format(name: str) -> Callable[[Callable[[str], object]], Callable[[str], object]]:
    """Register what a format means: a parser that raises ValueError, or a pattern's answer."""

    def register(parse: Callable[[str], object]) -> Callable[[str], object]:
        FORMATS.checks(name, raises=ValueError)(
            lambda value: not isinstance(value, str) or parse(value) is not None
        )
        return parse

    return register


_format("date")(datetime.date.fromisoformat)
_format("time")(datetime.time.fromisoformat)
_format("date-time")(datetime.datetime.fromisoformat)
_format("ipv4")(ipaddress.IPv4Address)
_format("ipv6")(ipaddress.IPv6Address)
_format("uuid")(uuid.UUID)
_format("uri")(lambda text: urlsplit(text).scheme or None)
_format("email")(lambda text: re.fullmatch(r"[^@\s]+@[^@\s]+", text))
_format("duration")(
    lambda text: re.fullmatch(r"P(?=.)(\d+W|(\d+Y)?(\d+M)?(\d+D)?(T(?=.)(\d+H)?(\d+M)?(\d+S)?)?)", text)
)
_format("hostname")(
    lambda text: re.fullmatch(
        r"(?=.{1,253}\Z)[a-z\d]([a-z\d-]{0,61}[a-z\d])?(\.[a-z\d]([a-z\d-]{0,61}[a-z\d])?)*", text, re.I
    )
)


class Decoder:
    """Completes constraints by chance, as a model without any sense would."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        guidance = tokenizer.for_constraints()
        n_vocab = tokenizer.n_vocab
        self.trial = ConstraintTrial(guidance)
        self._compiler = ConstraintCompiler(guidance, n_vocab)
        self._ends = sorted(guidance.eos_tokens)
        self._sampler = Sampler(n_vocab, self._ends)
        self._tokenizer = tokenizer
        chance = np.random.default_rng(SEED)
        self._rows = chance.normal(0, 3, (32, n_vocab)).astype(np.float32)
        self._rows[:, self._ends] += 9  # random text seldom wants to end
        closing = [n for n in range(n_vocab) if re.fullmatch(rb'[]}"]+', tokenizer.piece(n))]
        self._rows[:, closing] += 5
        self._rows[:, [n for n in range(n_vocab) if not tokenizer.piece(n).strip(b" \n")]] -= 4

    def complete(self, constraint: Constraint, seed: int) -> str | None:
        """A text that ended, which the constraint takes as a whole; None: cut by length, or a dead end."""
        params = SamplingParams(temperature=1.0, seed=seed, min_new_tokens=5 * (seed % 2))
        compiled = self._compiler.compile(self.trial.grammar(constraint))
        state = SamplingState(params, [], self._tokenizer.n_vocab, compiled)
        data = b""
        for step in range(MAX_TOKENS):
            row = self._rows[(seed * 7 + step) % len(self._rows)].copy()
            (token_id,) = self._sampler.sample(row[np.newaxis], [state])
            if token_id is None:
                return None
            state.append(token_id)
            has_ended = token_id in self._ends
            data += b"" if has_ended else self._tokenizer.piece(token_id)
            if has_ended or compiled.is_finished:
                text = data.decode()
                assert compiled.accepts(text)
                return text
        return None


@pytest.fixture(scope="module")
def decoder(smollm2_path: Path) -> Decoder:
    return Decoder(Tokenizer(str(smollm2_path)))


def schemas(seed: int, draw: Callable[[Random], Any]) -> Iterator[Any]:
    chance = Random(seed)
    while True:
        yield draw(chance)


def assert_valid(schema: Any, text: str) -> None:
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    errors = [error.message for error in validator.iter_errors(json.loads(text))]
    assert not errors, (json.dumps(schema), text, errors)


def test_random_expressions(decoder: Decoder) -> None:
    chance = Random(SEED)
    ended = Counter[str]()
    for number in range(300):
        source = random_regex(chance)
        re.compile(source)
        try:
            text = decoder.complete(Constraint(ConstraintKind.REGEX, source), number)
        except InvalidRequest:
            ended["refused"] += 1
            continue
        if text is None:
            ended["cut"] += 1
            continue
        ended["ended"] += 1
        assert re.fullmatch(source, text), (source, text)
    assert ended["ended"] >= 200, ended


@pytest.mark.parametrize("draw", [random_schema, random_conditional_schema])
def test_random_schemas(decoder: Decoder, draw: Callable[[Random], Any]) -> None:
    ended = Counter[str]()
    for number, schema in zip(range(300), schemas(SEED, draw), strict=False):
        try:
            text = decoder.complete(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)), number)
        except InvalidRequest:
            ended["refused"] += 1
            continue
        if text is None:
            ended["cut"] += 1
            continue
        ended["ended"] += 1
        assert_valid(schema, text)
    assert ended["ended"] >= 150, ended


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"  # a default: the schema does not require it, pydantic does
    lives: Annotated[int, Field(ge=1, le=9)]
    toys: list[Pet] = Field(default=[], max_length=2)


class Dog(BaseModel):
    kind: Literal["dog"]
    breed: Literal["pug", "husky"] | None = None
    born: datetime.date


class Fish(BaseModel):
    kind: Literal["fish", "shark"]
    length: Annotated[float, Field(gt=0, lt=30.5)]
    tank: Annotated[str, Field(pattern="^[A-Z]-[0-9]{2}$")]


Pet = Annotated[Cat | Dog | Fish, Field(discriminator="kind")]


class Owner(BaseModel):
    id: uuid.UUID
    name: Annotated[str, Field(min_length=1, max_length=20)]
    pets: Annotated[list[Pet], Field(min_length=1, max_length=3)]
    visits: dict[Annotated[str, Field(pattern="^v[0-9]$")], bool] = {}
    address: tuple[int, str] | None


Cat.model_rebuild()


@pytest.mark.parametrize("kind", [Owner, Pet, list[Cat]])
def test_models_of_pydantic(decoder: Decoder, kind: Any) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    schema = adapter.json_schema()
    num_ended = 0
    for seed in range(40):
        text = decoder.complete(Constraint(ConstraintKind.JSON_SCHEMA, json.dumps(schema)), seed)
        if text is not None:
            num_ended += 1
            assert_valid(schema, text)
            adapter.validate_json(text)
    assert num_ended > 20

"""What answers must match: expressions, schemas and grammars, from the trial to tokens in the engine."""

from __future__ import annotations

import json
import random
import string
from typing import Any

import numpy as np
from bench.fuzzing.nasty import TEXTS, changed, damaged, json_text
from bench.fuzzing.target import Found, Place
from tests.prepare.hostile_constraints import REGEXES, SCHEMAS
from tests.schemas.reading import read_schemas

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.ipc.messages import ConstraintTried, PrepareFailed, TryConstraint
from takeoff.prepare.answers import Answerer
from takeoff.prepare.tokenizer import Tokenizer
from takeoff.request import Constraint, ConstraintKind

STEPS = 12  # tokens that the engine takes of each that was accepted
ROOM = 16  # that they have: the last are led to the end
MAX_SOURCE = 20_000  # characters of a seed: longer ones are slow to change, and tests/prepare has them

_ATOMS = (
    *(
        ".",
        "a",
        "[a-z]",
        "[^a]",
        r"\d",
        r"\w",
        r"\S",
        r"\b",
        "^",
        "$",
        "(?i)",
        "(?:a|b)",
        "(a)",
        "(?P<n>a)",
        r"\1",
    ),
    *(
        "(?=a)",
        "(?!a)",
        "(?<=a)",
        "[",
        "]",
        "(",
        ")",
        "|",
        "\\",
        "[[:alpha:]]",
        r"\p{L}",
        r"\x41",
        r"\u0041",
        r"\N{DASH}",
    ),
    *(
        "(?x) a # b",
        "[z-a]",
        "[]",
        "[^]",
        "{",
        "}",
        "(a*)*b",
        "(a|a)*",
        "(a|aa)+",
        ".*.*.*",
        "\0",
        "\ud800",
        "é",
        "\U0010ffff",
    ),
)
_COUNTS = (
    "*",
    "+",
    "?",
    "*?",
    "*+",
    "{3}",
    "{2,}",
    "{,4}",
    "{1,1000000000}",
    "{0,65535}",
    "{9}{9}{9}",
    "{2,1}",
    "{-1}",
)
GRAMMARS = (
    'start: "a" b*\nb: /[a-z]{1,9}/ | c\nc: "x" start "y"',
    'start: item ("," item)*\nitem: NUMBER | TEXT\nNUMBER: /[0-9]+/\nTEXT: "\\"" /[^"]/ "\\""',
    'start: %json {"type": "object", "properties": {"a": {"type": "integer"}}}',
    'root ::= "a" (b | c)+\nb ::= [a-z]{2,5}\nc ::= "x"? root',
    "start: start start | ",
    'start: a\na: b\nb: a | "x"',
    'start: "a"{1,100000}',
    "start[max_tokens=5]: /.*/\n",
    'start: <|im_start|> "a" <[1,2-5]>\n%ignore / +/',
)
_PIECES = (
    *(
        "%json {",
        "%regex {",
        "%import common.INT\n",
        "%ignore /a/\n",
        "%llguidance {}",
        "%declare A\n",
        "::=",
        ":",
        "|",
    ),
    *(
        "/(a*)*b/",
        "/a{1,1000000000}/",
        "/./s",
        "//",
        "(",
        ")",
        "[",
        "]",
        "~3..5",
        "{3}",
        "{1,1000000}",
        "->",
        "\n",
        "<[1]>",
    ),
    *(
        "start",
        "start: ",
        "root ::= ",
        '"a"',
        '"\\ud800"',
        "'",
        "@",
        "#",
        "<|im_end|>",
        "[temperature=9]",
        "[lazy]",
        "&",
        "!",
    ),
)


class Constraints:
    """Constraints of one kind, asked as the service asks, and followed as the engine does."""

    limit_s = 2.0
    may_be_late = True  # a trial that is late is killed, and the client told
    memory_bytes: int | None = 2 << 30
    watches_caller = True

    def __init__(self, place: Place, kind: ConstraintKind) -> None:
        self._kind = kind
        tokenizer = Tokenizer(str(place.model))
        self._answerer = Answerer(tokenizer, tries_constraints=True)
        self._n_vocab = tokenizer.n_vocab
        self._vocabulary = tokenizer.for_constraints()
        schemas = [json.dumps(each.schema) for each in read_schemas()]
        schemas += [each if isinstance(each, str) else json.dumps(each) for each in SCHEMAS.values()]
        self._schemas = [each for each in schemas if len(each) < MAX_SOURCE]
        self._regexes = [each for each in REGEXES.values() if len(each) < 1_000]

    def make(self, chance: random.Random) -> bytes:
        match self._kind:
            case ConstraintKind.REGEX:
                written = self._regex(chance)
            case ConstraintKind.GRAMMAR:
                written = self._grammar(chance)
            case _:
                return self._schema(chance)
        data = written.encode("utf-8", "surrogatepass")
        return damaged(data, chance) if chance.random() < 0.4 else data

    def run(self, case: bytes) -> bool:
        constraint = Constraint(self._kind, case.decode("utf-8", "replace"))
        answer = self._answerer.answer(TryConstraint(1, constraint, None))
        if isinstance(answer, PrepareFailed):
            answer.error.encode()
            if answer.code != "invalid_request" and "memory" not in answer.error:
                raise Found(f"refused as {answer.code}", answer.error)
            return False
        assert isinstance(answer, ConstraintTried)
        self._follow(answer.grammar)
        return True

    def _follow(self, grammar: str) -> None:
        """Some steps in the engine, like those of a model that says anything that it may."""
        chance = np.random.default_rng(1)
        state = ConstraintCompiler(self._vocabulary, self._n_vocab).compile(grammar)
        state.room = ROOM
        for _ in range(STEPS):
            blocked = state.blocked()
            if state.error is not None or state.is_finished or blocked.all():
                return
            state.consume(state.fitting(int(chance.choice(np.flatnonzero(~blocked)))))

    def _regex(self, chance: random.Random) -> str:
        text = chance.choice(self._regexes) if chance.random() < 0.2 else ""
        for _ in range(chance.randint(1, 8)):
            atom = chance.choice(_ATOMS) if chance.random() < 0.8 else chance.choice(string.printable)
            if chance.random() < 0.15:
                atom = f"({text}|{atom})"[:2_000]
            text += atom + (chance.choice(_COUNTS) if chance.random() < 0.4 else "")
        return text

    def _grammar(self, chance: random.Random) -> str:
        text = chance.choice(GRAMMARS)
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            place = chance.randrange(len(text) + 1)
            pieces = _PIECES if chance.random() < 0.8 else (chance.choice(self._schemas)[:2_000], *TEXTS)
            text = text[:place] + chance.choice(pieces) + text[place:]
        return text

    def _schema(self, chance: random.Random) -> bytes:
        source = chance.choice(self._schemas)
        try:
            text = json_text(self._changed(json.loads(source), chance))
        except (ValueError, RecursionError):  # of a seed that is no JSON, or too deep for us
            return damaged(source.encode(), chance)
        return damaged(text, chance, 2) if chance.random() < 0.1 else text

    def _changed(self, tree: Any, chance: random.Random) -> Any:
        for _ in range(chance.choice((1, 1, 2, 3))):
            tree = changed(tree, chance)
        if chance.random() < 0.3:
            other = json.loads(json.dumps(chance.choice(read_seeds(self._schemas))))
            tree = {chance.choice(("allOf", "anyOf", "oneOf")): [tree, other]}
        if chance.random() < 0.1:
            tree = {chance.choice(("not", "if", "contains", "items", "propertyNames")): tree}
        return tree


def read_seeds(schemas: list[str]) -> list[object]:
    """Those that are short, to be put together."""
    return [json.loads(each) for each in schemas if len(each) < 100]


def regex(place: Place) -> Constraints:
    return Constraints(place, ConstraintKind.REGEX)


def schema(place: Place) -> Constraints:
    return Constraints(place, ConstraintKind.JSON_SCHEMA)


def grammar(place: Place) -> Constraints:
    return Constraints(place, ConstraintKind.GRAMMAR)

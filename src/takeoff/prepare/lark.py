"""A client's grammar, in Lark's syntax or GBNF, as llguidance takes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from llguidance.gbnf_to_lark import any_to_lark

MAX_GRAMMAR_CHARACTERS = 100_000
_OWN = ("%llguidance", "x-guidance")  # llguidance's settings: not a client's to make
# What a grammar is made of, so far that no `%json` is found inside of a text, an expression or a comment.
_PARTS = re.compile(r'"(?:\\.|[^"\\\n])*"|//[^\n]*|/(?:\\.|[^/\\\n])+/|%json\s*')

WrittenSchema = Callable[[Any], str]  # a schema as llguidance's `%json` takes it


def lark_of(source: str, written: WrittenSchema) -> str:
    """The grammar in Lark's syntax: what has `::=` in it is GBNF. Its start is the rule `start`, or `root`.

    A JSON schema in it, behind `%json`, is kept as others are.

    Raises:
        ValueError: it is too long, has settings in it, or is no GBNF; a schema in it can't be enforced.
    """
    if len(source) > MAX_GRAMMAR_CHARACTERS:
        raise ValueError(f"it has {len(source)} characters, over {MAX_GRAMMAR_CHARACTERS}")
    for name in _OWN:
        if name in source:
            raise ValueError(f"{name} can't be used here")
    try:
        lark = str(any_to_lark(source))
    except Exception as exc:  # the converter raises whatever comes to it
        raise ValueError(f"as GBNF: {exc}") from exc
    return _with_schemas(lark, written)


def _with_schemas(lark: str, written: WrittenSchema) -> str:
    """The grammar with each schema behind `%json` replaced by what is enforced."""
    done: list[str] = []
    place, decoder = 0, json.JSONDecoder()
    while (part := _PARTS.search(lark, place)) is not None:
        done.append(lark[place : part.end()])
        place = part.end()
        if part.group().startswith("%json"):
            schema, place = decoder.raw_decode(lark, place)
            done.append(written(schema))
    return "".join([*done, lark[place:]])

"""A client's regular expression or JSON schema, made a grammar and tried: hostile input.

The process around it bounds time and memory. What llguidance can't enforce it refuses by name:
`not`, `if`, `contains`, `uniqueItems`, `oneOf` whose branches aren't provably disjoint, ...
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from takeoff.errors import InvalidRequest
from takeoff.prepare.regex import search, whole_match
from takeoff.request import Constraint, ConstraintKind

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_CHARACTERS = 500_000
MAX_SCHEMA_DEPTH = 64
MAX_ERROR_CHARACTERS = 500

_VALUES = frozenset({"const", "enum", "default", "examples"})  # keywords whose values are no schemas
_OWN_KEY = "x-guidance"  # llguidance's settings inside a schema: not a client's to make
# Options that a schema can't change: overrides come after its own.
_OVERRIDES: JsonCompileOptions = {
    "whitespace_pattern": r"[ \n]{0,8}",  # unbounded, a small model may write blanks to the end
    "whitespace_flexible": True,
    "item_separator": ",",
    "key_separator": ":",
    "coerce_one_of": False,
    "lenient": False,
    # Never \u: a name spelt with it would be another to the grammar, and the same to who parses it.
    "json_allowed_escapes": 'nrbtf\\"',
}


class ConstraintTrial:
    """Tries constraints for one vocabulary."""

    def __init__(self, tokenizer: LLTokenizer) -> None:
        self._tokenizer = tokenizer

    def grammar(self, constraint: Constraint) -> str:
        """The grammar of `constraint`, which compiles and has a first token.

        The whole completion matches a regular expression, of Python's dialect.

        Raises:
            InvalidRequest: it can't be enforced; `param` is the constraint's kind.
        """
        param = constraint.kind.value
        try:
            grammar = self._written(constraint)
            matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
            if not matcher.is_error():
                mask = np.zeros(-(-self._tokenizer.vocab_size // 32), np.int32)
                matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
                if not mask.any():
                    raise InvalidRequest("nothing can match it", param=param)
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(_shortened(f"it can't be used: {exc}"), param=param) from exc
        if matcher.is_error():
            raise InvalidRequest(
                _shortened(f"it can't be enforced: {_without_state(matcher.get_error())}"), param=param
            )
        return grammar

    def _written(self, constraint: Constraint) -> str:
        if constraint.kind is ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(whole_match(constraint.source, constraint.kind.value))
        if len(constraint.source) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"it has {len(constraint.source)} characters, over {MAX_SCHEMA_CHARACTERS}")
        schema = _checked(json.loads(constraint.source), 0)
        if schema is True:
            schema = {}
        if not isinstance(schema, dict):
            raise ValueError(f"a schema is an object, got {json.dumps(schema)[:100]}")
        return LLMatcher.grammar_from_json_schema(schema, overrides=_OVERRIDES)


def _checked(value: Any, depth: int) -> Any:
    """A schema whose patterns are in llguidance's dialect; values that it compares with stay as they are."""
    if depth > MAX_SCHEMA_DEPTH:
        raise ValueError(f"it is nested more than {MAX_SCHEMA_DEPTH} deep")
    if isinstance(value, list):
        return [_checked(each, depth + 1) for each in value]
    if not isinstance(value, dict):
        return value
    if _OWN_KEY in value:
        raise ValueError(f"{_OWN_KEY} is not a keyword that can be used here")
    checked = {name: each if name in _VALUES else _checked(each, depth + 1) for name, each in value.items()}
    if isinstance(checked.get("pattern"), str):
        checked["pattern"] = search(checked["pattern"], ConstraintKind.JSON_SCHEMA.value)
    return checked


def _without_state(error: str) -> str:
    """llguidance's message without the dump of its state behind it."""
    return error.split("<state>")[0].strip()


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[:MAX_ERROR_CHARACTERS] + " ..."

"""A client's regular expression or JSON schema, made a grammar and tried: hostile input.

The process around it bounds time and memory. What can't be enforced is refused by name: by
`takeoff.prepare.json_schema`, or by llguidance, which compiles what that writes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from takeoff.call_formats import SYNTAX, call_format_of
from takeoff.errors import InvalidRequest
from takeoff.models.guidance import new_matcher
from takeoff.prepare.calls_or_json import calls_or_json
from takeoff.prepare.json_schema import OWN_KEY, enforceable
from takeoff.prepare.lark import lark_of
from takeoff.prepare.regex import whole_match
from takeoff.prepare.schema_places import SchemaError
from takeoff.prepare.thought_grammar import behind_thought, own_opening
from takeoff.prepare.tool_grammar import tool_grammar
from takeoff.request import Constraint, ConstraintKind
from takeoff.thoughts import ThoughtStart

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

MAX_SCHEMA_CHARACTERS = 500_000
MAX_ERROR_CHARACTERS = 500
_NOTHING = "NoExtensionBias"  # llguidance's name of it
NUM_WALKS, WALK_STEPS = 3, 24  # how far a grammar is followed before it is taken

# Options of a grammar. A schema's own are refused before.
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


class CallVocabulary(Protocol):
    """What calls of tools need of a tokenizer."""

    chat_template: str | None

    def find(self, text: str) -> int | None: ...

    def is_control(self, token_id: int) -> bool: ...


class ConstraintTrial:
    """Tries constraints for one vocabulary."""

    def __init__(self, tokenizer: LLTokenizer, vocabulary: CallVocabulary | None = None) -> None:
        """`vocabulary`: the same, with its chat template; without one no tool can be called."""
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary

    def grammar(self, constraint: Constraint, thought: ThoughtStart | None = None) -> str:
        """The grammar of `constraint`, which compiles and has a first token.

        The whole completion matches a regular expression, of Python's dialect; what follows `thought` does
        where one may come.

        Raises:
            InvalidRequest: it can't be enforced; `param` is the constraint's kind.
        """
        param = constraint.kind.value
        try:
            grammar = self._written(constraint, thought)
        except SchemaError as exc:
            raise InvalidRequest(_shortened(str(exc)), param=param) from exc
        except (ValueError, RecursionError) as exc:
            raise InvalidRequest(_shortened(f"it can't be used: {exc}"), param=param) from exc
        matcher = new_matcher(self._tokenizer, grammar)
        error = f"it can't be enforced: {matcher.get_error()}" if matcher.is_error() else None
        for seed in range(NUM_WALKS):
            error = error or self._walked_into(matcher.deep_copy(), np.random.default_rng(seed))
        if error is not None:
            raise InvalidRequest(_shortened(_without_state(error)), param=param)
        return grammar if thought is None else behind_thought(grammar, thought)

    def _walked_into(self, matcher: LLMatcher, chance: np.random.Generator) -> str | None:
        """What is wrong within some random steps: nothing can begin it, or its masks cost too much."""
        mask = np.zeros(-(-self._tokenizer.vocab_size // 32), np.int32)
        for step in range(WALK_STEPS):
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")
            is_at_end = not allowed.any() or _NOTHING in matcher.get_error()
            if matcher.is_error() and not is_at_end:
                return f"it can't be followed: {matcher.get_error()}"
            if is_at_end:
                return None if step else "nothing can match it"
            allowed[self._tokenizer.eos_tokens] = 0
            if not allowed.any():
                return None
            matcher.consume_token(int(chance.choice(np.flatnonzero(allowed))))
            if matcher.is_stopped() and not matcher.is_error():
                return None
        return None

    def _written(self, constraint: Constraint, thought: ThoughtStart | None) -> str:
        if constraint.kind is ConstraintKind.REGEX:
            return LLMatcher.grammar_from_regex(whole_match(constraint.source, constraint.kind.value))
        if constraint.kind is ConstraintKind.GRAMMAR:
            return LLMatcher.grammar_from_lark(
                lark_of(constraint.source, lambda schema: _written(enforceable(schema)))
            )
        if len(constraint.source) > MAX_SCHEMA_CHARACTERS:
            raise ValueError(f"it has {len(constraint.source)} characters, over {MAX_SCHEMA_CHARACTERS}")
        source = json.loads(constraint.source)
        if constraint.kind is ConstraintKind.TOOLS:
            return LLMatcher.grammar_from_lark(self._tools(thought, **source))
        return LLMatcher.grammar_from_json_schema(enforceable(source), overrides=_OVERRIDES)

    def _tools(
        self,
        thought: ThoughtStart | None,
        *,
        tools: list[dict[str, Any]],
        is_required: bool,
        is_parallel: bool,
        response: str | None = None,
    ) -> str:
        """The grammar of an answer that calls `tools`, in the format of the model's template.

        Raises:
            ValueError: a tool's schema can't be enforced; its name is told.
        """
        assert self._vocabulary is not None, "given where tools are called"
        checked = [
            {
                "name": tool["name"],
                "parameters": self._enforced(tool["parameters"], f"the parameters of {tool['name']!r}"),
            }
            for tool in tools
        ]
        syntax = SYNTAX[call_format_of(self._vocabulary.chat_template)]
        control_id = self._vocabulary.find(syntax.control_text) if syntax.control_text else None
        if control_id is not None and not self._vocabulary.is_control(control_id):
            control_id = None
        if response is not None:
            return calls_or_json(
                checked,
                self._enforced(json.loads(response), "the response's schema"),
                syntax,
                control_id=control_id,
                is_parallel=is_parallel,
                written=_written,
            )
        return tool_grammar(
            checked,
            syntax,
            control_id=control_id,
            is_required=is_required,
            is_parallel=is_parallel,
            never_first=own_opening(thought),
            written=_written,
        )

    def _enforced(self, schema: Any, what: str) -> dict[str, Any]:
        """A schema of `what`, which the caller combines with others, as it can be enforced.

        Raises:
            ValueError: it can't.
        """
        try:
            became = enforceable(schema)
            grammar = LLMatcher.grammar_from_json_schema(became, overrides=_OVERRIDES)
        except ValueError as exc:
            raise ValueError(f"{what}: {exc}") from exc
        error = LLMatcher.validate_grammar(grammar, self._tokenizer)
        if error:
            raise ValueError(f"{what}: {_without_state(error)}")
        return became


def _written(schema: dict[str, Any]) -> str:
    """An enforceable schema as `%json` of a grammar takes it."""
    return json.dumps({**schema, OWN_KEY: _OVERRIDES})


def _without_state(error: str) -> str:
    """llguidance's message without what stands for its state behind it."""
    return error.split("<state>")[0].split("<non-verbose/>")[0].strip()


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_ERROR_CHARACTERS else text[:MAX_ERROR_CHARACTERS] + " ..."

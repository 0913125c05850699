"""The grammar of a constrained answer of a model that thinks: its thought is free, what follows matches."""

from __future__ import annotations

import json
import re

from takeoff.thoughts import GAP, SYNTAX, ThoughtStart


def behind_thought(grammar: str, start: ThoughtStart) -> str:
    """`grammar`, in llguidance's language, behind a thought, which may be missing unless it is open."""
    syntax = SYNTAX[start.format]
    thought = "body" if start.is_open else f"{_written(syntax.opening, start)} body"
    if syntax.closing in start.control_texts.values():
        body = ["body: TEXT " + _written(syntax.closing, start), "TEXT: /(?s:.*)/"]
    else:
        closing = re.escape(syntax.closing).replace("/", r"\/")
        body = [f"body[lazy]: /(?s:.*){closing}/"]
    how_often = "" if start.is_open else "?"
    rules = [f"start: ({thought} {json.dumps(GAP)}){how_often} @answer", *body]
    first, *others = _grammars(grammar)
    whole = [{"lark_grammar": "\n".join(rules)}, {**first, "name": "answer"}, *others]
    return json.dumps({"grammars": whole})


def own_opening(start: ThoughtStart | None) -> str:
    """The text with which the model itself would open a thought; "": it is no text, or not to come."""
    if start is None or start.is_open or start.control_texts:
        return ""
    return SYNTAX[start.format].opening


def _grammars(grammar: str) -> list[dict[str, object]]:
    """The parts of a grammar, the first of which is its beginning."""
    try:
        parts: list[dict[str, object]] = json.loads(grammar)["grammars"]
    except ValueError:
        return [{"lark_grammar": grammar}]
    return parts


def _written(mark: str, start: ThoughtStart) -> str:
    """A mark in Lark, the control tokens in it by their ids."""
    ids = {text: token_id for token_id, text in start.control_texts.items()}
    if not ids:
        return json.dumps(mark)
    pieces = re.split(f"({'|'.join(map(re.escape, ids))})", mark)
    return " ".join(f"<[{ids[each]}]>" if each in ids else json.dumps(each) for each in pieces if each)

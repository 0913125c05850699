"""A client's grammar, in Lark's syntax or GBNF, as llguidance takes it."""

from __future__ import annotations

from llguidance.gbnf_to_lark import any_to_lark

MAX_GRAMMAR_CHARACTERS = 100_000
_OWN = ("%llguidance", "x-guidance")  # llguidance's settings: not a client's to make


def lark_of(source: str) -> str:
    """The grammar in Lark's syntax: what has `::=` in it is GBNF. Its start is the rule `start`, or `root`.

    Raises:
        ValueError: it is too long, has settings in it, or is no GBNF.
    """
    if len(source) > MAX_GRAMMAR_CHARACTERS:
        raise ValueError(f"it has {len(source)} characters, over {MAX_GRAMMAR_CHARACTERS}")
    for name in _OWN:
        if name in source:
            raise ValueError(f"{name} can't be used here")
    try:
        return str(any_to_lark(source))
    except Exception as exc:  # the converter raises whatever comes to it
        raise ValueError(f"as GBNF: {exc}") from exc

"""How a model writes the calls of tools: by family, as its chat template says.

A call is `opening`, the function's name, `middle`, its arguments as JSON, `closing`. Who reads it does not
look at blanks outside of names and arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MAX_ANSWER_CALLS = 16  # of one answer


class CallFormat(StrEnum):
    """The families."""

    HERMES = "hermes"  # Qwen and Hermes: tags around each call, which may follow text
    LLAMA3 = "llama3"  # Llama 3: one object of JSON, with the key `parameters`
    MISTRAL = "mistral"  # a control token, then a list of objects
    JSON = "json"  # any other model: objects of JSON, one a line


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """What stands around names and arguments."""

    opening: str
    middle: str
    closing: str
    begin: str = ""  # before the first call
    between: str | None = None  # two calls; None: an answer has one at most
    end: str = ""  # after the last call
    mark: str = ""  # what begins a call that follows text; "": calls are the whole answer
    control_text: str = ""  # control token that stands before the first call


SYNTAX: dict[CallFormat, CallSyntax] = {
    CallFormat.HERMES: CallSyntax(
        opening='<tool_call>\n{"name": "',
        middle='", "arguments": ',
        closing="}\n</tool_call>",
        between="\n",
        mark="<tool_call>",
    ),
    CallFormat.LLAMA3: CallSyntax(opening='{"name": "', middle='", "parameters": ', closing="}"),
    CallFormat.MISTRAL: CallSyntax(
        opening='{"name": "',
        middle='", "arguments": ',
        closing="}",
        begin="[",
        between=", ",
        end="]",
        control_text="[TOOL_CALLS]",
    ),
    CallFormat.JSON: CallSyntax(opening='{"name": "', middle='", "arguments": ', closing="}", between="\n"),
}


# Marks of ways that share a tag or token with one of the above, but write no JSON around the arguments.
_OTHER_WAYS = ("<function=", "<arg_key>", "[ARGS]")


def call_format_of(template: str | None) -> CallFormat:
    """The format that a chat template writes calls in; JSON where it writes none, or in a way of its own."""
    if template is None or "tools" not in template or any(way in template for way in _OTHER_WAYS):
        return CallFormat.JSON
    if SYNTAX[CallFormat.MISTRAL].control_text in template:
        return CallFormat.MISTRAL
    if SYNTAX[CallFormat.HERMES].mark in template:
        return CallFormat.HERMES
    return CallFormat.LLAMA3 if '"parameters": ' in template else CallFormat.JSON

"""The grammar of an answer that may or must call tools: each call's arguments obey its tool's schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from takeoff.call_formats import MAX_ANSWER_CALLS, CallSyntax

_ANY = "(?s:.*)"

WrittenSchema = Callable[[Any], str]  # a schema as llguidance's `%json` takes it


def tool_grammar(
    tools: list[dict[str, Any]],
    syntax: CallSyntax,
    *,
    control_id: int | None,
    is_required: bool,
    is_parallel: bool,
    written: WrittenSchema,
    never_first: str = "",
) -> str:
    """Lark, in llguidance's dialect, of text and of calls of `tools`.

    Unless `is_required`, text may stand in place of the calls, or before them where the syntax marks
    calls. `control_id` is the token of the syntax's control text, where the vocabulary has it. Text does
    not begin with `never_first`.
    """
    bodies = [
        f"({json.dumps(tool['name'] + syntax.middle)} %json {written(tool['parameters'])})" for tool in tools
    ]
    max_more = MAX_ANSWER_CALLS - 1 if is_parallel and syntax.between is not None else 0
    begins = "".join(map(_escaped, never_first))
    but = rf" & ~/\s*{begins}{_ANY}/" if never_first else ""
    rules = [f"body: ({' | '.join(bodies)}) {json.dumps(syntax.closing)}"]
    if is_required or not syntax.mark:
        first = syntax.begin + syntax.opening
        rules.append(_calls(syntax, max_more))
        control = "" if control_id is None else f"<[{control_id}]>"
        start = f"{control} {json.dumps(first)} calls"
        if not is_required:
            begun = r"\s*" + r"\s*".join(map(_escaped, "".join(first.split())))
            rules += [f"begun[lazy]: /{begun}/", f"TEXT: /{_ANY}/ & ~/{begun}{_ANY}/{but}"]
            start = f"{f'{start} | ' if control else ''}begun calls | TEXT"
    else:
        mark = "".join(map(_escaped, syntax.mark))
        rest = json.dumps(syntax.opening.removeprefix(syntax.mark))
        rules += [f"TEXT: ~/{_ANY}{mark}{_ANY}/{but}", f"begun[lazy]: /{_ANY}{mark}/{but}"]
        rules.append(f"call: begun {rest} body")
        start = f"call{{0,{max_more + 1}}} TEXT" if max_more else "TEXT | call"
    return "\n".join(["%llguidance {}", f"start: {start}", *rules])


def _calls(syntax: CallSyntax, max_more: int) -> str:
    more = f"({json.dumps((syntax.between or '') + syntax.opening)} body){{0,{max_more}}}" if max_more else ""
    end = json.dumps(syntax.end) if syntax.end else ""
    return f"calls: body {more} {end}"


def _escaped(char: str) -> str:
    return f"\\{char}" if char in r"\/.*+?()[]{}|^$" else char

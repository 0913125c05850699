"""docs/reference/anthropic.md, made from what checks the fields so that it can't say anything else."""

from __future__ import annotations

import json
from collections.abc import Mapping

from takeoff.http.anthropic.bodies import HARMLESS, CountTokensBody, MessagesBody, PromptBody
from takeoff.http.anthropic.messages import BLOCKS, ERROR_LINE, MESSAGE_FIELDS
from takeoff.http.anthropic.tools import CHOICES, TOOL_FIELDS
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.objects import ObjectFields
from takeoff.http.openai.reference import fields_section, table_of
from takeoff.http.refusals import ANTHROPIC_KINDS

_BODIES: dict[str, type[PromptBody]] = {
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountTokensBody,
}

_PAGE = """\
# Anthropic's API, field by field

Made from the source by `takeoff config reference anthropic`; don't edit it.

The front door and port 3003 answer the two routes below; a client's `base_url` is the door's address without
`/v1`. The key goes in `x-api-key`, or as a Bearer token. The headers `anthropic-version` and `anthropic-beta`
change nothing, and neither does `?beta=true`. A field is

- **honoured**: it does what it says;
- **harmless**: it can't change the answer, and is checked and not looked at;
- **refused**: with status 400, Anthropic's error shape and the field's name in the message, but for the
  values named here, which change nothing.

A field that no table names is refused with the nearest name that one has; a server that runs with `--lenient`
logs it instead.

{tables}

## Messages and blocks

{objects}

The blocks of a content are its lines. Messages of one role that follow each other are one. A `tool_result`
must follow the `tool_use` that it names; one with `is_error` begins with the line `{error_line}`. The ids of
calls are told to the template without `toolu_`; an id that isn't nine letters and digits then, by its hash:
some templates take no others. What `thinking` blocks say is the message's reasoning, where the template knows
any. How calls are written and enforced is told in [openai.md](openai.md), Tools: `auto`, `any` and a `tool`
are its `auto`, `required` and a function's name.

## The answer

`stop_reason` is `end_turn`, `tool_use`, `max_tokens`, `model_context_window_exceeded` where the context ended
before `max_tokens` did, or `stop_sequence`: then `stop_sequence` is the one that was met, of several that
begin at the same place the shortest. `input` of a call that was cut off has what is known of it. In `usage`,
`input_tokens` are those that had to be computed and `cache_read_input_tokens` the others; together they are
what `/v1/messages/count_tokens` counts. A stream without news
has a `ping` every 15 s (`stream_keep_alive_s`).

An error has the status that it has elsewhere, and the type
{kinds};
of any other status from 500 it is `api_error`, else `invalid_request_error`. Each answer has a `request-id`.
"""


def anthropic_page() -> str:
    """The page."""
    rows = [("object", "honoured", "harmless", "refused but for"), ("---", "---", "---", "---")]
    objects: dict[str, ObjectFields] = {
        "message": MESSAGE_FIELDS,
        **{f"block `{name}` in {_listed(kind.places, '')}": kind.fields for name, kind in BLOCKS.items()},
        "tool": TOOL_FIELDS,
        **{f"tool_choice `{name}`": fields for name, fields in CHOICES.items()},
    }
    for name, fields in objects.items():
        rows.append((name, _listed(fields.honoured), _listed(fields.harmless), _values(fields.unserved)))
    return _PAGE.format(
        tables="\n\n".join(fields_section(path, body, HARMLESS) for path, body in _BODIES.items()),
        objects=table_of(rows),
        error_line=ERROR_LINE,
        kinds=", ".join(f"`{kind}` ({status})" for status, kind in ANTHROPIC_KINDS.items()),
    )


def _listed(names: Mapping[str, object] | tuple[str, ...], quote: str = "`") -> str:
    return ", ".join(f"{quote}{name}{quote}" for name in names)


def _values(unserved: Mapping[str, Unserved]) -> str:
    return "; ".join(
        f"`{name}`: {', '.join(f'`{json.dumps(value)}`' for value in each.harmless)}"
        for name, each in unserved.items()
    )

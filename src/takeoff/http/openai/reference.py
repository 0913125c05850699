"""docs/reference/openai.md, made from the bodies so that it can't say anything else."""

from __future__ import annotations

import json

from takeoff.http.openai.chat import ChatBody
from takeoff.http.openai.completions import CompletionBody
from takeoff.http.openai.embeddings import EmbeddingsBody
from takeoff.http.openai.fields import HARMLESS, OpenAIBody

_BODIES: dict[str, type[OpenAIBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/embeddings": EmbeddingsBody,
}

_PAGE = """\
# The OpenAI API, field by field

Made from the source by `takeoff config reference openai`; don't edit it.

The front door and port 3003 answer `GET /v1/models`, `GET /v1/models/{{id}}` and the routes below. A field is

- **honoured**: it does what it says;
- **harmless**: it can't change the answer, and is checked and not looked at;
- **refused**: with status 400, OpenAI's error shape and the field's name in it, but for the values named
  here, which change nothing.

A field that no table names is refused with the nearest name that one has; a server that runs with `--lenient`
logs it instead. The text parts of a message's content are its lines.

{tables}
"""


def openai_page() -> str:
    """The page."""
    return _PAGE.format(tables="\n\n".join(_section(path, body) for path, body in _BODIES.items()))


def _section(path: str, body: type[OpenAIBody]) -> str:
    rows = [("field", "class", "meaning"), ("---", "---", "---")]
    for name, field in sorted(body.model_fields.items()):
        rows.append((f"`{name}`", "harmless" if name in HARMLESS else "honoured", str(field.description)))
    for name, unserved in sorted(body.unserved.items()):
        values = ", ".join(f"`{json.dumps(value)}`" for value in unserved.harmless)
        instead = f"; {unserved.instead}" if unserved.instead else ""
        rows.append((f"`{name}`", "refused", f"but for {values}{instead}"))
    table = "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return f"## {path}\n\n{table}"

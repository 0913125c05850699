"""docs/reference/openai.md, made from the bodies so that it can't say anything else."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, get_args

from takeoff.call_formats import MAX_ANSWER_CALLS
from takeoff.http.openai.chat import ChatBody
from takeoff.http.openai.classify import ClassifyBody
from takeoff.http.openai.completions import CompletionBody
from takeoff.http.openai.embeddings import EmbeddingsBody
from takeoff.http.openai.fields import HARMLESS, Inner, OpenAIBody
from takeoff.http.openai.rerank import RerankBody
from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.http.openai.tokens import DetokenizeBody, TokenizeBody
from takeoff.thoughts import SYNTAX, ThoughtFormat

_BODIES: dict[str, type[OpenAIBody]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    "/v1/responses": ResponsesBody,
    "/v1/embeddings": EmbeddingsBody,
    "/v1/classify": ClassifyBody,
    "/v1/rerank, /v2/rerank, /rerank": RerankBody,
    "/tokenize": TokenizeBody,
    "/detokenize": DetokenizeBody,
}

_FAMILIES = {
    ThoughtFormat.TAGS: "Qwen3, DeepSeek, GLM, MiniMax, Nemotron, Olmo, SmolLM3 and others",
    ThoughtFormat.SEED: "Seed-OSS",
    ThoughtFormat.MISTRAL: "Magistral",
    ThoughtFormat.KIMI: "Kimi-VL",
    ThoughtFormat.EXAONE: "EXAONE Deep",
    ThoughtFormat.COHERE: "Command A",
    ThoughtFormat.GEMMA: "Gemma 4",
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

## Tools

The model's chat template says how it writes calls:

| template | calls | several in one answer | after text |
| --- | --- | --- | --- |
| has `<tool_call>` (Hermes, Qwen) | tags around `{{"name": ..., "arguments": ...}}` | yes | yes |
| has `[TOOL_CALLS]` (Mistral) | that token, and a list of such objects | yes | no |
| has `"parameters": ` (Llama 3) | `{{"name": ..., "parameters": ...}}` | no | no |
| any other | such an object with `arguments` a line | yes | no |

A template of the last row is given no tools: the system's message tells of them, calls of the past are the
assistant's text, and their results a user's. With `tool_choice` `auto` an answer is text, or calls from
where one begins: of a format whose calls don't follow text, an answer that begins like a call is one. From
there on, and with `required` or a function's name from the start, only calls of the tools can be said, with
arguments that obey their schemas. A call that would not end within `max_tokens` or the context is led to its
end there: its arguments are valid, and the finish reason is `length`. An
answer has up to {max_calls} calls. A tool whose schema can't be enforced is refused by its name, as other
constraints are. Arguments of the past that are no JSON object are given to the template inside of one.

With a `response_format` of JSON as well, an answer under `auto` is either calls or that JSON. In the formats
of the last three rows, which mark no call, a schema that allows what looks like one is refused.

## Thoughts

What a model thinks before it answers is `reasoning_content`, of a message or a delta, and no part of
`content`. The chat template says how it is marked, and the prompt whether it is open or closed already:

{thoughts}

Blanks at both ends of a thought are no part of it, and up to two newlines behind it none of the content.
`usage.completion_tokens_details.reasoning_tokens` counts the tokens up to the one that ends the thought. What
constrains an answer, tools too, holds behind it, where `max_tokens` may end the answer before; with
`reasoning_effort` `none` it holds from the beginning. Other ways to think, as the channels of gpt-oss, are
not told apart.
"""


def openai_page() -> str:
    """The page."""
    tables = "\n\n".join(fields_section(path, body, HARMLESS) for path, body in _BODIES.items())
    thoughts = [("marks", "families"), ("---", "---")]
    thoughts += [
        (f"`{syntax.opening}` ... `{syntax.closing}`", _FAMILIES[each]) for each, syntax in SYNTAX.items()
    ]
    return _PAGE.format(tables=tables, thoughts=table_of(thoughts), max_calls=MAX_ANSWER_CALLS)


def fields_section(path: str, body: type[OpenAIBody], harmless: Collection[str]) -> str:
    """The fields of the route `path`, and their classes; those of `harmless` that it declares are so."""
    rows = [("field", "class", "meaning"), ("---", "---", "---"), *_rows(body, "", harmless)]
    return f"## {path}\n\n{table_of(rows)}"


def table_of(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, the first two the head, as a table of Markdown."""
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _rows(fields_of: type[Inner], place: str, harmless: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """A row for each field, those of the objects inside behind their own, and then what is not served."""
    for name, field in sorted(fields_of.model_fields.items()):
        path = f"{place}{field.alias or name}"
        yield f"`{path}`", "harmless" if name in harmless else "honoured", str(field.description)
        rows = [row for each in _inner(field.annotation) for row in _rows(each, f"{path}.", each.harmless)]
        taken = {name for name, kind, _ in rows if kind != "refused"}  # by an object of some type
        yield from dict.fromkeys(row for row in rows if row[1] != "refused" or row[0] not in taken)
    for name, unserved in sorted(fields_of.unserved.items()):
        values = ", ".join(f"`{json.dumps(value)}`" for value in unserved.harmless)
        instead = f"; {unserved.instead}" if unserved.instead else ""
        yield f"`{place}{name}`", "refused", f"but for {values}{instead}"


def _inner(annotation: Any) -> Iterator[type[Inner]]:
    """The objects that a field may be, or hold."""
    if isinstance(annotation, type) and issubclass(annotation, Inner):
        yield annotation
    for part in get_args(annotation):
        yield from _inner(part)

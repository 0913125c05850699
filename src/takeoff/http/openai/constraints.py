"""What an answer must match: OpenAI's formats, and the names that other servers have for it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StrictStr

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Inner, OpenAIBody, Unserved
from takeoff.request import Constraint, ConstraintKind

MAX_CHOICES = 1_000
MAX_FORMAT_NAME = 64

ANY_OBJECT = {"type": "object"}
_NO_SCHEMA = {"json_schema": Unserved(instead="use the type json_schema")}
FORMAT_TYPE: Any = Field(description="`text`, `json_object` or `json_schema`")


class JsonSchemaFormat(Inner):
    """`json_schema` of a response_format. It is always enforced, `strict` or not."""

    harmless: ClassVar[frozenset[str]] = frozenset({"name", "description", "strict"})

    name: StrictStr = Field(max_length=MAX_FORMAT_NAME, description="What it is called")
    schema_: Any = Field(
        None, alias="schema", description="JSON Schema that the answer obeys; default: any JSON"
    )
    description: StrictStr | None = Field(None, description="What the answer is for")
    strict: bool | None = Field(None, description="Schemas are always enforced")


class TextFormat(Inner):
    """No constraint."""

    unserved: ClassVar[Mapping[str, Unserved]] = _NO_SCHEMA

    type: Literal["text"] = FORMAT_TYPE


class JsonObjectFormat(Inner):
    """Any object of JSON."""

    unserved: ClassVar[Mapping[str, Unserved]] = _NO_SCHEMA

    type: Literal["json_object"] = FORMAT_TYPE


class SchemaFormat(Inner):
    """JSON that a schema describes."""

    type: Literal["json_schema"] = FORMAT_TYPE
    json_schema: JsonSchemaFormat = Field(description="With the type of that name")

    @property
    def told(self) -> Any:
        """What the answer obeys; of none: any JSON."""
        schema = self.json_schema.schema_
        return {} if schema is None else schema


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")]
Choices = Annotated[list[StrictStr], Field(min_length=1, max_length=MAX_CHOICES, fail_fast=True)]
PossibleConstraint = tuple[str, Callable[[Any], Constraint], Any]  # the field, and what it makes of its value


class StructuredOutputs(Inner):
    """vLLM's `structured_outputs`: one of these."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "disable_additional_properties": Unserved((None, False), "say additionalProperties in the schema"),
        "disable_any_whitespace": Unserved((None, False)),
        "disable_fallback": Unserved((None, False, True)),
        "structural_tag": Unserved(instead="use tools"),
        "whitespace_pattern": Unserved(),
    }

    json_: Any = Field(None, alias="json", description="JSON Schema, or its text")
    json_object: bool | None = Field(None, description="Any object of JSON")
    regex: StrictStr | None = Field(None, description="As `regex`")
    choice: Choices | None = Field(None, description="As `guided_choice`")
    grammar: StrictStr | None = Field(None, description="As `grammar`")


class ConstrainedBody(OpenAIBody):
    """The fields that are not OpenAI's. At most one that constrains the answer is given."""

    regex: StrictStr | None = Field(
        None,
        description="Regular expression, of Python's dialect, that the whole answer matches; not OpenAI's",
    )
    grammar: StrictStr | None = Field(
        None, description="Grammar in Lark's syntax, or GBNF, that the whole answer matches; not OpenAI's"
    )
    structured_outputs: StructuredOutputs | None = Field(
        None, description="vLLM's: one of `json`, `json_object`, `regex`, `choice`, `grammar`"
    )
    guided_json: Any = Field(None, description="vLLM's older name for a JSON Schema")
    guided_regex: StrictStr | None = Field(None, description="vLLM's older name for `regex`")
    guided_choice: Choices | None = Field(
        None, description=f"vLLM's: up to {MAX_CHOICES} texts, of which the answer is one"
    )
    guided_grammar: StrictStr | None = Field(None, description="vLLM's older name for `grammar`")

    def constraint(self) -> tuple[str, Constraint] | None:
        """The field that constrains the answer, and how; None: none does.

        Raises:
            InvalidRequest: several do, or a schema can't be written down.
        """
        given = [(name, make, value) for name, make, value in self.constraints() if value is not None]
        if len(given) > 1:
            (first, *_), (second, *_), *_ = given
            message = f"{first} and {second} are both given, and one of them constrains the answer"
            raise InvalidRequest(message, param=second)
        for name, make, value in given:
            try:
                return name, make(value)
            except RecursionError as exc:
                raise InvalidRequest(f"{name} is nested too deeply", param=name) from exc
        return None

    def constraints(self) -> list[PossibleConstraint]:
        """All that could be given."""
        outputs = self.structured_outputs or StructuredOutputs.model_validate({})
        return [
            ("regex", _regex, self.regex),
            ("grammar", _grammar, self.grammar),
            ("structured_outputs", schema_constraint, outputs.json_),
            ("structured_outputs", schema_constraint, ANY_OBJECT if outputs.json_object else None),
            ("structured_outputs", _regex, outputs.regex),
            ("structured_outputs", _choice, outputs.choice),
            ("structured_outputs", _grammar, outputs.grammar),
            ("guided_json", schema_constraint, self.guided_json),
            ("guided_regex", _regex, self.guided_regex),
            ("guided_choice", _choice, self.guided_choice),
            ("guided_grammar", _grammar, self.guided_grammar),
        ]


class FormattedBody(ConstrainedBody):
    """And OpenAI's field, as /v1/chat/completions and /v1/completions have it."""

    response_format: ResponseFormat | None = Field(
        None, description="`text`, `json_object`, or `json_schema`, which is enforced, `strict` or not"
    )

    def constraints(self) -> list[PossibleConstraint]:
        """As ConstrainedBody has them, `response_format` first."""
        form = self.response_format
        return [
            ("response_format", schema_constraint, form.told if isinstance(form, SchemaFormat) else None),
            (
                "response_format",
                schema_constraint,
                ANY_OBJECT if isinstance(form, JsonObjectFormat) else None,
            ),
            *super().constraints(),
        ]


def schema_constraint(value: Any) -> Constraint:
    """Of a schema, or of its JSON."""
    source = value if isinstance(value, str) else json.dumps(value)
    return Constraint(ConstraintKind.JSON_SCHEMA, source)


def _regex(source: str) -> Constraint:
    return Constraint(ConstraintKind.REGEX, source)


def _choice(texts: list[str]) -> Constraint:
    return _regex("|".join(map(re.escape, texts)))


def _grammar(source: str) -> Constraint:
    return Constraint(ConstraintKind.GRAMMAR, source)

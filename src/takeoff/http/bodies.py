"""Request bodies: read once, parsed strictly, wrong ones told in FastAPI's shape."""

from __future__ import annotations

import json
from typing import Annotated, Any, NoReturn, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StrictStr, ValidationError
from starlette.requests import Request as HttpRequest

Body = TypeVar("Body", bound=BaseModel)

# Of a million wrong elements one is told: all would be a hundred megabytes of answer.
Texts = Annotated[list[StrictStr], Field(fail_fast=True)]


async def parse_json(request: HttpRequest) -> Any:
    """The JSON body.

    Raises:
        RequestValidationError: not JSON, or NaN or an infinity in it.
    """
    raw = await request.body()
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise _error(("body",), f"the body is not valid JSON: {exc}", "json_invalid") from exc


async def parse_body(request: HttpRequest, model: type[Body]) -> Body:
    """The JSON body as a `model`.

    Raises:
        RequestValidationError: not JSON, NaN or an infinity in it, or not of the model's shape; `loc`
            names the field.
    """
    data = await parse_json(request)
    try:
        return model.model_validate(data)
    except ValidationError as exc:
        errors = [
            {"loc": ["body", *error["loc"]], "msg": error["msg"], "type": error["type"]}
            for error in exc.errors(include_url=False, include_context=False, include_input=False)
        ]
        raise RequestValidationError(errors) from exc


def field_error(field: str, message: str, kind: str = "value_error") -> RequestValidationError:
    """A 422 in FastAPI's shape that names one field."""
    return _error(("body", field), message, kind)


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """What `openapi_extra` needs to describe a body that a handler parses itself."""
    schema = model.model_json_schema()
    whole = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole}}}}


def _inlined(schema: Any, definitions: dict[str, Any]) -> Any:
    """`schema` with each reference to a definition replaced by it: it has no place of its own."""
    if isinstance(schema, list):
        return [_inlined(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(value, definitions) for name, value in schema.items()}


def _error(loc: tuple[str, ...], message: str, kind: str) -> RequestValidationError:
    return RequestValidationError([{"loc": list(loc), "msg": message, "type": kind}])


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")

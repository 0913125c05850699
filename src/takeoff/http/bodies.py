"""Request bodies: read once, parsed strictly, wrong ones told in FastAPI's shape."""

from __future__ import annotations

import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Generic, NoReturn, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, StrictStr, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request as HttpRequest

Body = TypeVar("Body", bound=BaseModel)

MAX_FIELD_BYTES = 8 << 20  # of a part that is not a file; the whole body has its own limit

# Of a million wrong elements one is told: all would be a hundred megabytes of answer.
Texts = Annotated[list[StrictStr], Field(fail_fast=True)]


@dataclass(frozen=True, slots=True)
class Form(Generic[Body]):
    """A multipart body, taken apart."""

    body: Body
    file: bytes


async def parse_json(request: HttpRequest) -> Any:
    """The JSON body.

    Raises:
        RequestValidationError: not JSON, or NaN or an infinity in it.
    """
    return _json(await request.body(), ("body",))


async def parse_body(request: HttpRequest, model: type[Body]) -> Body:
    """The JSON body as a `model`.

    Raises:
        RequestValidationError: not JSON, NaN or an infinity in it, or not of the model's shape; `loc`
            names the field.
    """
    return _validated(await parse_json(request), model)


async def parse_form(
    request: HttpRequest, model: type[Body], *, json_part: str, file_part: str
) -> Form[Body]:
    """The multipart body: JSON of a `model` in one part, a file in the other, nothing else.

    The JSON part may be a plain field or a file of any content type: clients send it in both ways.

    Raises:
        RequestValidationError: not multipart, a part is missing, double or unknown, or the JSON is wrong
            as in `parse_body`.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise _error(("body",), f"the body must be multipart/form-data, not {kind or 'untyped'}", "multipart")
    try:
        async with aclosing(request.stream()) as stream:
            parser = _InMemoryParser(
                request.headers, stream, max_files=2, max_fields=2, max_part_size=MAX_FIELD_BYTES
            )
            form = await parser.parse()
        parts = [(name, await _bytes(value)) for name, value in form.multi_items()]
        await form.close()
    except (MultiPartException, UnicodeError) as exc:
        detail = getattr(exc, "message", None) or str(exc)
        raise _error(("body",), f"the multipart body can't be read: {detail}", "multipart") from exc
    for name in (json_part, file_part):
        count = sum(each == name for each, _ in parts)
        if count != 1:
            raise field_error(name, f"there must be one part {name}, not {count}", "missing")
    for name, _ in parts:
        if name not in (json_part, file_part):
            raise field_error(name, f"there is no part {name!r}, only {json_part} and {file_part}")
    found = dict(parts)
    return Form(_validated(_json(found[json_part], ("body", json_part)), model), found[file_part])


class _InMemoryParser(MultiPartParser):
    """Writes no file to the disk: the whole body is in memory already, and bounded."""

    spool_max_size = 0


async def _bytes(value: UploadFile | str) -> bytes:
    return value.encode() if isinstance(value, str) else await value.read()


def _json(raw: bytes, loc: tuple[str, ...]) -> Any:
    try:
        return json.loads(raw, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise _error(loc, f"the body is not valid JSON: {exc}", "json_invalid") from exc


def _validated(data: Any, model: type[Body]) -> Body:
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


def form_schema(model: type[BaseModel], *, json_part: str, file_part: str) -> dict[str, Any]:
    """As `body_schema`, of a body with a part of JSON and a file."""
    described = body_schema(model)["requestBody"]["content"]["application/json"]["schema"]
    parts = {json_part: described, file_part: {"type": "string", "format": "binary"}}
    schema = {"type": "object", "required": [json_part, file_part], "properties": parts}
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


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

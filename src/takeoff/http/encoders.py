"""/embed and /classify of the Takeoff API: vectors and scores of texts."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.http.answers import unless_client_leaves
from takeoff.http.bodies import Texts, body_schema, parse_body
from takeoff.http.ports import Service
from takeoff.http.texts import GroupName, check_texts, like
from takeoff.request import EncodeRequest, Encoding, Task, Text
from takeoff.settings import Settings
from takeoff.settings.values import DEFAULT_GROUP

Pairs = Annotated[list[tuple[StrictStr, StrictStr]], Field(fail_fast=True)]


class EmbedBody(BaseModel):
    """POST /embed."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr | Texts = Field(description="The text, or a list of them")
    consumer_group: GroupName = None


class ClassifyBody(BaseModel):
    """POST /classify."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr | Texts | Pairs = Field(
        description="The text, a list of them, or a list of pairs: query and document, question and context"
    )
    consumer_group: GroupName = None


def encoder_router(service: Service, settings: Settings) -> APIRouter:
    """The two routes, over `service`."""
    router = APIRouter(tags=["Embed and classify"])

    async def encode(http_request: HttpRequest, body: EmbedBody | ClassifyBody, task: Task) -> Encoding:
        texts: tuple[Text, ...] = (body.text,) if isinstance(body.text, str) else tuple(body.text)
        check_texts(texts, settings)
        request = EncodeRequest(task=task, texts=texts, group=body.consumer_group or DEFAULT_GROUP)
        return await unless_client_leaves(http_request, lambda: service.encode(request))

    @router.post("/embed", openapi_extra=body_schema(EmbedBody))
    async def embed(http_request: HttpRequest) -> Response:
        """`{"result": ...}`: the vector of a text, a list of vectors of a list."""
        body = await parse_body(http_request, EmbedBody)
        encoding = await encode(http_request, body, Task.EMBED)
        return json_response({"result": like(body.text, encoding.vectors)})

    @router.post("/classify", openapi_extra=body_schema(ClassifyBody))
    async def classify(http_request: HttpRequest) -> Response:
        """`{"result": ..., "labels": ...}`: the scores of a text, a list of them of a list or of pairs."""
        body = await parse_body(http_request, ClassifyBody)
        encoding = await encode(http_request, body, Task.CLASSIFY)
        return json_response({"result": like(body.text, encoding.vectors), "labels": encoding.labels})

    return router


def json_response(content: dict[str, Any]) -> Response:
    """An answer of many numbers: ten times as fast as the framework's own."""
    return Response(msgspec.json.encode(content), media_type="application/json")

"""The OpenAI API: /v1/embeddings, with the vectors once more where Takeoff's clients look for them."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.encoders import json_response
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.sampling import model_told
from takeoff.http.openai.texts import TextInput, TextsBody
from takeoff.http.ports import Service
from takeoff.http.texts import like
from takeoff.request import EncodeRequest, Task
from takeoff.settings import Settings


class EmbeddingsBody(TextsBody):
    """POST /v1/embeddings. `model` is a group, a reader or a model."""

    texts_field: ClassVar[str] = "input"
    unserved: ClassVar[Mapping[str, Unserved]] = {"dimensions": Unserved()}

    input: TextInput = Field(description="The text, or a list of them; no token ids")
    encoding_format: Literal["float", "base64"] | None = Field(None, description="Of the vectors")


def embeddings_router(service: Service, settings: Settings) -> APIRouter:
    """The route, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/embeddings", openapi_extra=body_schema(EmbeddingsBody))
    async def create_embeddings(http_request: HttpRequest) -> Response:
        """The vectors of one text or several."""
        body = await parse_body(http_request, EmbeddingsBody)
        body.check_fields(lenient=settings.lenient)
        texts = [body.input] if isinstance(body.input, str) else body.input
        request = EncodeRequest(task=Task.EMBED, texts=tuple(texts), group=body.group)
        encoding = await body.encode(http_request, service, settings, request)
        is_base64 = body.encoding_format == "base64"
        embeddings = list(map(_as_base64, encoding.vectors)) if is_base64 else encoding.vectors
        answer: dict[str, Any] = {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": embedding}
                for index, embedding in enumerate(embeddings)
            ],
            "model": model_told(body.model, service),
            "usage": {"prompt_tokens": encoding.num_tokens, "total_tokens": encoding.num_tokens},
        }
        if not is_base64:  # who asks for that is a client of OpenAI's
            answer["result"] = like(body.input, encoding.vectors)
        return json_response(answer)

    return router


def _as_base64(vector: list[float]) -> str:
    """The vector as OpenAI's clients read it: float32, little-endian."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()

"""/v1/classify, in the shape of vLLM's: which of its classes a model sees in a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.encoders import json_response
from takeoff.http.openai.answers import head_of
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.sampling import model_told
from takeoff.http.openai.texts import TextInput, TextsBody
from takeoff.http.ports import Service
from takeoff.request import EncodeRequest, Task
from takeoff.settings import Settings


class ClassifyBody(TextsBody):
    """POST /v1/classify."""

    texts_field: ClassVar[str] = "input"
    unserved: ClassVar[Mapping[str, Unserved]] = {
        "add_special_tokens": Unserved((None, True)),
        "priority": Unserved((None, 0)),
        "truncate_prompt_tokens": Unserved(instead="send texts that fit"),
        "use_activation": Unserved((None, True)),
    }

    input: TextInput = Field(description="The text, or a list of them")


def classify_router(service: Service, settings: Settings) -> APIRouter:
    """The route, over `service`."""
    router = APIRouter(prefix="/v1", tags=["OpenAI"])

    @router.post("/classify", openapi_extra=body_schema(ClassifyBody))
    async def create_classification(http_request: HttpRequest) -> Response:
        """The scores of one text or several for each class, and the name of the class that scores most."""
        body = await parse_body(http_request, ClassifyBody)
        body.check_fields(lenient=settings.lenient)
        texts = [body.input] if isinstance(body.input, str) else body.input
        request = EncodeRequest(task=Task.CLASSIFY, texts=tuple(texts), group=body.group)
        encoding = await body.encode(http_request, service, settings, request)
        data = [
            {
                "index": index,
                "label": encoding.labels[probs.index(max(probs))],
                "probs": probs,
                "num_classes": len(probs),
            }
            for index, probs in enumerate(encoding.vectors)
        ]
        usage = {
            "prompt_tokens": encoding.num_tokens,
            "total_tokens": encoding.num_tokens,
            "completion_tokens": 0,
        }
        head = head_of("classify", "list", model_told(body.model, service))
        return json_response({**head, "data": data, "usage": usage})

    return router

"""/v1/rerank, in the shape that Jina, Cohere and vLLM share: documents by what they say to a query."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter
from pydantic import Field, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.encoders import json_response
from takeoff.http.openai.fields import Inner, Unserved
from takeoff.http.openai.sampling import model_told
from takeoff.http.openai.texts import TextsBody
from takeoff.http.ports import Service
from takeoff.service.ranking import rank_request, ranked
from takeoff.settings import Settings

PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")  # Jina's and Cohere's; Cohere's newer; vLLM's
MAX_TOP_N = 2**31 - 1


class Document(Inner):
    """A document as some clients write it."""

    text: StrictStr = Field(description="Of the document")


class RerankBody(TextsBody):
    """POST /v1/rerank, /v2/rerank and /rerank."""

    texts_field: ClassVar[str] = "documents"
    unserved: ClassVar[Mapping[str, Unserved]] = {
        "max_chunks_per_doc": Unserved(instead="send documents that fit"),
        "max_tokens_per_doc": Unserved(instead="send documents that fit"),
        "priority": Unserved((None, 0)),
        "rank_fields": Unserved((None, ["text"])),
        "truncate_prompt_tokens": Unserved(instead="send documents that fit"),
        "use_activation": Unserved((None, True)),
    }

    query: StrictStr = Field(description="What is looked for")
    documents: Annotated[list[StrictStr | Document], Field(fail_fast=True)] = Field(
        description="Texts, or objects with a `text`. Each is scored with the query by a model of one class: "
        "between 0 and 1, the sigmoid of its logit, or the logit itself of a model that is a regression"
    )
    top_n: int | None = Field(
        None, ge=0, le=MAX_TOP_N, description="Tell so many, the best; default and 0: all"
    )
    return_documents: bool | None = Field(
        True, description="Tell each document's text beside its score; default true"
    )

    def check_fields(self, *, lenient: bool) -> None:
        """As OpenAIBody has it, of the documents too."""
        super().check_fields(lenient=lenient)
        for index, document in enumerate(self.documents):
            if isinstance(document, Document):
                document.check_at(f"documents[{index}]", lenient=lenient)


def rerank_router(service: Service, settings: Settings) -> APIRouter:
    """The route under each of its names, over `service`."""
    router = APIRouter(tags=["OpenAI"])

    async def rerank(http_request: HttpRequest) -> Response:
        """The documents' scores for the query, the best first."""
        body = await parse_body(http_request, RerankBody)
        body.check_fields(lenient=settings.lenient)
        documents = [each if isinstance(each, str) else each.text for each in body.documents]
        request = rank_request(body.query, documents, body.group)
        encoding = await body.encode(http_request, service, settings, request)
        with body.in_its_names():
            best_first = ranked(encoding)
        results: list[dict[str, Any]] = []
        for each in best_first[: body.top_n or None]:
            result: dict[str, Any] = {"index": each.index, "relevance_score": each.score}
            if body.return_documents is not False:
                result["document"] = {"text": documents[each.index]}
            results.append(result)
        answer = {
            "id": f"rerank-{uuid.uuid4().hex}",
            "object": "list",
            "model": model_told(body.model, service),
            "usage": {"prompt_tokens": encoding.num_tokens, "total_tokens": encoding.num_tokens},
            "results": results,
        }
        return json_response(answer)

    for path in PATHS:
        router.post(path, openapi_extra=body_schema(RerankBody))(rerank)
    return router

"""/tokenize, /detokenize and /chat_template of the Takeoff API: what a reader's model makes of text."""

from __future__ import annotations

import asyncio
from typing import Annotated, TypeVar

from fastapi import APIRouter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import NotFound
from takeoff.http.answers import unless_client_leaves
from takeoff.http.bodies import Texts, body_schema, parse_body
from takeoff.http.ports import Service, Tokens
from takeoff.http.texts import check_texts
from takeoff.request import lone_surrogate
from takeoff.settings import Settings

MAX_CONVERSATIONS = 1_000

Items = TypeVar("Items", str, list[str])


def _unicode(texts: Items) -> Items:
    """Refuse a lone surrogate, which JSON can spell, but which is no character."""
    text = "".join(texts)
    place = lone_surrogate(text)
    if place is not None:
        raise ValueError(f"a lone surrogate (U+{ord(text[place]):04X}) is no character")
    return texts


UnicodeText = Annotated[StrictStr, AfterValidator(_unicode)]

TokenIds = Annotated[list[Annotated[StrictInt, Field(ge=0, lt=2**31)]], Field(fail_fast=True)]


class TokenizeBody(BaseModel):
    """POST /tokenize/{reader_id}."""

    model_config = ConfigDict(extra="ignore")

    text: UnicodeText | tuple[UnicodeText, UnicodeText] = Field(
        description="The text, or a pair, whose tokens follow one another"
    )
    use_chat_template: bool | None = Field(None, description="Wrap it as a user's message; default false")
    skip_special_tokens: bool | None = Field(None, description="Leave out control tokens; default false")


class DetokenizeBody(BaseModel):
    """POST /detokenize/{reader_id}."""

    model_config = ConfigDict(extra="ignore")

    tokens: TokenIds | Annotated[Texts, AfterValidator(_unicode)] = Field(
        description="Ids, or tokens as /tokenize writes them"
    )
    skip_special_tokens: bool | None = Field(None, description="Leave out control tokens; default true")


class ChatMessage(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: UnicodeText
    content: UnicodeText


Conversation = Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]


class ChatTemplateBody(BaseModel):
    """POST /chat_template/{reader_id}."""

    model_config = ConfigDict(extra="ignore")

    inputs: Annotated[
        list[Conversation],
        Field(min_length=1, max_length=MAX_CONVERSATIONS, fail_fast=True, description="Conversations"),
    ]
    add_generation_prompt: bool | None = Field(
        None, description="Open the assistant's answer at the end; default false"
    )


def token_router(service: Service, settings: Settings) -> APIRouter:
    """The three routes, over `service`."""
    router = APIRouter(tags=["Tokens"])

    def check_reader(reader_id: str) -> None:
        """Before the body: who asks a reader that is not there hears of that first."""
        if reader_id not in [reader.reader_id for reader in service.readers()]:
            raise NotFound(f"there is no reader {reader_id!r}", param="reader_id")

    @router.post("/tokenize/{reader_id}", openapi_extra=body_schema(TokenizeBody))
    async def tokenize(reader_id: str, http_request: HttpRequest) -> Response:
        """`{"tokens": [...], "tokens_count": n}`: the text as the model sees it."""
        check_reader(reader_id)
        body = await parse_body(http_request, TokenizeBody)
        check_texts([body.text], settings)

        async def ask() -> list[Tokens]:
            questions = [
                service.tokenize(
                    reader_id,
                    text,
                    use_chat_template=body.use_chat_template,
                    skip_special_tokens=bool(body.skip_special_tokens),
                )
                for text in ([body.text] if isinstance(body.text, str) else body.text)
            ]
            return await asyncio.gather(*questions)

        parts = await unless_client_leaves(http_request, ask)
        tokens = [token for part in parts for token in part.tokens]
        return JSONResponse({"tokens": tokens, "tokens_count": len(tokens)})

    @router.post("/detokenize/{reader_id}", openapi_extra=body_schema(DetokenizeBody))
    async def detokenize(reader_id: str, http_request: HttpRequest) -> Response:
        """`{"text": ...}`: what the tokens stand for."""
        check_reader(reader_id)
        body = await parse_body(http_request, DetokenizeBody)
        skip = body.skip_special_tokens is not False
        text = await unless_client_leaves(
            http_request, lambda: service.detokenize(reader_id, [*body.tokens], skip_special_tokens=skip)
        )
        return JSONResponse({"text": text})

    @router.post("/chat_template/{reader_id}", openapi_extra=body_schema(ChatTemplateBody))
    async def chat_template(reader_id: str, http_request: HttpRequest) -> Response:
        """`{"messages": [...]}`: each conversation as the model's own template writes it."""
        check_reader(reader_id)
        body = await parse_body(http_request, ChatTemplateBody)
        conversations = [[(each.role, each.content) for each in messages] for messages in body.inputs]
        texts = await unless_client_leaves(
            http_request,
            lambda: service.render_chat(
                reader_id, conversations, add_generation_prompt=bool(body.add_generation_prompt)
            ),
        )
        return JSONResponse({"messages": texts})

    return router

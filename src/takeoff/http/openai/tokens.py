"""/tokenize, /detokenize and /tokenizer_info beside /v1/, in vLLM's shape: what a prompt is to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query
from pydantic import Field, StrictBool, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import unless_client_leaves
from takeoff.http.bodies import body_schema, parse_body
from takeoff.http.encoders import json_response
from takeoff.http.openai.chat import ChatBody, Effort
from takeoff.http.openai.fields import OpenAIBody, Unserved, told_as
from takeoff.http.openai.models import reader_of
from takeoff.http.openai.sampling import MAX_MODEL_CHARACTERS
from takeoff.http.ports import Service, Tokens
from takeoff.http.tokens import TokenIds
from takeoff.request import Conversation
from takeoff.settings import Settings

_MODEL = "A model, a reader or a group; default: the group `primary`"


_OF_ITS_PROMPT = ("tools", "tool_choice", "chat_template_kwargs", "reasoning_effort")  # fields of a chat
_OF_CHATS = (*_OF_ITS_PROMPT, "add_generation_prompt", "continue_final_message")


class TokenizeBody(OpenAIBody):
    """POST /tokenize. Either `prompt` or `messages` is given."""

    unserved: ClassVar[Mapping[str, Unserved]] = {
        "chat_template": Unserved(),
        "media_io_kwargs": Unserved(),
        "mm_processor_kwargs": Unserved(),
    }

    model: StrictStr | None = Field(None, max_length=MAX_MODEL_CHARACTERS, description=_MODEL)
    prompt: StrictStr | None = Field(None, description="A text, as `/v1/completions` takes it")
    messages: list[Any] | None = Field(
        None, description="A conversation, as `/v1/chat/completions` takes it: the same tokens come out"
    )
    tools: list[Any] | None = Field(None, description="As of a chat, with `messages`")
    tool_choice: Any = Field(None, description="As of a chat: of `none` no tool is told; not vLLM's")
    reasoning_effort: Effort | None = Field(None, description="As of a chat, with `messages`; not vLLM's")
    chat_template_kwargs: dict[StrictStr, Any] | None = Field(
        None, description="As of a chat, with `messages`"
    )
    add_special_tokens: StrictBool | None = Field(
        None,
        description="Frame a `prompt` with the tokens that the model wants, as BOS; default true. Around "
        "`messages` they are there once, whatever this says",
    )
    add_generation_prompt: StrictBool | None = Field(
        None, description="True, or false of messages that end with an assistant's, as a chat has it"
    )
    continue_final_message: StrictBool | None = Field(
        None, description="False, or true of messages that end with an assistant's, as a chat has it"
    )
    return_token_strs: StrictBool | None = Field(
        False, description="Tell how the vocabulary writes each token"
    )

    def check_fields(self, *, lenient: bool) -> None:
        """As OpenAIBody has it; and one of the two is given, with its own fields."""
        super().check_fields(lenient=lenient)
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("either prompt or messages must be given", param="prompt")
        if self.messages is None:
            for name in _OF_CHATS:
                if getattr(self, name):
                    raise InvalidRequest(f"{name} needs messages", param=name)

    def conversation(self, *, lenient: bool) -> Conversation:
        """The messages as a chat has them, up to where its answer begins.

        Raises:
            InvalidRequest: as for a chat; another beginning of the answer is asked for.
        """
        chat = ChatBody.model_validate(
            {"messages": self.messages, **{name: getattr(self, name) for name in _OF_ITS_PROMPT}}
        )
        request = chat.requests(lenient=lenient)[0]
        if request.images:
            raise InvalidRequest("an image has no token ids", param="messages", hint="send its text only")
        conversation = request.prompt
        assert isinstance(conversation, Conversation), "a chat's prompt is one"
        is_continued = conversation.messages[-1]["role"] == "assistant"
        for name, is_so in (
            ("add_generation_prompt", not is_continued),
            ("continue_final_message", is_continued),
        ):
            if getattr(self, name) not in (None, is_so):
                last = "is an assistant's and continued" if is_continued else "is answered"
                raise InvalidRequest(f"{name} can't be {not is_so}: the last message {last}", param=name)
        return conversation


class DetokenizeBody(OpenAIBody):
    """POST /detokenize."""

    model: StrictStr | None = Field(None, max_length=MAX_MODEL_CHARACTERS, description=_MODEL)
    tokens: TokenIds = Field(description="Ids of the model's vocabulary")


def token_router(service: Service, settings: Settings) -> APIRouter:
    """The three routes, over `service`."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/tokenize", openapi_extra=body_schema(TokenizeBody))
    async def tokenize(http_request: HttpRequest) -> Response:
        """The tokens of a prompt or of a conversation, as the model sees it."""
        body = await parse_body(http_request, TokenizeBody)
        body.check_fields(lenient=settings.lenient)
        reader = reader_of(body.model, service)

        async def ask() -> Tokens:
            if body.prompt is None:
                conversation = body.conversation(lenient=settings.lenient)
                return await service.tokenize_chat(reader.reader_id, conversation)
            return await service.tokenize(
                reader.reader_id,
                body.prompt,
                use_chat_template=False,
                skip_special_tokens=False,
                add_special_tokens=body.add_special_tokens is not False,
            )

        with told_as({"reader_id": "model", None: "messages" if body.prompt is None else "prompt"}):
            tokens = await unless_client_leaves(http_request, ask)
        answer = {
            "count": len(tokens.token_ids),
            "max_model_len": reader.max_tokens,
            "tokens": tokens.token_ids,
            "token_strs": tokens.tokens if body.return_token_strs else None,
        }
        return json_response(answer)

    @router.post("/detokenize", openapi_extra=body_schema(DetokenizeBody))
    async def detokenize(http_request: HttpRequest) -> Response:
        """The text that tokens stand for, control tokens with theirs."""
        body = await parse_body(http_request, DetokenizeBody)
        body.check_fields(lenient=settings.lenient)
        reader = reader_of(body.model, service)
        with told_as({"reader_id": "model", None: "tokens"}):
            text = await unless_client_leaves(
                http_request,
                lambda: service.detokenize(reader.reader_id, [*body.tokens], skip_special_tokens=False),
            )
        return json_response({"prompt": text})

    @router.get("/tokenizer_info")
    async def tokenizer_info(
        model: Annotated[str | None, Query(max_length=MAX_MODEL_CHARACTERS, description=_MODEL)] = None,
    ) -> Response:
        """What frames the model's prompts, under the names of a tokenizer_config.json."""
        reader = reader_of(model, service)
        with told_as({"reader_id": "model"}):
            told = await service.describe_vocabulary(reader.reader_id)
        return json_response(
            {
                "add_bos_token": told.adds_bos,
                "bos_token": told.bos_token or None,
                "eos_token": told.eos_token or None,
                "chat_template": told.chat_template,
                "model_max_length": reader.max_tokens,
            }
        )

    return router

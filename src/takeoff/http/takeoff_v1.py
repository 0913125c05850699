"""The first generation of the Takeoff API: /generate and /generate_stream, field for field.

Two deliberate differences: text goes out token by token, not character by character, and the end
at a token "User" or "Assistant" is a setting that is off.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from takeoff.errors import InvalidRequest
from takeoff.http.answers import CUT_SHORT, GenerationResponse, complete_all, raw_text, submit_streamed
from takeoff.http.bodies import Texts, body_schema, field_error, parse_body
from takeoff.http.ports import Service
from takeoff.http.resuming import refuse_resume
from takeoff.request import Request, SamplingParams

MAX_TEXTS = 1_000
ROLE_TOKENS = ("User", "Assistant")

# Our parameter -> the field a v1 client knows it by.
_WIRE_NAMES = {
    "prompt": "text",
    "max_new_tokens": "generate_max_length",
    "top_k": "sampling_topk",
    "top_p": "sampling_topp",
    "temperature": "sampling_temperature",
}


class StreamBody(BaseModel):
    """POST /generate_stream. Unknown fields are ignored, as the first Takeoff did."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr = Field(description="The prompt")
    generate_max_length: int = Field(128, ge=1, le=10_000_000, description="Most tokens to generate")
    sampling_topk: int = Field(1, ge=0, le=1_000_000, description="Keep the k likeliest; 1 greedy, 0 all")
    sampling_topp: float = Field(1.0, gt=0, le=1, description="Nucleus; 1.0 is no restriction")
    sampling_temperature: float = Field(1.0, ge=0, le=100, description="0 is greedy")
    repetition_penalty: float = Field(1.0, ge=0.01, le=100, description="Above 1 penalises repetition")
    no_repeat_ngram_size: int = Field(0, ge=0, le=1_000, description="No n-gram twice; 0 is off")

    def requests(self, stop_tokens: tuple[str, ...]) -> list[Request]:
        """One request for each text."""
        sampling = SamplingParams(
            temperature=self.sampling_temperature,
            top_k=self.sampling_topk,
            top_p=self.sampling_topp,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            max_new_tokens=self.generate_max_length,
            stop_tokens=stop_tokens,
        )
        texts = [self.text] if isinstance(self.text, str) else self.text
        return [Request(prompt=text, sampling=sampling) for text in texts]


class GenerateBody(StreamBody):
    """POST /generate: also takes a list of texts, answered in its order."""

    text: StrictStr | Texts = Field(description="The prompt, or a list of up to 1,000")  # type: ignore[assignment]


def v1_router(service: Service, *, stop_at_roles: bool) -> APIRouter:
    """The two routes, over `service`."""
    router = APIRouter(tags=["Takeoff v1"])
    stop_tokens = ROLE_TOKENS if stop_at_roles else ()

    @router.post("/generate", openapi_extra=body_schema(GenerateBody))
    async def generate(http_request: HttpRequest) -> Response:
        """The whole text: `{"status": "success", "message": ...}`; of one cut short the status says why."""
        body = await parse_body(http_request, GenerateBody)
        _check_texts(body.text)
        requests = body.requests(stop_tokens)
        try:
            completed = await complete_all(http_request, service, requests)
        except InvalidRequest as exc:
            raise _as_field_error(exc) from exc
        texts = [text for _, text in completed]
        message: Any = texts[0] if len(texts) == 1 else texts
        reasons = [generation.finish_reason for generation, _ in completed]
        status = next((reason.value for reason in reasons if reason in CUT_SHORT), "success")
        return JSONResponse({"status": status, "message": message})

    @router.post("/generate_stream", openapi_extra=body_schema(StreamBody))
    async def generate_stream(http_request: HttpRequest) -> Response:
        """The text itself as it is made: UTF-8 without any framing."""
        body = await parse_body(http_request, StreamBody)
        refuse_resume("a text without framing")
        _check_texts(body.text)
        try:
            generations = await submit_streamed(http_request, service, body.requests(stop_tokens))
        except InvalidRequest as exc:
            raise _as_field_error(exc) from exc
        return GenerationResponse(service, generations, raw_text(generations[0]), "text/plain; charset=utf-8")

    return router


def _check_texts(texts: str | list[str]) -> None:
    if isinstance(texts, list) and len(texts) > MAX_TEXTS:
        raise field_error("text", f"at most {MAX_TEXTS} texts at once, got {len(texts)}", "too_long")


def _as_field_error(exc: InvalidRequest) -> RequestValidationError:
    """A refusal in the shape and with the field names that v1 clients know."""
    hint = f" ({exc.hint})" if exc.hint else ""
    param = exc.param or "text"  # what names no parameter is about the prompt
    return field_error(_WIRE_NAMES.get(param, param), exc.message + hint)

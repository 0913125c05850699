"""The response object: what was asked, and what came of it."""

from __future__ import annotations

import json
import time
from typing import Any

from takeoff.errors import InvalidRequest, TakeoffError
from takeoff.http.openai.responses.body import ResponsesBody
from takeoff.http.openai.responses.output import Output
from takeoff.http.openai.responses.tools import shown_tools
from takeoff.http.ports import Generation
from takeoff.http.visiting import new_answer_id
from takeoff.request import FinishReason

# How a response has ended.
_STATUS: dict[FinishReason | None, str] = {
    FinishReason.STOP: "completed",
    FinishReason.CANCELLED: "cancelled",
}
_INCOMPLETE: dict[FinishReason | None, str] = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.DEADLINE: "deadline",
}


class ResponseObject:
    """One response, from its beginning to its end."""

    def __init__(self, body: ResponsesBody, model: str) -> None:
        """Raise InvalidRequest if the body says what JSON can't, a number out of range for example."""
        asked = _asked(body)
        for name, value in asked.items():
            try:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, RecursionError) as exc:
                raise InvalidRequest(f"{name} is no JSON: {exc}", param=name) from exc
        self._told = {
            "id": new_answer_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "completed_at": None,
            "status": "in_progress",
            "model": model,
            "output": [],
            "error": None,
            "incomplete_details": None,
            "usage": None,
            **asked,
        }

    def begun(self) -> dict[str, Any]:
        """Before it has said anything."""
        return self._told

    def ended(self, generation: Generation, output: Output) -> dict[str, Any]:
        """At its end."""
        reason = generation.finish_reason
        is_whole = reason is FinishReason.STOP
        why = _INCOMPLETE.get(reason)
        return {
            **self._told,
            "completed_at": int(time.time()) if is_whole else None,
            "status": _STATUS.get(reason, "incomplete"),
            "incomplete_details": None if why is None else {"reason": why},
            "output": output.items,
            "usage": _usage(generation),
        }

    def failed(self, exc: TakeoffError, generation: Generation, output: Output) -> dict[str, Any]:
        """After `exc` has broken it off."""
        return {
            **self._told,
            "status": "failed",
            "error": {"code": "server_error", "message": exc.told},
            "output": output.items,
            "usage": _usage(generation),
        }


def _asked(body: ResponsesBody) -> dict[str, Any]:
    """What the body asked for, with the defaults of what it left out."""
    return {
        "background": False,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
        "safety_identifier": body.safety_identifier,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "text": {"format": body.shown_format, "verbosity": "medium"},
        "tool_choice": body.tool_choice or "auto",
        "tools": shown_tools(body.tools or []),
        "top_logprobs": body.top_logprobs or 0,
        "top_p": 1.0 if body.top_p is None else body.top_p,
        "truncation": "disabled",
        "user": body.user,
    }


def _usage(generation: Generation) -> dict[str, Any]:
    prompt, completion = generation.prompt_tokens, generation.completion_tokens
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": generation.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": generation.reasoning_tokens},
        "total_tokens": prompt + completion,
    }

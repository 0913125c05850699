"""The messages of a chat: checked, each field by its name, and handed on as templates want them."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import refuse_unknown
from takeoff.http.openai.images import MAX_IMAGES, image_of

MAX_MESSAGES = 4_096
MAX_PARTS = 1_024  # of one message
MAX_CALLS = 128  # of one message
MAX_NAME = 256  # characters of a name or an id

# role -> its fields that are honoured
FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("content", "name"),
    "developer": ("content", "name"),
    "user": ("content", "name"),
    "assistant": ("content", "name", "tool_calls", "reasoning_content"),
    "tool": ("content", "name", "tool_call_id"),
}
PART_FIELDS = ("type", "text", "prompt_cache_breakpoint")  # the last is harmless: what is reused is found
IMAGE_FIELDS = ("type", "image_url", "prompt_cache_breakpoint")
# What answers have and histories bring back: taken where it says nothing.
EMPTY_ONLY = ("refusal", "annotations", "audio", "function_call", "tool_calls", "reasoning_content")


def checked_messages(
    messages: Sequence[Any], *, lenient: bool, images: list[bytes] | None = None
) -> list[dict[str, Any]]:
    """The messages, of known roles and shapes.

    The files of a user's images are added to `images`, and a part of the type image stands in their place;
    without `images` they are refused.

    Raises:
        InvalidRequest: `param` is the place, as in `messages[1].content[0]`.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequest(f"1 to {MAX_MESSAGES} messages, got {len(messages)}", param="messages")
    files = _Files(images)
    checked = [
        _message(message, f"messages[{i}]", files, lenient=lenient) for i, message in enumerate(messages)
    ]
    if checked[-1]["role"] == "assistant" and "tool_calls" in checked[-1]:
        raise InvalidRequest(
            "an assistant's last message is continued, and one with calls can't be",
            param=f"messages[{len(messages) - 1}].tool_calls",
            hint="let the results of the calls follow it, as messages of the role tool",
        )
    return checked


def predicted_text(prediction: dict[str, Any], *, lenient: bool) -> str:
    """The text that a `prediction` says the answer may be.

    Raises:
        InvalidRequest: it is not of the type content, or has none; its `param` is the field.
    """
    known = ["type", "content"]
    refuse_unknown(prediction.keys() - set(known), known, lenient=lenient, inside="prediction")
    if prediction.get("type") != "content":
        raise _wrong("prediction.type", "content", prediction.get("type"))
    at = "prediction.content"
    content = _content(prediction.get("content"), at, _Files(None), lenient=lenient)
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


class _Files:
    """Where the images of a conversation are gathered, if they may be there."""

    def __init__(self, images: list[bytes] | None) -> None:
        self._images = images

    @property
    def kinds(self) -> str:
        """Of parts that are read, in words."""
        return "type text" if self._images is None else "types text and image_url"

    def take(self, part: dict[str, Any], at: str, *, lenient: bool) -> bool:
        """Whether `part` is an image that may be there; then it is added."""
        if self._images is None or part.get("type") != "image_url":
            return False
        refuse_unknown(part.keys() - set(IMAGE_FIELDS), IMAGE_FIELDS, lenient=lenient, inside=at)
        if len(self._images) == MAX_IMAGES:
            raise InvalidRequest(f"at most {MAX_IMAGES} images in a conversation", param=at)
        self._images.append(image_of(part, at, lenient=lenient))
        return True


def _message(message: Any, at: str, files: _Files, *, lenient: bool) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise _wrong(at, "an object", message)
    role = message.get("role")
    if not isinstance(role, str) or role not in FIELDS:
        raise _wrong(f"{at}.role", f"one of {', '.join(FIELDS)}", role)
    honoured = FIELDS[role]
    files = files if role == "user" else _Files(None)
    result: dict[str, Any] = {"role": role}
    unknown = []
    for name, value in message.items():
        if name in honoured:
            if value is not None:
                result[name] = _checked(name, value, f"{at}.{name}", files, lenient=lenient)
        elif name in EMPTY_ONLY:
            if value:
                raise InvalidRequest(f"{at}.{name} is not supported", param=f"{at}.{name}")
        elif name != "role":
            unknown.append(name)
    refuse_unknown(unknown, ["role", *honoured], lenient=lenient, inside=at)
    if not result.get("tool_calls"):
        result.pop("tool_calls", None)
        if "content" not in result:
            raise InvalidRequest(f"{at}.content is missing", param=f"{at}.content")
    if role == "tool" and "tool_call_id" not in result:
        raise InvalidRequest(f"{at}.tool_call_id is missing", param=f"{at}.tool_call_id")
    return result


def _checked(name: str, value: Any, at: str, files: _Files, *, lenient: bool) -> Any:
    match name:
        case "content":
            return _content(value, at, files, lenient=lenient)
        case "tool_calls":
            return _calls(value, at, lenient=lenient)
        case "reasoning_content":
            return _text(value, at)
    return _short(value, at)


def _content(content: Any, at: str, files: _Files, *, lenient: bool) -> Any:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not 1 <= len(content) <= MAX_PARTS:
        raise _wrong(at, f"a text or 1 to {MAX_PARTS} parts", content)
    parts = []
    for i, part in enumerate(content):
        place = f"{at}[{i}]"
        if not isinstance(part, dict):
            raise _wrong(place, "an object", part)
        if files.take(part, place, lenient=lenient):
            parts.append({"type": "image"})
            continue
        kind = part.get("type")
        if kind != "text":
            message = f"{place}: only parts of the {files.kinds} are read, not {reprlib.repr(kind)}"
            raise InvalidRequest(message, param=f"{place}.type")
        refuse_unknown(part.keys() - set(PART_FIELDS), PART_FIELDS, lenient=lenient, inside=place)
        parts.append({"type": "text", "text": _text(part.get("text"), f"{place}.text")})
    return parts


def _calls(calls: Any, at: str, *, lenient: bool) -> list[dict[str, Any]]:
    """Calls of the past. What a model wrote as their arguments need not be JSON."""
    if not isinstance(calls, list) or len(calls) > MAX_CALLS:
        raise _wrong(at, f"a list of up to {MAX_CALLS} calls", calls)
    checked = []
    for i, call in enumerate(calls):
        place = f"{at}[{i}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            raise _wrong(place, "a call of the type function", call)
        known = ["id", "type", "function", "index"]
        refuse_unknown(call.keys() - set(known), known, lenient=lenient, inside=place)
        known = ["name", "arguments"]
        refuse_unknown(function.keys() - set(known), known, lenient=lenient, inside=f"{place}.function")
        arguments = function.get("arguments", "")
        if isinstance(arguments, dict):
            arguments = json.dumps(arguments, ensure_ascii=False)
        checked.append(
            {
                "id": _short(call.get("id"), f"{place}.id"),
                "type": "function",
                "function": {
                    "name": _short(function.get("name"), f"{place}.function.name"),
                    "arguments": _text(arguments, f"{place}.function.arguments"),
                },
            }
        )
    return checked


def _text(value: Any, at: str) -> str:
    if not isinstance(value, str):
        raise _wrong(at, "a text", value)
    return value


def _short(value: Any, at: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise _wrong(at, f"a text of up to {MAX_NAME} characters", value)
    return value


def _wrong(at: str, wanted: str, value: Any) -> InvalidRequest:
    return InvalidRequest(f"{at} must be {wanted}, got {reprlib.repr(value)}", param=at)

"""The messages of Anthropic's API: checked, and handed on in the shape that a Conversation has, OpenAI's.

A block of a message or of a tool's result becomes a part: a text, or the place of an image.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import reprlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.calls import NUM_ID_CHARACTERS
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.images import MAX_IMAGES
from takeoff.http.openai.messages import MAX_CALLS, MAX_MESSAGES, MAX_PARTS
from takeoff.http.openai.objects import ObjectFields, checked_bool, checked_name, checked_text, wrong

ROLES = ("user", "assistant", "system")
ID_PREFIX = "toolu_"
ERROR_LINE = "Error:"  # before the result of a tool that failed

MESSAGE_FIELDS = ObjectFields(("role", "content"))
SOURCE_FIELDS = ObjectFields(("type", "media_type", "data"))
MEDIA_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
CACHED = {"cache_control": dict}  # harmless: what is reused is found

_RESULT = "tool_result"
_PLAIN_ID = re.compile(f"[a-zA-Z0-9]{{{NUM_ID_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class BlockKind:
    """Where a kind of block may stand, and its fields."""

    places: tuple[str, ...]  # messages of these roles, and results of tools
    fields: ObjectFields


BLOCKS = {
    "text": BlockKind(
        (*ROLES, _RESULT), ObjectFields(("type", "text"), CACHED, {"citations": Unserved((None, []))})
    ),
    "image": BlockKind(
        ("user", _RESULT), ObjectFields(("type", "source"), CACHED, {"transformations": Unserved()})
    ),
    "tool_use": BlockKind(
        ("assistant",),
        ObjectFields(
            ("type", "id", "name", "input"),
            CACHED,
            {"caller": Unserved((None, {"type": "direct"})), "toolset_name": Unserved()},
        ),
    ),
    _RESULT: BlockKind(
        ("user",),
        ObjectFields(("type", "tool_use_id", "content", "is_error"), CACHED, {"toolset_name": Unserved()}),
    ),
    "thinking": BlockKind(("assistant",), ObjectFields(("type", "thinking"), {"signature": str})),
}

Blocks = list[tuple[str, dict[str, Any]]]  # each with its place, as in messages[1].content[0]


@dataclass(frozen=True, slots=True)
class Reading:
    """What is known while the messages are read, and how."""

    lenient: bool  # unknown fields are logged
    images: list[bytes] = field(default_factory=list)  # the files, in the order in which they stand
    names: dict[str, str] = field(default_factory=dict)  # of the tools that were called, by the calls' ids


def checked_messages(messages: Sequence[Any], system: Any, reading: Reading) -> list[dict[str, Any]]:
    """The system's text and the messages; those of one role that follow each other become one.

    The files of images are added to `reading`.

    Raises:
        InvalidRequest: `param` is the place.
    """
    if not 1 <= len(messages) <= MAX_MESSAGES:
        raise InvalidRequest(f"1 to {MAX_MESSAGES} messages, got {len(messages)}", param="messages")
    told: list[dict[str, Any]] = []
    if system not in (None, "", []):
        told.append({"role": "system", "content": _content(system, "system", "system", reading)})
    for i, message in enumerate(messages):
        for each in _message(message, f"messages[{i}]", reading):
            if told and each["role"] in ("user", "assistant") and told[-1]["role"] == each["role"]:
                told[-1] = _joined(told[-1], each)
            else:
                told.append(each)
    if "tool_calls" in told[-1]:
        raise InvalidRequest(
            "an assistant's last message is continued, and one with tool_use can't be",
            param=f"messages[{len(messages) - 1}]",
            hint="let a user's message with the tool_result follow it",
        )
    return told


def _message(message: Any, at: str, reading: Reading) -> Iterator[dict[str, Any]]:
    """A message as one or several: each result of a tool is one of its own."""
    if not isinstance(message, dict):
        raise wrong(at, "an object", message)
    MESSAGE_FIELDS.check(message, at, lenient=reading.lenient)
    role = message.get("role")
    if role not in ROLES:
        raise wrong(f"{at}.role", f"one of {', '.join(ROLES)}", role)
    content = message.get("content")
    if isinstance(content, str):
        yield {"role": role, "content": content}
        return
    blocks = _blocks(content, f"{at}.content", role, reading)
    if role == "assistant":
        yield _assistant(blocks, at, reading)
        return
    parts: list[dict[str, Any]] = []
    for place, block in blocks:
        if block["type"] != _RESULT:
            parts.append(_part(block, place, reading))
            continue
        if parts:
            yield {"role": role, "content": parts}
            parts = []
        yield _result(block, place, reading)
    if parts or not blocks:
        yield {"role": role, "content": parts or ""}


def _assistant(blocks: Blocks, at: str, reading: Reading) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    thoughts: list[str] = []
    for place, block in blocks:
        match block["type"]:
            case "text":
                parts.append(_part(block, place, reading))
            case "thinking":
                thoughts.append(checked_text(block.get("thinking"), f"{place}.thinking"))
            case _:
                calls.append(_call(block, place, reading))
    if len(calls) > MAX_CALLS:
        raise InvalidRequest(f"{at} has {len(calls)} tool_use, the limit is {MAX_CALLS}", param=at)
    message: dict[str, Any] = {"role": "assistant", "content": parts or ""}
    if calls:
        message["tool_calls"] = calls
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    return message


def _call(block: dict[str, Any], at: str, reading: Reading) -> dict[str, Any]:
    call_id = checked_name(block.get("id"), f"{at}.id")
    name = checked_name(block.get("name"), f"{at}.name")
    arguments = block.get("input")
    if not isinstance(arguments, dict):
        raise wrong(f"{at}.input", "an object", arguments)
    reading.names[call_id] = name
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": _plain_id(call_id), "type": "function", "function": function}


def _result(block: dict[str, Any], at: str, reading: Reading) -> dict[str, Any]:
    call_id = checked_name(block.get("tool_use_id"), f"{at}.tool_use_id")
    if call_id not in reading.names:
        message = f"{at}.tool_use_id is of no tool_use before it, got {reprlib.repr(call_id)}"
        raise InvalidRequest(message, param=f"{at}.tool_use_id")
    content = block.get("content")
    told = _content("" if content in (None, []) else content, f"{at}.content", _RESULT, reading)
    if checked_bool(block.get("is_error"), f"{at}.is_error"):
        told = [{"type": "text", "text": ERROR_LINE}, *_parts(told)]
    return {
        "role": "tool",
        "content": told,
        "tool_call_id": _plain_id(call_id),
        "name": reading.names[call_id],
    }


def _content(content: Any, at: str, place: str, reading: Reading) -> str | list[dict[str, Any]]:
    """A text, or the parts that blocks are."""
    if isinstance(content, str):
        return content
    return [_part(block, at, reading) for at, block in _blocks(content, at, place, reading)]


def _blocks(content: Any, at: str, place: str, reading: Reading) -> Blocks:
    """Blocks of the kinds that may stand in `place`, their fields checked."""
    if not isinstance(content, list) or len(content) > MAX_PARTS:
        raise wrong(at, f"a text or up to {MAX_PARTS} blocks", content)
    checked = []
    for i, block in enumerate(content):
        if not isinstance(block, dict):
            raise wrong(f"{at}[{i}]", "an object", block)
        name = block.get("type")
        kind = BLOCKS.get(name) if isinstance(name, str) else None
        if kind is None or place not in kind.places:
            readable = ", ".join(name for name, each in BLOCKS.items() if place in each.places)
            message = f"{at}[{i}]: only blocks of the type {readable} are read, not {reprlib.repr(name)}"
            raise InvalidRequest(message, param=f"{at}[{i}].type")
        kind.fields.check(block, f"{at}[{i}]", lenient=reading.lenient)
        checked.append((f"{at}[{i}]", block))
    return checked


def _part(block: dict[str, Any], at: str, reading: Reading) -> dict[str, Any]:
    if block["type"] == "image":
        if len(reading.images) == MAX_IMAGES:
            raise InvalidRequest(f"at most {MAX_IMAGES} images in a conversation", param=at)
        reading.images.append(_image(block.get("source"), f"{at}.source", lenient=reading.lenient))
        return {"type": "image"}
    return {"type": "text", "text": checked_text(block.get("text"), f"{at}.text")}


def _image(source: Any, at: str, *, lenient: bool) -> bytes:
    """The file that stands in a source of the type base64."""
    kind = source.get("type") if isinstance(source, dict) else source
    if kind != "base64":
        why = "must be an object of the type base64, because this server fetches nothing"
        raise InvalidRequest(f"{at} {why}, got {reprlib.repr(kind)}", param=at)
    SOURCE_FIELDS.check(source, at, lenient=lenient)
    if source.get("media_type") not in MEDIA_TYPES:
        raise wrong(f"{at}.media_type", f"one of {', '.join(MEDIA_TYPES)}", source.get("media_type"))
    try:
        return base64.b64decode(checked_text(source.get("data"), f"{at}.data"), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequest(f"{at}.data is no base64: {exc}", param=f"{at}.data") from exc


def _joined(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Two messages of one role as one: the texts of the second are further lines."""
    joined = {**first, "content": [*_parts(first["content"]), *_parts(second["content"])]}
    calls = [*first.get("tool_calls", []), *second.get("tool_calls", [])]
    if calls:
        joined["tool_calls"] = calls
    thoughts = [each["reasoning_content"] for each in (first, second) if "reasoning_content" in each]
    if thoughts:
        joined["reasoning_content"] = "\n".join(thoughts)
    return joined


def _parts(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def _plain_id(call_id: str) -> str:
    """The id of a call as templates take it: what follows our prefix, or of a stranger's id the hash."""
    own = call_id.removeprefix(ID_PREFIX)
    if _PLAIN_ID.fullmatch(own):
        return own
    return hashlib.sha256(call_id.encode("utf-8", "replace")).hexdigest()[:NUM_ID_CHARACTERS]

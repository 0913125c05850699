"""The items of an input: checked, each field by its name, and handed on as the messages of a chat."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Unserved
from takeoff.http.openai.images import MAX_IMAGES, file_of
from takeoff.http.openai.messages import MAX_CALLS, MAX_MESSAGES, MAX_PARTS
from takeoff.http.openai.objects import ObjectFields, checked_name, checked_text, wrong

ROLES = ("user", "assistant", "system", "developer")

_TOLD = {"id": str, "status": str}  # of an answer's items, which histories bring back
_OF_CALLS = {
    "async": Unserved((None, False)),
    "async_": Unserved((None, False)),  # as the openai package's objects have it
    "caller": Unserved((None, {"type": "direct"})),
    "namespace": Unserved((None, "")),
}
ITEMS = {
    "message": ObjectFields(("type", "role", "content"), {**_TOLD, "phase": str}),
    "function_call": ObjectFields(
        ("type", "call_id", "name", "arguments"), {**_TOLD, "parsed_arguments": object}, _OF_CALLS
    ),
    "function_call_output": ObjectFields(("type", "call_id", "name", "output"), _TOLD, _OF_CALLS),
    "reasoning": ObjectFields(
        ("type", "summary", "content"),
        _TOLD,
        {"encrypted_content": Unserved((None, ""), "only who wrote it can read it: leave the item out")},
    ),
}
_INSTEAD = {"item_reference": "nothing is stored: send the item itself"}

_CACHED = {"prompt_cache_breakpoint": dict}  # harmless: what is reused is found
_INPUT_TEXT = ObjectFields(("type", "text"), _CACHED)
_INPUT_IMAGE = ObjectFields(
    ("type", "image_url"),
    _CACHED,
    {
        "detail": Unserved((None, "auto"), "an image is read in the one way of its model"),
        "file_id": Unserved((None,), "send the image itself, as a data: URL"),
    },
)
_OUTPUT_TEXT = ObjectFields(
    ("type", "text"), {"logprobs": list, "parsed": object}, {"annotations": Unserved((None, []))}
)
_PLAIN = ObjectFields(("type", "text"))

# The kinds of parts that may stand somewhere: the field that says what it is about, and all fields.
Kinds = Mapping[str, tuple[str, ObjectFields]]
_IMAGE = "input_image"
_INPUT: Kinds = {"input_text": ("text", _INPUT_TEXT)}
_USER: Kinds = {**_INPUT, _IMAGE: ("image_url", _INPUT_IMAGE)}
_ASSISTANT: Kinds = {
    "output_text": ("text", _OUTPUT_TEXT),
    "input_text": ("text", _INPUT_TEXT),
    "refusal": ("refusal", ObjectFields(("type", "refusal"))),
}
_SUMMARY: Kinds = {"summary_text": ("text", _PLAIN)}
_THOUGHT: Kinds = {"reasoning_text": ("text", _PLAIN)}

Message = dict[str, Any]
Part = dict[str, Any]  # of a chat: a text, or the place of an image
Content = str | list[Part]


class History:
    """The messages of a chat that an input is. Raises InvalidRequest with the place, as in `input[1].id`.

    What an assistant thinks, says and calls before it is somebody else's turn is one message.
    """

    def __init__(self, given: str | list[Any], instructions: str | None, *, lenient: bool) -> None:
        """`instructions` are the system's message, which comes first."""
        self.messages: list[Message] = []
        self.images: list[bytes] = []  # files, in the order of their places in the messages
        self._lenient = lenient
        if instructions is not None:
            self.messages.append({"role": "system", "content": instructions})
        if isinstance(given, str):
            self.messages.append({"role": "user", "content": given})
            return
        if not 1 <= len(given) <= MAX_MESSAGES:
            raise InvalidRequest(f"1 to {MAX_MESSAGES} items, got {len(given)}", param="input")
        for i, item in enumerate(given):
            self._add(item, f"input[{i}]")
        if self._calls:
            raise InvalidRequest(
                "an assistant's last message is continued, and one with calls can't be",
                param=f"input[{len(given) - 1}]",
                hint="let the results of the calls follow it, as items of the type function_call_output",
            )

    @property
    def _last(self) -> Message | None:
        """The assistant's message at the end, if one is there."""
        is_there = self.messages and self.messages[-1]["role"] == "assistant"
        return self.messages[-1] if is_there else None

    @property
    def _calls(self) -> list[Any]:
        """Those that the end waits for the results of."""
        return self._last.get("tool_calls", []) if self._last else []

    def _add(self, item: Any, at: str) -> None:
        if not isinstance(item, dict):
            raise wrong(at, "an object", item)
        kind = item.get("type") or "message"
        if not isinstance(kind, str) or kind not in ITEMS:
            message = f"{at}: only items of the type {', '.join(ITEMS)} are read, not {reprlib.repr(kind)}"
            raise InvalidRequest(message, param=f"{at}.type", hint=_INSTEAD.get(str(kind)))
        ITEMS[kind].check(item, at, lenient=self._lenient)
        match kind:
            case "message":
                self._add_message(item, at)
            case "function_call":
                self._add_call(item, at)
            case "function_call_output":
                self._add_result(item, at)
            case "reasoning":
                self._add_thoughts(item, at)

    def _add_message(self, item: dict[str, Any], at: str) -> None:
        role = item.get("role")
        if role not in ROLES:
            raise wrong(f"{at}.role", f"one of {', '.join(ROLES)}", role)
        kinds = {"assistant": _ASSISTANT, "user": _USER}.get(role, _INPUT)
        content = self._content(item.get("content"), f"{at}.content", kinds)
        if role == "assistant" and self._last and (self._calls or not self._last["content"]):
            self._last["content"] = _lines(self._last["content"], content)
        else:
            self.messages.append({"role": role, "content": content})

    def _add_call(self, item: dict[str, Any], at: str) -> None:
        call_id = checked_name(item.get("call_id"), f"{at}.call_id")
        function = {
            "name": checked_name(item.get("name"), f"{at}.name"),
            "arguments": checked_text(item.get("arguments"), f"{at}.arguments"),
        }
        last = self._last or self._begin()
        calls = last.setdefault("tool_calls", [])
        if len(calls) == MAX_CALLS:
            raise InvalidRequest(f"{at} is one call too many, the limit is {MAX_CALLS}", param=at)
        calls.append({"id": call_id, "type": "function", "function": function})

    def _add_result(self, item: dict[str, Any], at: str) -> None:
        result: Message = {
            "role": "tool",
            "tool_call_id": checked_name(item.get("call_id"), f"{at}.call_id"),
            "content": self._content(item.get("output"), f"{at}.output", _USER),
        }
        if item.get("name") is not None:
            result["name"] = checked_name(item["name"], f"{at}.name")
        self.messages.append(result)

    def _add_thoughts(self, item: dict[str, Any], at: str) -> None:
        """The thoughts themselves, or where there are none their summary."""
        summary = self._parts(item.get("summary") or [], f"{at}.summary", _SUMMARY)
        thoughts = self._parts(item.get("content") or [], f"{at}.content", _THOUGHT)
        text = "\n".join(part["text"] for part in thoughts or summary)
        if not text:
            return
        last = self._last if self._last and self._calls else self._begin()
        before = last.get("reasoning_content")
        last["reasoning_content"] = f"{before}\n{text}" if before else text

    def _begin(self) -> Message:
        """A new message of the assistant's."""
        self.messages.append({"role": "assistant", "content": ""})
        return self.messages[-1]

    def _content(self, content: Any, at: str, kinds: Kinds) -> Content:
        """A text, or parts of these kinds."""
        if isinstance(content, str):
            return content
        if not isinstance(content, list) or not content:
            raise wrong(at, f"a text or 1 to {MAX_PARTS} parts", content)
        return self._parts(content, at, kinds)

    def _parts(self, parts: Any, at: str, kinds: Kinds) -> list[Part]:
        if not isinstance(parts, list) or len(parts) > MAX_PARTS:
            raise wrong(at, f"up to {MAX_PARTS} parts", parts)
        return [self._part(part, f"{at}[{i}]", kinds) for i, part in enumerate(parts)]

    def _part(self, part: Any, at: str, kinds: Kinds) -> Part:
        if not isinstance(part, dict):
            raise wrong(at, "an object", part)
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in kinds:
            message = f"{at}: only parts of the type {', '.join(kinds)} are read, not {reprlib.repr(kind)}"
            raise InvalidRequest(message, param=f"{at}.type")
        name, fields = kinds[kind]
        fields.check(part, at, lenient=self._lenient)
        if kind != _IMAGE:
            return {"type": "text", "text": checked_text(part.get(name), f"{at}.{name}")}
        if len(self.images) == MAX_IMAGES:
            raise InvalidRequest(f"at most {MAX_IMAGES} images in a conversation", param=at)
        self.images.append(file_of(part.get(name), f"{at}.{name}"))
        return {"type": "image"}


def _lines(first: Content, second: Content) -> Content:
    """Both, the second as further lines."""
    if not first or not second:
        return first or second
    return [*_as_parts(first), *_as_parts(second)]


def _as_parts(content: Content) -> list[Part]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]

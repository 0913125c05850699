"""The items of an input: checked, each field by its name, and handed on as the messages of a chat."""

from __future__ import annotations

import reprlib
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Unserved
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
# What a part's text is called, and its fields, by the part's type.
_USER_PARTS = {"input_text": ("text", _INPUT_TEXT)}
_ASSISTANT_PARTS = {
    "output_text": (
        "text",
        ObjectFields(
            ("type", "text"), {"logprobs": list, "parsed": object}, {"annotations": Unserved((None, []))}
        ),
    ),
    "input_text": ("text", _INPUT_TEXT),
    "refusal": ("refusal", ObjectFields(("type", "refusal"))),
}
_SUMMARY_PARTS = {"summary_text": ("text", ObjectFields(("type", "text")))}
_THOUGHT_PARTS = {"reasoning_text": ("text", ObjectFields(("type", "text")))}

Message = dict[str, Any]
Content = str | list[dict[str, Any]]


def checked_input(given: str | list[Any], instructions: str | None, *, lenient: bool) -> list[Message]:
    """The messages that an input is, after the system's with the instructions.

    What an assistant thinks, says and calls before somebody else's turn is one message.

    Raises:
        InvalidRequest: `param` is the place, as in `input[1].content[0]`.
    """
    told = [] if instructions is None else [{"role": "system", "content": instructions}]
    if isinstance(given, str):
        return [*told, {"role": "user", "content": given}]
    if not 1 <= len(given) <= MAX_MESSAGES:
        raise InvalidRequest(f"1 to {MAX_MESSAGES} items, got {len(given)}", param="input")
    for i, item in enumerate(given):
        _add(told, item, f"input[{i}]", lenient=lenient)
    if "tool_calls" in told[-1]:
        raise InvalidRequest(
            "an assistant's last message is continued, and one with calls can't be",
            param=f"input[{len(given) - 1}]",
            hint="let the results of the calls follow it, as items of the type function_call_output",
        )
    return told


def _add(told: list[Message], item: Any, at: str, *, lenient: bool) -> None:
    """Add the item at `at` to the messages before it."""
    if not isinstance(item, dict):
        raise wrong(at, "an object", item)
    kind = item.get("type", "message")
    if not isinstance(kind, str) or kind not in ITEMS:
        message = f"{at}: only items of the type {', '.join(ITEMS)} are read, not {reprlib.repr(kind)}"
        raise InvalidRequest(message, param=f"{at}.type", hint=_INSTEAD.get(str(kind)))
    ITEMS[kind].check(item, at, lenient=lenient)
    match kind:
        case "message":
            _add_message(told, item, at, lenient=lenient)
        case "function_call":
            _add_call(told, item, at)
        case "function_call_output":
            told.append(_result(item, at, lenient=lenient))
        case "reasoning":
            _add_thoughts(told, item, at, lenient=lenient)


def _add_message(told: list[Message], item: dict[str, Any], at: str, *, lenient: bool) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise wrong(f"{at}.role", f"one of {', '.join(ROLES)}", role)
    if role != "assistant":
        content = _content(item.get("content"), f"{at}.content", _USER_PARTS, lenient=lenient)
        told.append({"role": role, "content": content})
        return
    content = _content(item.get("content"), f"{at}.content", _ASSISTANT_PARTS, lenient=lenient)
    last = told[-1] if told else {}
    if "tool_calls" in last or ("reasoning_content" in last and not last["content"]):
        last["content"] = _lines(last["content"], content)
    else:
        told.append({"role": "assistant", "content": content})


def _add_call(told: list[Message], item: dict[str, Any], at: str) -> None:
    function = {
        "name": checked_name(item.get("name"), f"{at}.name"),
        "arguments": checked_text(item.get("arguments"), f"{at}.arguments"),
    }
    call = {
        "id": checked_name(item.get("call_id"), f"{at}.call_id"),
        "type": "function",
        "function": function,
    }
    calls = _assistant(told).setdefault("tool_calls", [])
    if len(calls) == MAX_CALLS:
        raise InvalidRequest(f"at most {MAX_CALLS} calls at once", param=at)
    calls.append(call)


def _result(item: dict[str, Any], at: str, *, lenient: bool) -> Message:
    result: Message = {
        "role": "tool",
        "tool_call_id": checked_name(item.get("call_id"), f"{at}.call_id"),
        "content": _content(item.get("output"), f"{at}.output", _USER_PARTS, lenient=lenient),
    }
    if item.get("name") is not None:
        result["name"] = checked_name(item["name"], f"{at}.name")
    return result


def _add_thoughts(told: list[Message], item: dict[str, Any], at: str, *, lenient: bool) -> None:
    """The thoughts themselves, or where there are none their summary."""
    summary = _texts(item.get("summary") or [], f"{at}.summary", _SUMMARY_PARTS, lenient=lenient)
    thoughts = _texts(item.get("content") or [], f"{at}.content", _THOUGHT_PARTS, lenient=lenient)
    text = "\n".join(thoughts or summary)
    if not text:
        return
    if told and "tool_calls" in told[-1]:
        before = told[-1].get("reasoning_content")
        told[-1]["reasoning_content"] = f"{before}\n{text}" if before else text
    else:
        told.append({"role": "assistant", "content": "", "reasoning_content": text})


def _assistant(told: list[Message]) -> Message:
    """The assistant's message at the end, where there is one; else a new one."""
    if not told or told[-1]["role"] != "assistant":
        told.append({"role": "assistant", "content": ""})
    return told[-1]


def _content(content: Any, at: str, kinds: dict[str, tuple[str, ObjectFields]], *, lenient: bool) -> Content:
    """A text, or the parts of a chat that parts of these kinds are."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise wrong(at, f"a text or 1 to {MAX_PARTS} parts", content)
    return [{"type": "text", "text": text} for text in _texts(content, at, kinds, lenient=lenient)]


def _texts(parts: Any, at: str, kinds: dict[str, tuple[str, ObjectFields]], *, lenient: bool) -> list[str]:
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise wrong(at, f"up to {MAX_PARTS} parts", parts)
    texts = []
    for i, part in enumerate(parts):
        place = f"{at}[{i}]"
        if not isinstance(part, dict):
            raise wrong(place, "an object", part)
        kind = part.get("type")
        if not isinstance(kind, str) or kind not in kinds:
            message = f"{place}: only parts of the type {', '.join(kinds)} are read, not {reprlib.repr(kind)}"
            raise InvalidRequest(message, param=f"{place}.type")
        name, fields = kinds[kind]
        fields.check(part, place, lenient=lenient)
        texts.append(checked_text(part.get(name), f"{place}.{name}"))
    return texts


def _lines(first: Content, second: Content) -> Content:
    """Both, the second as further lines."""
    if not first or not second:
        return first or second
    return [*_parts(first), *_parts(second)]


def _parts(content: Content) -> list[dict[str, Any]]:
    return content if isinstance(content, list) else [{"type": "text", "text": content}]

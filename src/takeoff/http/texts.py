"""What the routes that take texts have in common: how many, how long, and in the Takeoff API for whom."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from pydantic import Field

from takeoff.errors import InvalidRequest, PayloadTooLarge, TakeoffError
from takeoff.http.bodies import field_error
from takeoff.request import Text
from takeoff.settings import Settings

Item = TypeVar("Item")
GroupName = Annotated[
    str | None, Field(max_length=1_024, description="Group of readers that answers; default primary")
]

# Our parameter -> the field a client of this API knows it by.
_WIRE_NAMES = {"prompt": "text", "group": "consumer_group", "regex": "regex_string"}


def like(texts: object, results: list[Item]) -> Item | list[Item]:
    """The result of one text for a text, a list for a list."""
    return results[0] if isinstance(texts, str) else results


def check_texts(texts: Sequence[Text], settings: Settings, field: str = "text") -> None:
    """Bound the texts of one request; of a pair, both together. `field` is where the client put them.

    Raises:
        RequestValidationError: none, or too many.
        PayloadTooLarge: one is too long.
    """
    most = settings.max_user_batch_size
    if not 1 <= len(texts) <= most:
        kind = "too_long" if texts else "too_short"
        raise field_error(field, f"1 to {most} texts at once, got {len(texts)}", kind)
    for text in texts:
        num_bytes = _num_bytes(text) if isinstance(text, str) else sum(map(_num_bytes, text))
        if num_bytes > settings.max_prompt_string_bytes:
            raise PayloadTooLarge(
                f"{field} has {num_bytes} bytes, the limit is {settings.max_prompt_string_bytes}",
                param=field,
                hint="raise it with --max-prompt-string-bytes",
            )


def in_wire_names(exc: TakeoffError) -> InvalidRequest:
    """A refusal that names the field at fault; a group or a reader that isn't there is one too."""
    kind = type(exc) if isinstance(exc, InvalidRequest) else InvalidRequest
    field = _WIRE_NAMES.get(exc.param or "", exc.param)
    is_named = field is None or field in exc.message
    message = exc.message if is_named else f"{field}: {exc.message}"
    return kind(message, param=exc.param, hint=exc.hint)


def _num_bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))

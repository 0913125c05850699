"""Images in a message: files that stand in it as data: URLs. Nothing is fetched."""

from __future__ import annotations

import base64
import binascii
import re
import reprlib
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import refuse_unknown

MAX_IMAGES = 16  # of one conversation
_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]+;base64,", re.IGNORECASE)
_FIELDS = ("url", "detail")


def image_of(part: dict[str, Any], at: str, *, lenient: bool) -> bytes:
    """The file of a part of the type image_url.

    Raises:
        InvalidRequest: `param` is the place.
    """
    image = part.get("image_url")
    if isinstance(image, str):  # as some clients write it
        image = {"url": image}
    if not isinstance(image, dict):
        raise _refusal(f"{at}.image_url", f"must be an object with a url, got {reprlib.repr(image)}")
    refuse_unknown(image.keys() - set(_FIELDS), _FIELDS, lenient=lenient, inside=f"{at}.image_url")
    detail = image.get("detail")
    if detail not in (None, "auto"):
        why = f"must be auto: an image is read in the one way of its model, got {reprlib.repr(detail)}"
        raise _refusal(f"{at}.image_url.detail", why)
    return file_of(image.get("url"), f"{at}.image_url.url")


def file_of(url: Any, at: str) -> bytes:
    """The file that the data: URL at `at` is.

    Raises:
        InvalidRequest: it is none; `param` is the place.
    """
    if not isinstance(url, str):
        raise _refusal(at, f"must be a text, got {reprlib.repr(url)}")
    head = _DATA_URL.match(url)
    if head is None:
        why = "must be a data: URL of an image in base64, because this server fetches nothing, got "
        raise _refusal(at, why + reprlib.repr(url))
    try:
        return base64.b64decode(url[head.end() :], validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _refusal(at, f"is no base64: {exc}") from exc


def _refusal(at: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{at} {why}", param=at, hint='send "data:image/png;base64,..."')

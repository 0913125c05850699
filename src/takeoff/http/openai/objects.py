"""The objects inside of a body: each field is honoured, harmless, or taken where it says nothing."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any

from takeoff.errors import InvalidRequest
from takeoff.http.openai.fields import Unserved, refuse_unknown
from takeoff.http.openai.messages import MAX_NAME


@dataclass(frozen=True, slots=True)
class ObjectFields:
    """The fields of a kind of object."""

    honoured: tuple[str, ...]
    harmless: Mapping[str, type] = field(default_factory=dict)  # and the type, which is all that is checked
    unserved: Mapping[str, Unserved] = field(default_factory=dict)

    def check(self, given: Mapping[str, Any], at: str, *, lenient: bool) -> None:
        """Raise InvalidRequest for a field of the object at `at` that is none of these.

        `lenient`: unknown fields are logged instead.
        """
        for name, kind in self.harmless.items():
            value = given.get(name)
            if not isinstance(value, kind | NoneType):
                raise wrong(f"{at}.{name}", f"of the type {kind.__name__}", value)
        for name in given.keys() & self.unserved.keys():
            if not self.unserved[name].takes(given[name]):
                message = f"{at}.{name} is not supported, got {reprlib.repr(given[name])}"
                raise InvalidRequest(message, param=f"{at}.{name}", hint=self.unserved[name].instead)
        known = [*self.honoured, *self.harmless, *self.unserved]
        refuse_unknown(given.keys() - set(known), known, lenient=lenient, inside=at)


def checked_text(value: Any, at: str) -> str:
    """`value`, if it is a text; else InvalidRequest."""
    if not isinstance(value, str):
        raise wrong(at, "a text", value)
    return value


def checked_name(value: Any, at: str) -> str:
    """`value`, if it is a short text; else InvalidRequest."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise wrong(at, f"a text of 1 to {MAX_NAME} characters", value)
    return value


def checked_bool(value: Any, at: str) -> bool:
    """`value`, if it is a truth value, null for false; else InvalidRequest."""
    if not isinstance(value, bool | NoneType):
        raise wrong(at, "true or false", value)
    return bool(value)


def wrong(at: str, wanted: str, value: Any) -> InvalidRequest:
    """The refusal of a value of another kind."""
    return InvalidRequest(f"{at} must be {wanted}, got {reprlib.repr(value)}", param=at)

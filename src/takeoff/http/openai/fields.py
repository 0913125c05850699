"""Every field of OpenAI's schema is honoured, harmless, or refused by name. This is the table.

What a body model declares is honoured, unless it is named here as harmless. docs/reference/openai.md is
made of it.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from takeoff.errors import InvalidRequest, NotFound
from takeoff.request import MAX_DEPTH, is_nested_deeper

MAX_NAME_CHARACTERS = 64  # of an unknown field that are looked at
MAX_LOGGED = 16  # unknown fields of one object

logger = logging.getLogger(__name__)

# Fields whose value can't change the answer: taken, checked for their type, and not looked at.
HARMLESS = frozenset(
    {
        "max_tool_calls",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "user",
    }
)


@dataclass(frozen=True, slots=True)
class Unserved:
    """A field of the real API that we don't serve: only values that change nothing are taken."""

    harmless: tuple[Any, ...] = (None,)
    instead: str | None = None  # what to do

    def takes(self, value: Any) -> bool:
        return any(value is each or (type(value) is type(each) and value == each) for each in self.harmless)


class Inner(BaseModel):
    """An object of which every field is accounted for, inside a body or one itself."""

    model_config = ConfigDict(extra="allow")

    harmless: ClassVar[frozenset[str]] = frozenset()  # of an object inside; a body's are HARMLESS
    unserved: ClassVar[Mapping[str, Unserved]] = {}

    def check_at(self, place: str | None, *, lenient: bool) -> None:
        """As `OpenAIBody.check_fields`; `place` is where it stands in a body."""
        extra = self.model_extra or {}
        for name in extra.keys() & self.unserved.keys():
            unserved = self.unserved[name]
            if not unserved.takes(extra[name]):
                path = _path(place, name)
                message = f"{path} is not supported, got {reprlib.repr(extra[name])}"
                raise InvalidRequest(message, param=path, hint=unserved.instead)
        wire_names = {field.alias or name: name for name, field in type(self).model_fields.items()}
        known = [*wire_names, *self.unserved]
        refuse_unknown(extra.keys() - self.unserved.keys(), known, lenient=lenient, inside=place)
        for wire_name, name in wire_names.items():
            value = getattr(self, name)
            if isinstance(value, Inner):
                value.check_at(_path(place, wire_name), lenient=lenient)


class OpenAIBody(Inner):
    """A body. Call `check_fields` once it is parsed."""

    def check_fields(self, *, lenient: bool) -> None:
        """Refuse what is neither honoured nor harmless. `lenient`: unknown fields are logged instead.

        Raises:
            InvalidRequest: its `param` is the field.
        """
        self.check_at(None, lenient=lenient)


def refuse_unknown(
    names: Iterable[str], known: Iterable[str], *, lenient: bool, inside: str | None = None
) -> None:
    """Raise InvalidRequest for the first of `names`, with the nearest of `known`; `lenient`: log them.

    `inside`: where the fields are, when it is not the body itself.
    """
    for full_name in sorted(names)[:MAX_LOGGED]:
        name = full_name[:MAX_NAME_CHARACTERS].encode(errors="backslashreplace").decode()
        path = _path(inside, name)
        if lenient:
            logger.warning("ignored the unknown field %r", path)
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
        raise InvalidRequest(f"unknown field {path!r}; did you mean {near!r}?", param=path)


def _path(place: str | None, name: str) -> str:
    return f"{place}.{name}" if place else name


@contextlib.contextmanager
def told_as(names: Mapping[str | None, str]) -> Iterator[None]:
    """A refusal inside that names one of `names`, or nothing, names the body's field for it.

    Raises:
        InvalidRequest, NotFound: those that are raised inside.
    """
    try:
        yield
    except (InvalidRequest, NotFound) as exc:
        exc.param = names.get(exc.param, exc.param)
        raise


def check_depth(name: str, value: Any) -> None:
    """Raise InvalidRequest for a field whose value is nested more than templates and processes stand."""
    if is_nested_deeper(value, MAX_DEPTH):
        raise InvalidRequest(f"{name} is nested more than {MAX_DEPTH} deep", param=name)

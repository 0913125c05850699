"""Keys and values that somebody wrote in a manifest or a body, checked against the fields.

Numbers and truth values are strict (`"8"` is no number, 1 is not true), texts are lenient (5 is "5"),
null means the default, and unknown keys are ignored, all as Titan Takeoff has it.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from takeoff.settings.fields import SECRETS, ReaderSettings, has_effect
from takeoff.settings.names import DOOR_SWITCHES, TENSOR_PARALLEL, U64, Kind

MAX_SHOWN_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Entry:
    """One value: as data, and as text where it is a scalar."""

    value: Any  # None, bool, int, float, str, or a list or dict of such
    text: str | None

    @classmethod
    def of_json(cls, value: Any) -> Entry:
        """An entry of parsed JSON."""
        if isinstance(value, str):
            return cls(value, value)
        return cls(value, None if isinstance(value, list | dict) else json.dumps(value))


@dataclass(frozen=True, slots=True)
class KnownKeys:
    """What keys may stand in one place."""

    fields: frozenset[str]
    aliases: Mapping[str, str]
    without_effect: Mapping[str, Kind]


@dataclass(slots=True)
class Checked:
    """What keys amount to: typed values of fields, and what is wrong with which key."""

    values: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)  # field: the key that set it
    without_effect: list[str] = field(default_factory=list)  # keys
    problems: list[tuple[str, str]] = field(default_factory=list)  # key or "", and what is wrong


def check_entries(model: type[ReaderSettings], entries: Mapping[str, Entry], known: KnownKeys) -> Checked:
    """Translate keys into fields of `model` and check every value, by itself and beside the others."""
    checked = Checked()
    for key, entry in sorted(entries.items(), key=lambda item: item[0] in DOOR_SWITCHES):  # these win
        if entry.value is not None:
            _take(checked, key, entry, known, model)
    try:
        built = model.model_validate(checked.values, strict=True)
    except ValidationError as exc:
        checked.problems += [(checked.keys.get(name, ""), text) for name, text in problems_of(exc)]
    else:
        checked.values = {name: getattr(built, name) for name in checked.values}
    return checked


def _take(checked: Checked, key: str, entry: Entry, known: KnownKeys, model: type[ReaderSettings]) -> None:
    if key == TENSOR_PARALLEL:
        if _is_whole(entry.value, U64) and entry.value == 1:
            return
        checked.problems.append((key, f"only 1 is possible here, got {shown(entry.value)}"))
        return
    if key in DOOR_SWITCHES and DOOR_SWITCHES[key] in known.fields:
        _switch(checked, key, entry)
        return
    name = known.aliases.get(key, key)
    if name not in known.fields:
        _ignore(checked, key, entry, known)
        return
    is_text = entry.text is not None and not _leaves(model.model_fields[name].annotation) & {int, float, bool}
    value = entry.text if is_text else entry.value
    if name in checked.values and checked.values[name] != value:
        checked.problems.append((key, f"{checked.keys[name]} sets the same, to another value"))
        return
    if not has_effect(name, value):
        checked.without_effect.append(key)
    checked.values[name], checked.keys[name] = value, key


def _switch(checked: Checked, key: str, entry: Entry) -> None:
    if not isinstance(entry.value, bool):
        checked.problems.append((key, f"Input should be a valid boolean, got {shown(entry.value)}"))
    elif not entry.value:
        checked.values[DOOR_SWITCHES[key]], checked.keys[DOOR_SWITCHES[key]] = None, key


def _ignore(checked: Checked, key: str, entry: Entry, known: KnownKeys) -> None:
    """A key without effect here: one that Titan Takeoff knows has a type all the same."""
    checked.without_effect.append(key)
    kind = known.without_effect.get(key, "any")
    if isinstance(kind, int) and not _is_whole(entry.value, kind):
        text = f"Input should be a whole number from 0 to {kind}, got {shown(entry.value)}"
        checked.problems.append((key, text))
    elif kind == "text" and entry.text is None:
        checked.problems.append((key, "Input should be a valid string"))


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most


def _leaves(annotation: Any) -> set[Any]:
    """The types and words of which an annotation is made."""
    if typing.get_origin(annotation) is Annotated:
        return _leaves(annotation.__origin__)
    parts = typing.get_args(annotation)
    if not parts:
        return {annotation}
    return {leaf for part in parts for leaf in _leaves(part)}


def problems_of(exc: ValidationError) -> list[tuple[str, str]]:
    """Field ("" for all together) and what is wrong with it, once for each field."""
    by_field: dict[str, list[ErrorDetails]] = {}
    for error in exc.errors():
        by_field.setdefault(str(error["loc"][0]) if error["loc"] else "", []).append(error)
    return [(name, _text(name, errors)) for name, errors in by_field.items()]


def _text(name: str, errors: list[ErrorDetails]) -> str:
    if errors[0]["type"] == "value_error":
        return errors[0]["msg"].removeprefix("Value error, ")
    texts = list(dict.fromkeys(error["msg"] for error in errors))  # a union has one of each branch
    text = " or".join([texts[0], *(other.removeprefix("Input should be") for other in texts[1:])])
    return text if name in SECRETS else f"{text}, got {shown(errors[0]['input'])}"


def shown(value: Any) -> str:
    """A value in an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN_CHARACTERS else f"{text[:MAX_SHOWN_CHARACTERS]}…"


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """The names in order, each once."""
    return tuple(dict.fromkeys(names))

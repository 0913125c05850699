"""A proof that of a `oneOf`'s branches no two can take the same value: then it is an `anyOf`.

Proved by type, by constants, or by a property whose constants or types differ: a discriminator, as
pydantic writes them. Such a property need not be required by either of two branches: the proof then says
that what is written by both is to have it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]

_TYPES = {
    "null": {"null"},
    "boolean": {"boolean"},
    "integer": {"integer"},
    "number": {"integer", "fraction"},
    "string": {"string"},
    "array": {"array"},
    "object": {"object"},
}
_ALL_TYPES = frozenset().union(*_TYPES.values())
_MAX_DEPTH = 8  # of references and allOf that a proof looks through


@dataclass(slots=True)
class _Facts:
    """What is surely true of a value that a schema takes."""

    types: frozenset[str] = _ALL_TYPES
    values: frozenset[str] | None = None  # as JSON; None: any
    properties: dict[str, list[_Facts]] = field(default_factory=dict)
    required: set[str] = field(default_factory=set)

    def excludes(self, other: _Facts) -> bool:
        """Whether no value fits both, by its type or itself."""
        if not self.types & other.types:
            return True
        return self.values is not None and other.values is not None and not self.values & other.values


@dataclass(frozen=True, slots=True)
class Requirement:
    """Branch `branch` of the `oneOf` is to require the property `name`."""

    branch: int
    name: str


def prove_disjoint(branches: list[Any], resolve: Callable[[str], Any]) -> list[Requirement] | None:
    """What the branches have to require so that no two take the same value; None: no proof was found.

    `resolve` gives the schema that a `$ref` means.
    """
    facts = [_facts(branch, resolve, 0) for branch in branches]
    requirements: list[Requirement] = []
    for later, second in enumerate(facts):
        for earlier, first in enumerate(facts[:later]):
            if first.excludes(second):
                continue
            name = _telling_property(first, second)
            if name is None:
                return None
            if name not in first.required and name not in second.required:
                requirements += [Requirement(earlier, name), Requirement(later, name)]
    return requirements


def _telling_property(first: _Facts, second: _Facts) -> str | None:
    """A property whose value tells objects of the two apart: best a required one, then one of constants."""
    if first.types & second.types != {"object"}:
        return None
    telling = [
        name
        for name in first.properties.keys() & second.properties.keys()
        if any(a.excludes(b) for a in first.properties[name] for b in second.properties[name])
    ]
    is_required = first.required | second.required
    of_constants = {name for name in telling if any(each.values for each in first.properties[name])}
    return min(
        telling,
        key=lambda name: (name not in is_required, name not in of_constants, name),
        default=None,
    )


def _facts(schema: Any, resolve: Callable[[str], Any], depth: int) -> _Facts:
    if schema is False:
        return _Facts(types=frozenset())
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return _Facts()
    facts = _Facts(_types(schema), _values(schema))
    if facts.values is not None:
        facts.types &= {_type_of(json.loads(value)) for value in facts.values}
    if isinstance(schema.get("required"), list):
        facts.required |= {name for name in schema["required"] if isinstance(name, str)}
    if isinstance(schema.get("properties"), dict):
        for name, each in schema["properties"].items():
            facts.properties[name] = [_facts(each, resolve, depth + 1)]
    for part in _parts(schema, resolve):
        _add(facts, _facts(part, resolve, depth + 1))
    return facts


def _parts(schema: Mapping[str, Any], resolve: Callable[[str], Any]) -> Iterable[Any]:
    """Schemas that apply beside this one to the same value."""
    if isinstance(schema.get("$ref"), str):
        yield resolve(schema["$ref"])
    if isinstance(schema.get("allOf"), list):
        yield from schema["allOf"]


def _add(facts: _Facts, more: _Facts) -> None:
    facts.types &= more.types
    if facts.values is None or more.values is None:
        facts.values = more.values if facts.values is None else facts.values
    else:
        facts.values &= more.values
    facts.required |= more.required
    for name, each in more.properties.items():
        facts.properties.setdefault(name, []).extend(each)


def _types(schema: Mapping[str, Any]) -> frozenset[str]:
    named = schema.get("type")
    if isinstance(named, str):
        named = [named]
    if not isinstance(named, list):
        return _ALL_TYPES
    return frozenset().union(*(_TYPES.get(each, set()) for each in named if isinstance(each, str)))


def _values(schema: Mapping[str, Any]) -> frozenset[str] | None:
    values = None
    if isinstance(schema.get("enum"), list):
        values = frozenset(map(_canonical, schema["enum"]))
    if "const" in schema:
        const = frozenset({_canonical(schema["const"])})
        values = const if values is None else values & const
    return values


def _canonical(value: Any) -> str:
    """JSON that is the same for equal values: 1.0 is 1."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return value


def _type_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "fraction"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "object"

"""A proof that of a `oneOf`'s branches no two can take the same value: then it is an `anyOf`.

Proved by type, by constants, by bounds, by a property that one requires and the other can't have, or by a
property whose constants or types differ: a discriminator, as pydantic writes them. Such a property need
not be required by either of two branches: the proof then says that what is written by both is to have it.
Where each of two branches requires a property that the other does not, it says that neither is to have
the other's.
"""

from __future__ import annotations

import json
import math
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
    names: frozenset[str] | None = None  # of all properties that there may be; None: any
    low: float = -math.inf
    high: float = math.inf

    def excludes(self, other: _Facts) -> bool:
        """Whether no value fits both, by its type, its size, its properties or itself."""
        common = self.types & other.types
        if not common:
            return True
        if common <= {"integer", "fraction"} and (self.high < other.low or other.high < self.low):
            return True
        if common == {"object"} and (self._misses(other) or other._misses(self)):
            return True
        return self.values is not None and other.values is not None and not self.values & other.values

    def _misses(self, other: _Facts) -> bool:
        """Whether `other` requires a property that is not to be had here."""
        return self.names is not None and not other.required <= self.names


@dataclass(frozen=True, slots=True)
class Requirement:
    """Branch `branch` of the `oneOf` is to require the property `name`, or not to have it."""

    branch: int
    name: str
    is_present: bool = True


def prove_disjoint(
    branches: list[Any], resolve: Callable[[str], Any], beside: Schema
) -> list[Requirement] | None:
    """What the branches have to require so that no two take the same value; None: no proof was found.

    `resolve` gives the schema that a `$ref` means; `beside` is the one that the `oneOf` stands in.
    """
    facts = [_facts(branch, resolve, 0) for branch in branches]
    for each in facts:
        each.types &= _types(beside)
    requirements: list[Requirement] = []
    for later, second in enumerate(facts):
        for earlier, first in enumerate(facts[:later]):
            if first.excludes(second):
                continue
            name = _telling_property(first, second)
            if name is None:
                forbidden = _mutually_absent(first, second)
                if forbidden is None:
                    return None
                of_second, of_first = forbidden
                requirements += [Requirement(earlier, of_second, False), Requirement(later, of_first, False)]
            elif name not in first.required and name not in second.required:
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


def _mutually_absent(first: _Facts, second: _Facts) -> tuple[str, str] | None:
    """A property that the second alone requires, and one that the first alone does; None: there are none.

    Best those that the other does not mention. Then no object of one fits the other as it was.
    """
    if not first.types & second.types <= {"object"}:
        return None

    def of_one(one: _Facts, other: _Facts) -> str | None:
        return min(
            one.required - other.required, key=lambda each: (each in other.properties, each), default=None
        )

    of_second, of_first = of_one(second, first), of_one(first, second)
    return None if of_second is None or of_first is None else (of_second, of_first)


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
        if schema.get("additionalProperties") is False and not schema.get("patternProperties"):
            facts.names = frozenset(schema["properties"])
    facts.low = _bound(schema, "minimum", -math.inf)
    facts.high = _bound(schema, "maximum", math.inf)
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
    facts.low, facts.high = max(facts.low, more.low), min(facts.high, more.high)
    if facts.names is None or more.names is None:
        facts.names = more.names if facts.names is None else facts.names
    else:
        facts.names &= more.names
    for name, each in more.properties.items():
        facts.properties.setdefault(name, []).extend(each)


def _bound(schema: Mapping[str, Any], name: str, otherwise: float) -> float:
    value = schema.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else otherwise


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
        values = frozenset(map(canonical, schema["enum"]))
    if "const" in schema:
        const = frozenset({canonical(schema["const"])})
        values = const if values is None else values & const
    return values


def canonical(value: Any) -> str:
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

"""Keywords that no grammar has, said by others: what a schema implies, excludes, counts or tells apart.

Each becomes schemas that apply beside the others, as members of `allOf` do. They may allow less than the
keyword, never more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, permutations
from math import comb, perm
from typing import Any

from takeoff.prepare.disjoint import canonical
from takeoff.prepare.schema_negation import TYPES, Resolve, Schema, negated

_MAX_CHOICES = 64  # of names that together reach `minProperties`
_MAX_ARRAYS = 256  # that `uniqueItems` is written out as
_MAX_REFERENCES = 8  # that follow each other
_KINDS_OF_NAMES = {"enum": list, "const": str, "pattern": str, "minLength": int, "maxLength": int}
_NO_ARRAY = [each for each in TYPES if each != "array"]

REWRITTEN = frozenset(
    {"not", "if", "then", "else", "contains", "minContains", "maxContains", "uniqueItems", "propertyNames"}
    | {"dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems"}
)


def rewritten(schema: Schema, resolve: Resolve, *, tuple_keyword: str) -> Iterator[Schema | bool]:
    """What the keywords of `REWRITTEN` in `schema` say, as schemas that apply beside the others.

    `tuple_keyword` is the one of the document's draft for the first items of an array.

    Raises:
        ValueError: one of them can't be enforced; the message names it.
    """
    if "not" in schema:
        yield _negation("not", schema["not"], resolve)
    if "if" in schema and ("then" in schema or "else" in schema):
        yield from _conditional(schema, resolve)
    if "contains" in schema:
        yield from _containing(schema, resolve, tuple_keyword)
    if schema.get("uniqueItems", False) is not False:
        yield from _unique(schema, resolve)
    if "propertyNames" in schema:
        yield from _named(schema, resolve)
    for keyword in ("dependentRequired", "dependentSchemas", "dependencies"):
        if keyword in schema:
            yield from _dependent(keyword, schema[keyword])
    for keyword in ("unevaluatedProperties", "unevaluatedItems"):
        if keyword in schema:
            yield from _UNEVALUATED[keyword](schema, resolve)


def enough_properties(schema: Schema, least: int) -> Schema | None:
    """What requires `least` properties by their names, as `minProperties` can't; None: too many ways."""
    required = set(_names("required", schema.get("required", [])))
    missing = least - len(required)
    if missing <= 0:
        return {}
    optional = [
        name
        for name, each in _object(schema, "properties").items()
        if each is not False and name not in required
    ]
    if not 0 < comb(len(optional), missing) <= _MAX_CHOICES:
        return None
    return {"anyOf": [{"required": list(names)} for names in combinations(optional, missing)]}


def _negation(keyword: str, schema: Any, resolve: Resolve) -> Schema | bool:
    try:
        other = negated(schema, resolve)
    except ValueError as exc:
        raise ValueError(f'"{keyword}": {exc}') from exc
    if other is None:
        raise ValueError(f'"{keyword}" of {_shown(schema)} can\'t be enforced: no grammar has what it leaves')
    return other


def _conditional(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    test = schema["if"]
    other = _negation("if", test, resolve)
    ways = [
        {"allOf": [condition, schema.get(branch, True)]}
        for condition, branch in ((test, "then"), (other, "else"))
        if condition is not False and schema.get(branch, True) is not False
    ]
    yield {"anyOf": ways}


def _containing(schema: Schema, resolve: Resolve, tuple_keyword: str) -> Iterator[Schema]:
    """The items that `contains` wants come first; where it says how many at most, no others follow."""
    least, most = schema.get("minContains", 1), schema.get("maxContains")
    for count in (least, 0 if most is None else most):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= _MAX_ARRAYS:
            raise ValueError(f'"contains": its counts are whole numbers from 0 to {_MAX_ARRAYS}')
    if most is not None and most < least:
        raise ValueError('"maxContains" is below "minContains": nothing can match')
    part: Schema = {"minItems": least} if least else {}
    if least:
        part[tuple_keyword] = [schema["contains"]] * least
    if most is not None:
        rest = "additionalItems" if least and tuple_keyword == "items" else "items"
        part[rest] = _negation("contains", schema["contains"], resolve)
    if part:
        yield part


def _unique(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    """Arrays of few values, written out: in any order while that is little, else in the values' order."""
    if schema["uniqueItems"] is not True:
        raise ValueError('"uniqueItems" is true or false')
    least, most = schema.get("minItems", 0), schema.get("maxItems", _MAX_ARRAYS)
    if not isinstance(least, int) or not isinstance(most, int) or most <= 1:
        return  # at most one, or no counts: refused by their names
    values = None if "prefixItems" in schema else _few_values(schema.get("items"), resolve)
    if values is None:
        raise ValueError('"uniqueItems" can\'t be enforced but for items of an "enum", or at most one item')
    sizes = range(least, min(len(values), most) + 1)
    ways: tuple[tuple[Callable[[int, int], int], Callable[..., Iterable[tuple[Any, ...]]]], ...] = (
        (perm, permutations),
        (comb, combinations),
    )
    for count, arrange in ways:
        if sum(count(len(values), size) for size in sizes) <= _MAX_ARRAYS:
            arrays = [list(array) for size in sizes for array in arrange(values, size)]
            yield {"anyOf": [{"type": _NO_ARRAY}, *([{"enum": arrays}] if arrays else [])]}
            return
    raise ValueError(
        f'"uniqueItems" of {len(values)} values can\'t be enforced, set "maxItems" to two or one'
    )


def _few_values(schema: Any, resolve: Resolve) -> list[Any] | None:
    """All values that `schema` takes, each once; None: not known to be few."""
    for _ in range(_MAX_REFERENCES):
        if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
            schema = resolve(schema["$ref"])
    if not isinstance(schema, dict):
        return None
    if "const" in schema:
        return [schema["const"]]
    if isinstance(schema.get("enum"), list):
        return list({canonical(each): each for each in schema["enum"]}.values())
    of_types: dict[str, list[Any]] = {"boolean": [False, True], "null": [None]}
    return of_types.get(str(schema.get("type")))


def _named(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    """Names by a list, a pattern or a length, as properties or a pattern of properties."""
    names = schema["propertyNames"]
    for _ in range(_MAX_REFERENCES):
        if isinstance(names, dict) and set(names) == {"$ref"}:
            names = resolve(names["$ref"])
    if names is True:
        return
    says = {} if names is False else _said_of_names(names)
    if names is False or says.keys() & {"enum", "const"}:
        allowed = [] if names is False else _few_values(says, resolve) or []
        yield {
            "properties": {each: True for each in allowed if isinstance(each, str)},
            "additionalProperties": False,
        }
    elif says:
        pattern = says.get("pattern")
        if pattern is None:
            pattern = f"^[\\s\\S]{{{says.get('minLength', 0)},{says.get('maxLength', '')}}}$"
        try:
            fitting = {name: re.search(pattern, name) is not None for name in _object(schema, "properties")}
        except re.error as exc:
            raise ValueError(f'"propertyNames": not a regular expression: {exc}') from exc
        if "patternProperties" in schema:
            raise ValueError('"propertyNames" beside "patternProperties" can\'t be enforced')
        yield {"properties": fitting, "patternProperties": {pattern: True}, "additionalProperties": False}


def _said_of_names(names: Any) -> Schema:
    """The one keyword of `propertyNames` beside its type, or two lengths.

    Raises:
        ValueError: there are others.
    """
    if isinstance(names, dict) and names.get("type", "string") == "string":
        says = {name: value for name, value in names.items() if name not in ("title", "description", "type")}
        are_right = all(isinstance(value, _KINDS_OF_NAMES.get(name, ())) for name, value in says.items())
        if are_right and (len(says) <= 1 or says.keys() == {"minLength", "maxLength"}):
            return says
    raise ValueError(f'"propertyNames" of {_shown(names)} can\'t be enforced')


def _dependent(keyword: str, value: Any) -> Iterator[Schema]:
    if not isinstance(value, dict):
        raise ValueError(f'"{keyword}" is an object')
    for name, wanted in value.items():
        if isinstance(wanted, list) and keyword != "dependentSchemas":
            needed: Schema = {"required": [name, *_names(keyword, wanted)]}
        elif keyword != "dependentRequired":
            needed = {"allOf": [{"required": [name]}, wanted]}
        else:
            raise ValueError('"dependentRequired" has lists of names')
        yield {"anyOf": [{"properties": {name: False}}, needed]}


def _unevaluated_properties(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    """Properties that none of the schemas names which apply to the same object for sure."""
    known: Schema = {"properties": {}, "patternProperties": {}}
    for part in _applied(schema, resolve, "unevaluatedProperties"):
        if "additionalProperties" in part:
            if part is schema:
                return
            raise ValueError(
                '"unevaluatedProperties" beside "additionalProperties" of a part can\'t be enforced'
            )
        for keyword, names in known.items():
            names |= dict.fromkeys(_object(part, keyword), True)
    yield known | {"additionalProperties": schema["unevaluatedProperties"]}


def _unevaluated_items(schema: Schema, resolve: Resolve) -> Iterator[Schema]:
    parts = _applied(schema, resolve, "unevaluatedItems")
    if len(parts) > 1 or "contains" in schema or isinstance(schema.get("items"), list):
        raise ValueError('"unevaluatedItems" beside schemas for the same array can\'t be enforced')
    if "items" not in schema:
        known = [True] * len(schema.get("prefixItems", []))
        yield ({"prefixItems": known} if known else {}) | {"items": schema["unevaluatedItems"]}


_UNEVALUATED: dict[str, Callable[[Schema, Resolve], Iterator[Schema]]] = {
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
}


def _applied(schema: Schema, resolve: Resolve, keyword: str) -> list[Schema]:
    """`schema` and those that apply wherever it does.

    Raises:
        ValueError: some apply to a part of the values only.
    """
    parts: list[Schema] = []
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop()
        if part is True:
            continue
        if not isinstance(part, dict) or len(parts) > _MAX_ARRAYS:
            raise ValueError(f'"{keyword}" can\'t be enforced here')
        for name in ("anyOf", "oneOf", "if", "dependentSchemas", "dependencies"):
            if name in part:
                raise ValueError(f'"{keyword}" beside "{name}" can\'t be enforced')
        if part is not schema and keyword in part:
            raise ValueError(f'"{keyword}" of a part can\'t be enforced')
        parts.append(part)
        more = part.get("allOf")
        waiting += more if isinstance(more, list) else []
        if "$ref" in part:
            waiting.append(resolve(part["$ref"]))
    return parts


def _object(schema: Schema, keyword: str) -> dict[str, Any]:
    """The value of `keyword`; empty where it is none, which is refused by its name."""
    value = schema.get(keyword)
    return value if isinstance(value, dict) else {}


def _names(keyword: str, value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f'"{keyword}" has lists of names')
    return value


def _shown(schema: Any) -> str:
    return json.dumps(schema)[:100]

"""A client's JSON schema, rewritten as one that llguidance enforces to the letter, or refused by name.

What reaches llguidance has keywords of draft 2020-12 only, references to its own numbered definitions,
and no annotations. A keyword that is neither enforced nor a known annotation is refused: it may be a
misspelt one. What is rewritten may allow less than the schema, never more: a validator takes
whatever the grammar makes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from takeoff.prepare.disjoint import prove_disjoint
from takeoff.prepare.regex import search, search_exactly
from takeoff.prepare.schema_formats import OF_NUMBERS, PASSED_ON, PATTERNS
from takeoff.prepare.schema_numbers import (
    NUMBER_KEYWORDS,
    check_constant,
    check_multiples,
    number_keywords,
)
from takeoff.request import ConstraintKind

MAX_DEPTH = 64
MAX_CHAIN = 400  # through references: llguidance follows them on the stack, which holds over 1,000
MAX_SCHEMAS = 4_000  # and constants made of others; references counted once
MAX_NAMES = 1_000  # of one object's properties
MAX_VALUES = 2_000  # of an enum: 20,000 take 150 ms to compile, beside steps that wait for the cores
MAX_BRANCHES = 256  # of a oneOf: each pair is told apart
MAX_ITEMS = 4_096  # of one array, as far as they are counted
MAX_LENGTH = 65_536  # of one text, as far as it is counted

_TYPES = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "contentMediaType", "contentEncoding", "contentSchema", "$defs", "definitions"}
    | {"discriminator", "externalDocs", "xml"}  # of OpenAPI
)
_NAMES_OF_DOCUMENTS = frozenset({"$schema", "$id", "id"})  # at the root only
OWN_KEY = "x-guidance"  # of a schema: settings of llguidance
_VENDOR = "x-"  # annotations by convention, but for that

_NEWEST = "json-schema.org/draft/2020-12/schema"
_OLDER = frozenset(
    {"json-schema.org/draft/2019-09/schema"} | {f"json-schema.org/draft-0{n}/schema" for n in (4, 6, 7)}
)
_HINTS = {"nullable": ': write "type": ["string", "null"]'}


class SchemaError(ValueError):
    """A schema that can't be enforced: where, and which keyword."""


def enforceable(schema: Any) -> dict[str, Any]:
    """The schema that llguidance is to enforce.

    Raises:
        SchemaError: it can't be enforced; the message says what and where.
        InvalidRequest: a pattern in it can't be.
    """
    return _Writer(schema).document()


class _Writer:
    """Writes one document."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._tuples_are_items = False
        self._numbers: dict[tuple[str, ...], int] = {}  # places of schemas that are referred to
        self._waiting: list[tuple[str, ...]] = []  # of those, not yet written
        self._written: list[tuple[dict[str, Any], dict[str, Any]]] = []  # schemas, and what they became
        self._num_schemas = 0
        self._also_required: dict[int, list[str]] = {}  # id of a schema: names that a proof relies on

    def document(self) -> dict[str, Any]:
        if not isinstance(self._root, dict):
            if self._root is True:
                return {}
            raise SchemaError(f"a schema is an object, got {json.dumps(self._root)[:100]}")
        self._read_dialect(self._root)
        written = self._schema(self._root, (), 0)
        definitions = {}
        while self._waiting:
            place = self._waiting.pop()
            definitions[str(self._numbers[place])] = self._schema(self._at(place), place, 0)
        for schema, became in self._written:
            if names := self._also_required.get(id(schema)):
                became["required"] = list(dict.fromkeys([*became.get("required", []), *names]))
        try:
            check_multiples(each["multipleOf"] for _, each in self._written if "multipleOf" in each)
        except ValueError as exc:
            raise SchemaError(str(exc)) from exc
        assert isinstance(written, dict)
        document = written | ({"$defs": definitions} if definitions else {})
        if _chain(document) > MAX_CHAIN:
            raise SchemaError(f"it is nested more than {MAX_CHAIN} deep, references followed")
        return document

    def _read_dialect(self, root: dict[str, Any]) -> None:
        name = root.get("$schema", f"https://{_NEWEST}")
        bare = (
            name.removeprefix("https://").removeprefix("http://").rstrip("#") if isinstance(name, str) else ""
        )
        if bare not in {_NEWEST, *_OLDER}:
            raise SchemaError(
                f"$schema {json.dumps(name)[:100]} is no draft of JSON Schema from 4 to 2020-12"
            )
        self._tuples_are_items = bare in _OLDER

    def _schema(self, schema: Any, place: tuple[str, ...], depth: int) -> dict[str, Any] | bool:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise _error(place, f"a schema is an object, got {json.dumps(schema)[:100]}")
        if depth > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} deep")
        self._count_schemas(1)
        became: dict[str, Any] = {}
        self._written.append((schema, became))
        for name, value in schema.items():
            self._keyword(became, schema, name, value, place, depth)
        try:
            became |= number_keywords(schema)
        except ValueError as exc:
            raise _error(place, str(exc)) from exc
        return became

    def _count_schemas(self, more: int) -> None:
        self._num_schemas += more
        if self._num_schemas > MAX_SCHEMAS:
            raise SchemaError(f"it has more than {MAX_SCHEMAS:,} schemas and constants made of others")

    def _keyword(
        self,
        became: dict[str, Any],
        schema: dict[str, Any],
        name: str,
        value: Any,
        place: tuple[str, ...],
        depth: int,
    ) -> None:
        """Write one keyword of `schema`; those of numbers are written together."""

        def below(each: Any, *steps: str) -> dict[str, Any] | bool:
            return self._schema(each, (*place, name, *steps), depth + 1)

        match name:
            case _ if name in NUMBER_KEYWORDS or name in _ANNOTATIONS:
                pass
            case _ if name in _NAMES_OF_DOCUMENTS and not place:
                pass
            case _ if name.startswith(_VENDOR) and name != OWN_KEY:
                pass
            case "type":
                became[name] = _types(value, place)
            case "enum" if isinstance(value, list) and len(value) > MAX_VALUES:
                raise _error(place, f'"enum" of more than {MAX_VALUES:,} values can\'t be enforced')
            case "const" | "enum":
                became[name] = _constants(name, value, place)
                self._count_schemas(sum(map(_num_containers, value if name == "enum" else [value])))
            case "$ref":
                became[name] = self._reference(value, place)
            case "allOf" | "anyOf":
                parts = [below(each, str(n)) for n, each in enumerate(_list(name, value, place))]
                _add_parts(became, name, parts)
            case "oneOf":
                if len(_list(name, value, place)) > MAX_BRANCHES:
                    raise _error(place, f'"oneOf" of more than {MAX_BRANCHES} branches can\'t be enforced')
                parts = [below(each, str(n)) for n, each in enumerate(value)]
                _add_parts(became, "anyOf" if self._is_disjoint(schema, place) else name, parts)
            case "properties":
                if len(_object(name, value, place)) > MAX_NAMES:
                    raise _error(place, f'"properties" of more than {MAX_NAMES:,} names can\'t be enforced')
                became[name] = {key: below(each, key) for key, each in value.items()}
            case "patternProperties":
                became[name] = {
                    _key_pattern(key, schema, became, place): below(each, key)
                    for key, each in _object(name, value, place).items()
                }
                if len(became[name]) < len(value):
                    raise _error(place, '"patternProperties" that are the same can\'t be enforced')
            case "additionalProperties":
                became.setdefault(name, below(value))
            case "required":
                names = _list(name, value, place)
                if not all(isinstance(each, str) for each in names):
                    raise _error(place, '"required" is a list of names')
                became[name] = list(dict.fromkeys(names))
            case "items" if isinstance(value, list) and self._tuples_are_items:
                became["prefixItems"] = [below(each, str(n)) for n, each in enumerate(value)]
                if "additionalItems" in schema:
                    became["items"] = self._schema(
                        schema["additionalItems"], (*place, "additionalItems"), depth + 1
                    )
            case "items":
                became[name] = below(value)
            case "additionalItems" if self._tuples_are_items:
                pass  # written with `items`; beside a schema it means nothing
            case "prefixItems" if not self._tuples_are_items:
                became[name] = [below(each, str(n)) for n, each in enumerate(_list(name, value, place))]
            case "minItems" | "maxItems":
                became[name] = _count(name, value, place, MAX_ITEMS)
            case "minLength" | "maxLength":
                became[name] = _count(name, value, place, MAX_LENGTH)
            case "minProperties":
                became[name] = _count(name, value, place, MAX_ITEMS)
                named = schema.get("required")
                if became[name] > 1 + (len(set(named)) if isinstance(named, list) else 0):
                    raise _error(
                        place,
                        '"minProperties" beyond the required ones and one more can\'t be enforced: '
                        "a name might be written twice",
                    )
            case "maxProperties":
                became[name] = _count(name, value, place, MAX_ITEMS)
            case "pattern":
                if not isinstance(value, str):
                    raise _error(place, '"pattern" is a regular expression')
                _add_pattern(became, search(value, ConstraintKind.JSON_SCHEMA.value))
            case "format":
                _add_format(became, schema, value, place)
            case "uniqueItems" if value is False:
                pass
            case _:
                raise _error(place, f"{json.dumps(name)[:100]} can't be enforced{_HINTS.get(name, '')}")

    def _is_disjoint(self, schema: dict[str, Any], place: tuple[str, ...]) -> bool:
        """Whether `oneOf` of `schema` can be written as `anyOf`.

        Then it is noted what the branches have to require: what the proof relies on, and the property
        that OpenAPI's `discriminator` names.
        """
        branches: list[Any] = schema["oneOf"]
        requirements = prove_disjoint(branches, lambda reference: self._at(self._place(reference, place)))
        if requirements is None:
            return False
        meant = [self._meant(branch, place) for branch in branches]
        for requirement in requirements:
            self._require(meant[requirement.branch], requirement.name)
        named = schema.get("discriminator")
        name = named.get("propertyName") if isinstance(named, dict) else None
        for branch in meant:
            properties = branch.get("properties") if isinstance(branch, dict) else None
            if isinstance(name, str) and isinstance(properties, dict) and name in properties:
                self._require(branch, name)
        return True

    def _meant(self, branch: Any, place: tuple[str, ...]) -> Any:
        """What `branch` is, or refers to."""
        seen: set[int] = set()
        while isinstance(branch, dict) and set(branch) == {"$ref"} and id(branch) not in seen:
            seen.add(id(branch))
            branch = self._at(self._place(branch["$ref"], place))
        return branch

    def _require(self, schema: Any, name: str) -> None:
        self._also_required.setdefault(id(schema), []).append(name)

    def _reference(self, value: Any, place: tuple[str, ...]) -> str:
        target = self._place(value, place)
        if not target:
            return "#"
        if target not in self._numbers:
            self._numbers[target] = len(self._numbers)
            self._waiting.append(target)
        return f"#/$defs/{self._numbers[target]}"

    def _place(self, reference: Any, place: tuple[str, ...]) -> tuple[str, ...]:
        """Where `reference` points to: steps from the root, checked to lead to a schema."""
        if not isinstance(reference, str):
            raise _error(place, '"$ref" is a text')
        if reference != "#" and not reference.startswith("#/"):
            raise _error(
                place,
                f'"$ref" {json.dumps(reference)[:100]} can\'t be enforced: it does not fetch, '
                "a reference begins with #/ and stays in the document",
            )
        steps = [unquote(step).replace("~1", "/").replace("~0", "~") for step in reference.split("/")[1:]]
        target = tuple(steps)
        self._at(target)
        return target

    def _at(self, place: tuple[str, ...]) -> Any:
        """The schema at `place`.

        Raises:
            SchemaError: there is nothing, or what is there is no schema.
        """
        schema, steps = self._root, iter(place)
        for step in steps:
            try:
                schema = _step(schema, step, steps)
            except (KeyError, IndexError, ValueError, StopIteration, TypeError) as exc:
                raise SchemaError(f"no schema at #/{'/'.join(place)[:100]}") from exc
        if not isinstance(schema, dict | bool):
            raise SchemaError(f"no schema at #/{'/'.join(place)[:100]}")
        return schema


def _chain(document: dict[str, Any]) -> int:
    """How deep a walk gets that goes into each reference when it first meets it, as llguidance's does."""
    deepest, seen = 0, set()
    waiting: list[tuple[Any, int]] = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        deepest = max(deepest, depth)
        if isinstance(value, list):
            waiting += [(each, depth) for each in reversed(value)]
        elif isinstance(value, dict):
            below: list[Any] = []
            for name, each in value.items():
                if name in ("properties", "patternProperties"):
                    below += each.values()
                elif name not in ("$defs", "const", "enum"):
                    below.append(each)
            reference = value.get("$ref")
            if isinstance(reference, str) and reference != "#" and reference not in seen:
                seen.add(reference)
                below.append(document["$defs"][reference.rpartition("/")[2]])
            waiting += [(each, depth + 1) for each in reversed(below)]
    return deepest


def _step(schema: Any, keyword: str, steps: Iterator[str]) -> Any:
    """The schema below `schema` under a keyword and, where that has several, the next step."""
    match keyword:
        case "$defs" | "definitions" | "properties" | "patternProperties":
            return schema[keyword][next(steps)]
        case "allOf" | "anyOf" | "oneOf" | "prefixItems":
            return schema[keyword][int(next(steps))]
        case "items" if isinstance(schema[keyword], list):
            return schema[keyword][int(next(steps))]
        case "items" | "additionalItems" | "additionalProperties":
            return schema[keyword]
        case _:
            raise KeyError(keyword)


def _error(place: tuple[str, ...], what: str) -> SchemaError:
    return SchemaError(f"{what} (at #/{'/'.join(place)[:100]})" if place else what)


def _list(name: str, value: Any, place: tuple[str, ...]) -> list[Any]:
    if not isinstance(value, list):
        raise _error(place, f'"{name}" is a list')
    return value


def _object(name: str, value: Any, place: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _error(place, f'"{name}" is an object')
    return value


def _types(value: Any, place: tuple[str, ...]) -> Any:
    for each in value if isinstance(value, list) else [value]:
        if not isinstance(each, str) or each not in _TYPES:
            raise _error(place, f'"type" {json.dumps(each)[:100]} is none of JSON Schema\'s')
    return value


def _constants(name: str, value: Any, place: tuple[str, ...]) -> Any:
    try:
        for each in _list(name, value, place) if name == "enum" else [value]:
            check_constant(each)
    except SchemaError:
        raise
    except ValueError as exc:
        raise _error(place, f'"{name}" of {exc} can\'t be enforced') from exc
    return value


def _num_containers(value: Any) -> int:
    """How many lists and objects `value` is made of."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + sum(map(_num_containers, inner))


def _count(name: str, value: Any, place: tuple[str, ...], most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or value < 0:
        raise _error(place, f'"{name}" is a whole number from 0')
    if value > most:
        raise _error(place, f'"{name}" over {most:,} can\'t be enforced')
    return int(value)


def _add_parts(became: dict[str, Any], name: str, parts: list[dict[str, Any] | bool]) -> None:
    """Add `anyOf` and its like; a second one of a kind applies beside the first."""
    if name == "allOf":
        became.setdefault(name, []).extend(parts)
    elif name in became:
        became.setdefault("allOf", []).append({name: parts})
    else:
        became[name] = parts


def _add_pattern(became: dict[str, Any], pattern: str) -> None:
    if "pattern" in became:
        became.setdefault("allOf", []).append({"pattern": pattern})
    else:
        became["pattern"] = pattern


def _add_format(became: dict[str, Any], schema: dict[str, Any], value: Any, place: tuple[str, ...]) -> None:
    types = schema.get("type", "string")
    if value in OF_NUMBERS and not ("string" in types if isinstance(types, list) else types == "string"):
        return  # bounds, or nothing to add
    if value in PASSED_ON:
        became["format"] = value
    elif value in PATTERNS:
        _add_pattern(became, PATTERNS[value])
    else:
        raise _error(place, f'Unknown format: {value!s:.100}; "format" can\'t be enforced')


def _key_pattern(key: str, schema: dict[str, Any], became: dict[str, Any], place: tuple[str, ...]) -> str:
    """The pattern of names that llguidance is to match.

    Where dialects differ it matches less than `key` could. A name in between would get the schema of
    additional ones: then none of those is written.
    """
    pattern, is_exact = search_exactly(key, ConstraintKind.JSON_SCHEMA.value)
    if not is_exact:
        named = schema.get("properties")
        if isinstance(named, dict) and not all(name.isascii() and name.isprintable() for name in named):
            raise _error(
                place,
                f'"patternProperties" {json.dumps(key)[:100]} beside properties that are not in ASCII '
                "can't be enforced: dialects differ over what it matches",
            )
        became["additionalProperties"] = False
    return pattern

"""A client's JSON schema, rewritten as one that llguidance enforces to the letter, or refused by name.

What reaches llguidance has keywords of draft 2020-12 only, references to its own numbered definitions,
and no annotations. A keyword that is neither enforced nor a known annotation is refused: it may be a
misspelt one. What is rewritten may allow less than the schema, never more: a validator takes
whatever the grammar makes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from takeoff.prepare.disjoint import Requirement, prove_disjoint
from takeoff.prepare.schema_numbers import NUMBER_KEYWORDS, check_multiples, number_keywords
from takeoff.prepare.schema_places import (
    COMPONENTS,
    LISTS_OF_SCHEMAS,
    MAX_DEPTH,
    Place,
    SchemaError,
    place_of,
    plain_references,
    schema_at,
)
from takeoff.prepare.schema_rewrites import REWRITTEN, enough_properties, rewritten
from takeoff.prepare.schema_values import (
    add_format,
    add_parts,
    add_pattern,
    constants_of,
    count_of,
    key_pattern,
    list_of,
    num_containers,
    object_of,
    pattern_of,
    types_of,
)

MAX_CHAIN = 400  # through references: llguidance follows them on the stack, which holds over 1,000
MAX_SCHEMAS = 4_000  # and constants made of others; references counted once
MAX_NAMES = 1_000  # of one object's properties
MAX_VALUES = 2_000  # of an enum: 20,000 take 150 ms to compile, beside steps that wait for the cores
MAX_BRANCHES = 256  # of a oneOf: each pair is told apart
MAX_ITEMS = 4_096  # of one array, as far as they are counted
MAX_LENGTH = 65_536  # of one text, as far as it is counted

_ANNOTATIONS = frozenset(
    {"title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly"}
    | {"$comment", "contentMediaType", "contentEncoding", "contentSchema", "$defs", "definitions"}
    | {"discriminator", "externalDocs", "xml", "nullable"}  # of OpenAPI; to a validator it is none of null
)
_OF_DOCUMENTS = frozenset({"$schema", "$id", "id", COMPONENTS})  # at the root only
_OF_OBJECTS = frozenset(
    {"properties", "patternProperties", "additionalProperties", "required", "minProperties", "maxProperties"}
)
OWN_KEY = "x-guidance"  # of a schema: settings of llguidance
_VENDOR = "x-"  # annotations by convention, but for that

_NEWEST = "json-schema.org/draft/2020-12/schema"
_OLDER = frozenset(
    {"json-schema.org/draft/2019-09/schema"} | {f"json-schema.org/draft-0{n}/schema" for n in (4, 6, 7)}
)


def enforceable(schema: Any) -> dict[str, Any]:
    """The schema that llguidance is to enforce.

    Raises:
        SchemaError: it can't be enforced; the message says what and where.
    """
    return _Writer(schema).document()


@dataclass(frozen=True, slots=True)
class _Draft:
    """A schema that is being written."""

    schema: dict[str, Any]
    became: dict[str, Any]
    place: Place
    depth: int

    def refusal(self, what: str) -> SchemaError:
        return SchemaError.at(self.place, what)


class _Writer:
    """Writes one document."""

    def __init__(self, root: Any) -> None:
        self._root = root
        self._tuple_keyword = "prefixItems"
        self._numbers: dict[Place, int] = {}  # places of schemas that are referred to
        self._waiting: list[Place] = []  # of those, not yet written
        self._written: list[tuple[dict[str, Any], dict[str, Any]]] = []  # schemas, and what they became
        self._num_schemas = 0
        self._also_required: dict[int, list[str]] = {}  # id of a schema: names that a proof relies on

    def document(self) -> dict[str, Any]:
        if not isinstance(self._root, dict):
            if self._root is True:
                return {}
            raise SchemaError(f"a schema is an object, got {json.dumps(self._root)[:100]}")
        self._read_dialect(self._root)
        self._root = plain_references(self._root)
        written = self._schema(self._root, (), 0)
        definitions = {}
        while self._waiting:
            place = self._waiting.pop()
            definitions[str(self._numbers[place])] = self._schema(schema_at(self._root, place), place, 0)
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
        self._tuple_keyword = "items" if bare in _OLDER else "prefixItems"

    def _schema(self, schema: Any, place: Place, depth: int) -> dict[str, Any] | bool:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaError.at(place, f"a schema is an object, got {json.dumps(schema)[:100]}")
        if depth > MAX_DEPTH:
            raise SchemaError(f"it is nested more than {MAX_DEPTH} deep")
        self._count_schemas(1)
        draft = _Draft(schema, {}, place, depth)
        self._written.append((schema, draft.became))
        for name, value in schema.items():
            self._keyword(draft, name, value)
        try:
            draft.became.update(number_keywords(schema))
            parts = list(rewritten(schema, self._resolve, tuple_keyword=self._tuple_keyword))
        except SchemaError:
            raise
        except ValueError as exc:
            raise draft.refusal(str(exc)) from exc
        for part in parts:
            self._add_beside(draft, part)
        return draft.became

    def _add_beside(self, draft: _Draft, part: dict[str, Any] | bool) -> None:
        """Write a schema that applies beside the one that is being written."""
        draft.became.setdefault("allOf", []).append(self._schema(part, draft.place, draft.depth + 1))

    def _below(self, draft: _Draft, schema: Any, *steps: str) -> dict[str, Any] | bool:
        return self._schema(schema, (*draft.place, *steps), draft.depth + 1)

    def _count_schemas(self, more: int) -> None:
        self._num_schemas += more
        if self._num_schemas > MAX_SCHEMAS:
            raise SchemaError(f"it has more than {MAX_SCHEMAS:,} schemas and constants made of others")

    def _keyword(self, draft: _Draft, name: str, value: Any) -> None:
        """Write one keyword; those of numbers, and those to be said by others, come later."""
        if name in NUMBER_KEYWORDS | REWRITTEN | _ANNOTATIONS or (name in _OF_DOCUMENTS and not draft.place):
            return
        if name.startswith(_VENDOR) and name != OWN_KEY:
            return
        if name in LISTS_OF_SCHEMAS and (name != "prefixItems" or self._tuple_keyword == name):
            self._list(draft, name, value)
        elif name in _OF_OBJECTS:
            self._of_objects(draft, name, value)
        elif name in ("items", "additionalItems"):
            self._items(draft, name, value)
        else:
            self._plain_keyword(draft, name, value)

    def _plain_keyword(self, draft: _Draft, name: str, value: Any) -> None:
        """A keyword without schemas in its value."""
        became, place = draft.became, draft.place
        match name:
            case "type":
                became[name] = types_of(value, place)
            case "enum" if isinstance(value, list) and len(value) > MAX_VALUES:
                raise draft.refusal(f'"enum" of more than {MAX_VALUES:,} values can\'t be enforced')
            case "const" | "enum":
                became[name] = constants_of(name, value, place)
                self._count_schemas(sum(map(num_containers, value if name == "enum" else [value])))
            case "$ref":
                became[name] = self._reference(value, place)
            case "minItems" | "maxItems":
                became[name] = count_of(name, value, place, MAX_ITEMS)
            case "minLength" | "maxLength":
                became[name] = count_of(name, value, place, MAX_LENGTH)
            case "pattern":
                add_pattern(became, pattern_of(value, place)[0])
            case "format":
                add_format(became, draft.schema, value, place)
            case _:
                raise draft.refusal(f"{json.dumps(name)[:100]} can't be enforced")

    def _list(self, draft: _Draft, name: str, value: Any) -> None:
        """`allOf`, `anyOf`, `oneOf` and `prefixItems`."""
        if len(list_of(name, value, draft.place)) > MAX_BRANCHES and name == "oneOf":
            raise draft.refusal(f'"oneOf" of more than {MAX_BRANCHES} branches can\'t be enforced')
        parts = [self._below(draft, each, name, str(number)) for number, each in enumerate(value)]
        if name == "prefixItems":
            draft.became[name] = parts
        elif name != "oneOf":
            add_parts(draft.became, name, parts)
        else:
            for absent in self._tell_apart(draft):
                without = {"properties": {absent.name: False}}
                parts[absent.branch] = {"allOf": [parts[absent.branch], without]}
            add_parts(draft.became, "anyOf", parts)

    def _of_objects(self, draft: _Draft, name: str, value: Any) -> None:
        """Keywords of properties."""
        became, place = draft.became, draft.place
        match name:
            case "properties":
                if len(object_of(name, value, place)) > MAX_NAMES:
                    raise draft.refusal(f'"properties" of more than {MAX_NAMES:,} names can\'t be enforced')
                became[name] = {key: self._below(draft, each, name, key) for key, each in value.items()}
            case "patternProperties":
                became[name] = {
                    key_pattern(key, draft.schema, became, place): self._below(draft, each, name, key)
                    for key, each in object_of(name, value, place).items()
                }
                if len(became[name]) < len(value):
                    raise draft.refusal('"patternProperties" that are the same can\'t be enforced')
            case "additionalProperties":
                became.setdefault(name, self._below(draft, value, name))
            case "required":
                names = list_of(name, value, place)
                if not all(isinstance(each, str) for each in names):
                    raise draft.refusal('"required" is a list of names')
                became[name] = list(dict.fromkeys(names))
            case "minProperties":
                self._at_least(draft, count_of(name, value, place, MAX_ITEMS))
            case "maxProperties":
                became[name] = count_of(name, value, place, MAX_ITEMS)

    def _at_least(self, draft: _Draft, least: int) -> None:
        """`minProperties`."""
        required = list_of("required", draft.schema.get("required", []), draft.place)
        enough = enough_properties(draft.schema, least)
        if enough is not None:
            self._add_beside(draft, enough)
        elif least <= 1 + len(required):
            draft.became["minProperties"] = least
        else:
            raise draft.refusal(
                '"minProperties" beyond the required ones and one more can\'t be enforced: '
                "a name might be written twice"
            )

    def _items(self, draft: _Draft, name: str, value: Any) -> None:
        """`items`, and what older drafts say of those behind a list."""
        rest = draft.schema.get("additionalItems", True)
        if name == "additionalItems":
            if "items" not in draft.schema:
                raise draft.refusal('"additionalItems" without "items" can\'t be enforced')
        elif isinstance(value, list) and self._tuple_keyword == name:
            draft.became["prefixItems"] = [
                self._below(draft, each, name, str(number)) for number, each in enumerate(value)
            ]
            if rest is not True:
                draft.became["items"] = self._below(draft, rest, "additionalItems")
        else:
            draft.became[name] = self._below(draft, value, name)

    def _tell_apart(self, draft: _Draft) -> list[Requirement]:
        """The properties that branches of `oneOf` must not have, to be those of an `anyOf`.

        It is noted what they have to require: what the proof relies on, and the property that OpenAPI's
        `discriminator` names.

        Raises:
            SchemaError: no proof was found that no two of them take the same value.
        """
        branches: list[Any] = draft.schema["oneOf"]
        requirements = prove_disjoint(branches, self._resolve, draft.schema)
        if requirements is None:
            raise draft.refusal('"oneOf" can\'t be enforced: nothing tells two of its branches apart')
        meant = [self._meant(branch) for branch in branches]
        for requirement in requirements:
            if requirement.is_present:
                self._require(meant[requirement.branch], requirement.name)
        named = draft.schema.get("discriminator")
        name = named.get("propertyName") if isinstance(named, dict) else None
        for branch in meant:
            properties = branch.get("properties") if isinstance(branch, dict) else None
            if isinstance(name, str) and isinstance(properties, dict) and name in properties:
                self._require(branch, name)
        return [requirement for requirement in requirements if not requirement.is_present]

    def _meant(self, branch: Any) -> Any:
        """What `branch` is, or refers to."""
        seen: set[int] = set()
        while isinstance(branch, dict) and set(branch) == {"$ref"} and id(branch) not in seen:
            seen.add(id(branch))
            branch = self._resolve(branch["$ref"])
        return branch

    def _require(self, schema: Any, name: str) -> None:
        self._also_required.setdefault(id(schema), []).append(name)

    def _resolve(self, reference: Any) -> Any:
        return schema_at(self._root, _target(reference, ()))

    def _reference(self, value: Any, place: Place) -> str:
        target = _target(value, place)
        schema_at(self._root, target)
        if not target:
            return "#"
        if target not in self._numbers:
            self._numbers[target] = len(self._numbers)
            self._waiting.append(target)
        return f"#/$defs/{self._numbers[target]}"


def _target(reference: Any, place: Place) -> Place:
    """Where `reference`, which stands at `place`, points to."""
    if not isinstance(reference, str):
        raise SchemaError.at(place, '"$ref" is a text')
    if reference != "#" and not reference.startswith("#/"):
        raise SchemaError.at(
            place,
            f'"$ref" {json.dumps(reference)[:100]} can\'t be enforced: there is no such schema in the '
            "document, and no other is fetched",
        )
    return place_of(reference)


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

"""Where schemas stand in a document, and what its references point to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

Place = tuple[str, ...]  # steps from the root

MAX_DEPTH = 64

ONE_SCHEMA = frozenset(
    {"items", "additionalItems", "additionalProperties", "unevaluatedItems", "unevaluatedProperties"}
    | {"contains", "propertyNames", "not", "if", "then", "else"}
)
LISTS_OF_SCHEMAS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
NAMED_SCHEMAS = frozenset(
    {"$defs", "definitions", "properties", "patternProperties", "dependentSchemas", "dependencies"}
)
COMPONENTS = "components"  # of an OpenAPI document, at the root: its `schemas` are definitions
_NAMES = frozenset({"$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"})
_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})


class SchemaError(ValueError):
    """A schema that can't be enforced: where, and which keyword."""

    @classmethod
    def at(cls, place: Place, what: str) -> SchemaError:
        return cls(f"{what} (at #/{'/'.join(place)[:100]})" if place else what)


def plain_references(root: dict[str, Any]) -> dict[str, Any]:
    """The document with each reference as a pointer from its root, without identifiers and anchors.

    A reference that leads out of the document is left as it is.

    Raises:
        SchemaError: it is nested too deeply.
    """
    names = _Names()
    names.collect(root, (), "")
    written = _rewritten(root, "", names)
    assert isinstance(written, dict)
    return written


def place_of(reference: str) -> Place:
    """The steps of a pointer: `#` or `#/...`."""
    return tuple(_plain_step(step) for step in reference.split("/")[1:])


def schema_at(root: Any, place: Place) -> Any:
    """The schema at `place` of a document.

    Raises:
        SchemaError: there is nothing, or what is there is no schema.
    """
    schema, steps = root, iter(place)
    for number, step in enumerate(steps):
        try:
            schema = _below(schema, step, steps, is_root=number == 0)
        except (KeyError, IndexError, ValueError, StopIteration, TypeError) as exc:
            raise SchemaError(f"no schema at #/{'/'.join(place)[:100]}") from exc
    if not isinstance(schema, dict | bool):
        raise SchemaError(f"no schema at #/{'/'.join(place)[:100]}")
    return schema


@dataclass(slots=True)
class _Names:
    """What a document's schemas call themselves."""

    resources: dict[str, Place] = field(default_factory=lambda: {"": ()})  # by URI
    anchors: dict[tuple[str, str], Place] = field(default_factory=dict)  # by URI and name
    dynamic: dict[str, list[Place]] = field(default_factory=dict)

    def collect(self, schema: Any, place: Place, base: str) -> None:
        if not isinstance(schema, dict):
            return
        base = _base(schema, base)
        if isinstance(schema.get("$id"), str):
            self.resources.setdefault(base, place)
        for keyword in ("$anchor", "$dynamicAnchor", "$id"):
            name = schema.get(keyword)
            if isinstance(name, str) and (keyword != "$id" or name.startswith("#")):
                self.anchors.setdefault((base, name.removeprefix("#")), place)
        if isinstance(schema.get("$dynamicAnchor"), str):
            self.dynamic.setdefault(schema["$dynamicAnchor"], []).append(place)
        for steps, below in _children(schema, is_root=not place):
            if len(place) > 2 * MAX_DEPTH:
                raise SchemaError(f"it is nested more than {MAX_DEPTH} deep")
            self.collect(below, (*place, *steps), base)

    def pointer(self, keyword: str, reference: Any, base: str) -> str | None:
        """`reference` as a pointer from the root; None: it leads out, or to several places."""
        if not isinstance(reference, str):
            return None
        uri, fragment = urldefrag(urljoin(base, reference))
        resource = self.resources.get(uri)
        if resource is None:
            return None
        if keyword == "$dynamicRef" and len(self.dynamic.get(fragment, [0])) != 1:
            return None
        if not fragment or fragment.startswith("/"):
            return "".join(["#", *(f"/{_step_text(step)}" for step in (*resource, *place_of(fragment)))])
        anchor = self.anchors.get((uri, fragment))
        return None if anchor is None else "".join(["#", *(f"/{_step_text(step)}" for step in anchor)])


def _rewritten(schema: Any, base: str, names: _Names, *, is_root: bool = True) -> Any:
    if not isinstance(schema, dict):
        return schema
    base = _base(schema, base)
    written: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword in _NAMES and isinstance(value, str | bool):
            continue
        pointer = names.pointer(keyword, value, base) if keyword in _REFERENCES else None
        if pointer is None:
            written.setdefault(keyword, value)
        elif "$ref" in written:
            written[keyword] = value  # a second one: refused by its name
        else:
            written["$ref"] = pointer
    for steps, below in _children(schema, is_root=is_root):
        inner = written
        for step in steps[:-1]:
            inner[step] = list(inner[step]) if isinstance(inner[step], list) else dict(inner[step])
            inner = inner[step]
        last: Any = int(steps[-1]) if isinstance(inner, list) else steps[-1]
        inner[last] = _rewritten(below, base, names, is_root=False)
    return written


def _base(schema: dict[str, Any], base: str) -> str:
    """The URI that references in `schema` are relative to."""
    name = schema.get("$id")
    return urldefrag(urljoin(base, name))[0] if isinstance(name, str) and not name.startswith("#") else base


def _children(schema: dict[str, Any], *, is_root: bool) -> Iterator[tuple[Place, Any]]:
    """The schemas that stand directly in `schema`, and the steps to each."""
    for keyword, value in schema.items():
        if isinstance(value, list) and (keyword in LISTS_OF_SCHEMAS or keyword == "items"):
            for number, each in enumerate(value):
                yield (keyword, str(number)), each
        elif keyword in ONE_SCHEMA:
            yield (keyword,), value
        elif isinstance(value, dict) and keyword in NAMED_SCHEMAS:
            for name, each in value.items():
                yield (keyword, name), each
        elif is_root and keyword == COMPONENTS and isinstance(value, dict):
            schemas = value.get("schemas")
            for name, each in schemas.items() if isinstance(schemas, dict) else ():
                yield (keyword, "schemas", name), each


def _below(schema: Any, keyword: str, steps: Iterator[str], *, is_root: bool) -> Any:
    """The schema below `schema` under a keyword and, where that has several, the next steps."""
    if keyword in NAMED_SCHEMAS:
        return schema[keyword][next(steps)]
    if keyword in LISTS_OF_SCHEMAS or (keyword == "items" and isinstance(schema[keyword], list)):
        return schema[keyword][int(next(steps))]
    if keyword in ONE_SCHEMA:
        return schema[keyword]
    if is_root and keyword == COMPONENTS and next(steps) == "schemas":
        return schema[keyword]["schemas"][next(steps)]
    raise KeyError(keyword)


def _plain_step(text: str) -> str:
    return unquote(text).replace("~1", "/").replace("~0", "~")


def _step_text(step: str) -> str:
    return quote(step.replace("~", "~0").replace("/", "~1"), safe="~")

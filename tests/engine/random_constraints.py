"""Random regular expressions and JSON schemas, of all that is said to be enforced."""

from __future__ import annotations

from random import Random
from typing import Any

Schema = dict[str, Any]

_LITERALS = [
    "a",
    "b",
    "Z",
    "0",
    "7",
    " ",
    "_",
    "-",
    "é",
    "ß",
    "K",
    "σ",
    "日",
    "😀",
    r"\.",
    r"\[",
    r"\n",
    r"\t",
]
_CLASSES = [r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", "."]
_MEMBERS = ["a-f", "0-9", "xyz", "é-ü", r"\d", r"\s", r"\w", "A-Z", "_", r"\-", "日", "k", r"\]"]
_REPEATS = ["?", "*", "+", "{2}", "{1,3}", "{0,2}", "{2,}", "*?", "+?", "??", "{1,4}?"]
_NAMES = ["a", "b", "kind", "first name", "é", "x-y", 'q"', "line\nfeed", "const", "pattern"]
_PATTERNS = [
    "^[a-c]{2,4}$",
    "^x",
    r"\d{2}$",
    "^(cat|dog)s?$",
    r"^\w{1,3}-\d$",
    "b",
    r"^[^\W\d]{2}$",
    "^$|^..$",
]
_FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]


def random_regex(chance: Random) -> str:
    """A regular expression as Python's `re` reads it."""
    flags = chance.choice(["", "", "", "(?i)", "(?s)", "(?a)"])
    alternatives = [_sequence(chance, 3) for _ in range(chance.choice([1, 1, 2, 3]))]
    start, end = chance.choice([("", ""), ("", ""), ("^", "$"), (r"\A", r"\Z"), ("^", ""), ("", "$")])
    return flags + "|".join(f"{start}{each}{end}" for each in alternatives)


def _sequence(chance: Random, depth: int) -> str:
    return "".join(_repeated(chance, depth) for _ in range(chance.randint(1, 4)))


def _repeated(chance: Random, depth: int) -> str:
    kind = chance.random()
    if kind < 0.4 or depth == 0:
        item = chance.choice(_LITERALS)
    elif kind < 0.55:
        item = chance.choice(_CLASSES)
    elif kind < 0.75:
        item = _class(chance)
    else:
        alternatives = "|".join(_sequence(chance, depth - 1) for _ in range(chance.choice([1, 2, 2, 3])))
        item = chance.choice(["(", "(?:", f"(?P<g{chance.randrange(10**9)}>", "(?i:"]) + alternatives + ")"
        return item + chance.choice(["", "", "?", "{1,2}", "{2}"])
    return item + (chance.choice(_REPEATS) if chance.random() < 0.35 else "")


def _class(chance: Random) -> str:
    members = "".join(chance.sample(_MEMBERS, chance.randint(1, 3)))
    return f"[{chance.choice(['', '', '^'])}{members}]"


def random_schema(chance: Random) -> Schema:
    """A JSON schema, with definitions that may refer to themselves."""
    writer = _SchemaWriter(chance)
    schema = writer.schema(3)
    schema = schema if isinstance(schema, dict) else {"type": "array", "items": schema, "maxItems": 3}
    schema["$defs"] = writer.definitions
    return schema


def random_conditional_schema(chance: Random) -> Schema:
    """A JSON schema with keywords that no grammar has: conditions, negations, counts."""
    return _ConditionWriter(chance).schema()


class _ConditionWriter:
    """Objects and arrays of small values, and one to three conditions on each."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def schema(self) -> Schema:
        if self._chance.random() < 0.3:
            return self._array()
        if self._chance.random() < 0.2:
            return self._value() | {"not": self._test_of_value()}
        names = ["a", "b", "c"]
        schema: Schema = {"type": "object", "properties": {name: self._value() for name in names}}
        schema["required"] = [name for name in names if self._chance.random() < 0.3]
        if self._chance.random() < 0.5:
            schema["additionalProperties"] = self._chance.choice([False, self._value()])
        for condition in self._chance.sample(
            [
                lambda: {"not": self._test()},
                lambda: {"if": self._test(), "then": self._test(), "else": self._test()},
                lambda: {"if": self._test(), "then": self._test()},
                lambda: {"dependentRequired": {self._name(): [self._name()]}},
                lambda: {"dependentSchemas": {self._name(): self._test()}},
                lambda: {"oneOf": [self._test(), self._test()]},
                lambda: {"minProperties": self._chance.randint(1, 3)},
                lambda: {
                    "propertyNames": self._chance.choice([{"pattern": "^[ab]"}, {"enum": ["a", "c", "d"]}])
                },
                lambda: {"unevaluatedProperties": False, "allOf": [{"properties": {"d": self._value()}}]},
            ],
            self._chance.randint(1, 3),
        ):
            schema |= condition()
        return schema

    def _array(self) -> Schema:
        schema: Schema = {"type": "array", "items": self._value(), "maxItems": self._chance.randint(2, 4)}
        if self._chance.random() < 0.5:
            schema |= {"contains": self._test_of_value(), "minContains": self._chance.randint(0, 2)}
            schema |= {"maxContains": 2} if self._chance.random() < 0.5 else {}
        else:
            schema |= {"uniqueItems": True, "minItems": self._chance.randint(0, 2)}
        return schema

    def _name(self) -> str:
        return self._chance.choice("abcd")

    def _value(self) -> Schema:
        small = {"type": "integer", "minimum": -3, "maximum": 12}
        pieces = [{"enum": ["x", "y", 1, None]}, {"type": "boolean"}, {"type": "string", "maxLength": 3}]
        return self._chance.choice([small, *pieces])

    def _test_of_value(self) -> Schema:
        return self._chance.choice(
            [
                {"const": self._chance.choice(["x", 1, 0, True, None, ""])},
                {"enum": self._chance.sample(["x", "y", "xy", 1, 2, 5, None, False], 3)},
                {"type": self._chance.choice(["string", "integer", "number", "null", "boolean"])},
                {self._chance.choice(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]): 4},
                {"type": "string", self._chance.choice(["minLength", "maxLength"]): 2},
                {"not": {"const": self._chance.choice(["y", 1, None])}},
            ]
        )

    def _test(self) -> Schema:
        return self._chance.choice(
            [
                {"required": [self._name()]},
                {"required": self._chance.sample("abcd", 2)},
                {"properties": {self._name(): self._test_of_value()}},
                {"properties": {self._name(): self._test_of_value()}, "required": [self._name()]},
                {
                    "anyOf": [
                        {"required": [self._name()]},
                        {"properties": {self._name(): self._test_of_value()}},
                    ]
                },
                {"not": {"required": [self._name()]}},
            ]
        )


class _SchemaWriter:
    def __init__(self, chance: Random) -> None:
        self._chance = chance
        self.definitions: dict[str, Any] = {
            "leaf": {"type": "integer", "minimum": 0, "maximum": 9},
            "tree": {
                "type": "object",
                "properties": {"child": {"$ref": "#/$defs/tree"}, "n": {"$ref": "#/$defs/leaf"}},
                "required": ["n"],
                "additionalProperties": False,
            },
            "a/b": {"enum": ["slash", None]},
        }

    def schema(self, depth: int) -> Any:
        kinds = [self._number, self._integer, self._string, self._values]
        if depth:
            kinds += [self._array, self._object, self._object, self._any_of, self._one_of, self._all_of]
            kinds += [self._reference, self._mixed]
        written = self._chance.choice(kinds)(depth)
        if self._chance.random() < 0.2:
            written = {"title": "T", "description": "says nothing", "default": None, **written}
        return written

    def _maybe(self, share: float = 0.5) -> bool:
        return self._chance.random() < share

    def _number(self, _depth: int) -> Schema:
        low = self._chance.choice([0, -1, 0.5, 1e-9, -3.75, 99.99, 0.1, 123456.789, -1e-7, 2**52, -1e300])
        schema: Schema = {"type": "number"}
        if self._maybe():
            schema[self._chance.choice(["minimum", "exclusiveMinimum"])] = low
        if self._maybe():
            width = self._chance.choice([0.25, 1, 7.5, 1e-6, 1000, 0.3])
            schema[self._chance.choice(["maximum", "exclusiveMaximum"])] = low + width
        if self._maybe(0.25):
            schema["multipleOf"] = self._chance.choice([0.5, 0.25, 1, 3, 10])
        return schema

    def _integer(self, _depth: int) -> Schema:
        low = self._chance.choice([0, -5, 17, 1000, -(10**6), 0.5, 2**53 - 10, -(2**63), 99.0])
        schema: Schema = {"type": "integer"}
        if self._maybe():
            schema[self._chance.choice(["minimum", "exclusiveMinimum"])] = low
        if self._maybe():
            width = self._chance.choice([3, 20, 999, 2**63, 1.5])
            schema[self._chance.choice(["maximum", "exclusiveMaximum"])] = low + width
        if self._maybe(0.25):
            schema["multipleOf"] = self._chance.choice([2, 3, 7, 10, 2.0])
        if self._maybe(0.1):
            schema["format"] = "int32"
        return schema

    def _string(self, _depth: int) -> Schema:
        schema: Schema = {"type": "string"}
        kind = self._chance.random()
        if kind < 0.3:
            schema["format"] = self._chance.choice(_FORMATS)
        elif kind < 0.6:
            schema["pattern"] = self._chance.choice(_PATTERNS)
        if kind >= 0.3 and self._maybe():
            schema["minLength"] = self._chance.randint(0, 4)
        if kind >= 0.3 and self._maybe(0.7):
            schema["maxLength"] = self._chance.randint(2, 12)
        return schema

    def _values(self, _depth: int) -> Schema:
        values = [
            None,
            True,
            False,
            0,
            -7,
            1.5,
            2.0,
            1e-7,
            "",
            "a",
            'é"\\',
            "\n\t/",
            "😀",
            [1, "x"],
            {"k": [None]},
        ]
        if self._maybe():
            return {"const": self._chance.choice(values)}
        return {"enum": self._chance.sample(values, self._chance.randint(1, 4))}

    def _array(self, depth: int) -> Schema:
        schema: Schema = {"type": "array"}
        if self._maybe(0.3):
            schema["prefixItems"] = [self.schema(depth - 1) for _ in range(self._chance.randint(1, 3))]
        if self._maybe(0.8):
            schema["items"] = self._chance.choice([self.schema(depth - 1), self.schema(0), False])
        if self._maybe():
            schema["minItems"] = self._chance.randint(0, 2)
        if self._maybe(0.8):
            schema["maxItems"] = self._chance.randint(2, 4)
        return schema

    def _object(self, depth: int) -> Schema:
        names = self._chance.sample(_NAMES, self._chance.randint(0, 4))
        schema: Schema = {"type": "object", "properties": {name: self.schema(depth - 1) for name in names}}
        schema["required"] = [name for name in names if self._maybe()] + (
            ["extra"] if self._maybe(0.1) else []
        )
        if self._maybe(0.7):
            schema["additionalProperties"] = self._chance.choice([False, False, True, self.schema(0)])
        if self._maybe(0.2):
            schema["patternProperties"] = {"^p[0-9]": self.schema(0), "^q_": self.schema(depth - 1)}
        if self._maybe(0.15):
            schema["minProperties"] = self._chance.randint(0, 2)
        if self._maybe(0.15):
            schema["maxProperties"] = self._chance.randint(1, 4)
        if self._maybe(0.2):  # a sibling that applies as well, in the middle of the others
            keys = list(schema)
            self._chance.shuffle(keys)
            schema = {key: schema[key] for key in keys}
            schema["allOf"] = [
                self._chance.choice([{"required": ["b"]}, {"properties": {"a": self.schema(0)}}, {}])
            ]
        return schema

    def _any_of(self, depth: int) -> Schema:
        return {"anyOf": [self.schema(depth - 1) for _ in range(self._chance.randint(1, 3))]}

    def _one_of(self, depth: int) -> Schema:
        if self._maybe(0.3):
            return {
                "oneOf": [
                    self._string(0),
                    self._integer(0),
                    {"type": ["null", "boolean"]},
                    self._array(depth),
                ]
            }
        tagged = []
        for n in range(self._chance.randint(2, 3)):
            branch = self._object(depth)
            branch["properties"] = {"kind": {"const": f"k{n}"}, "n": self.schema(0)} | branch["properties"]
            branch["properties"]["kind"] = self._chance.choice([{"const": f"k{n}"}, {"enum": [f"k{n}", n]}])
            if self._maybe():
                branch["required"] = list({"kind", *branch["required"]})
            if self._maybe():
                name = f"branch{len(self.definitions)}"
                self.definitions[name] = branch
                branch = {"$ref": f"#/$defs/{name}"}
            tagged.append(branch)
        return {"oneOf": tagged, "discriminator": {"propertyName": "kind"}}

    def _all_of(self, depth: int) -> Schema:
        one = self.schema(depth - 1)
        more: list[Any] = [
            {"minimum": 1},
            {"maxLength": 5},
            {"maxItems": 2},
            {"multipleOf": 2},
            {"minLength": 1},
        ]
        more += [{"not_used": 1}] if self._maybe(0.02) else []
        return {"allOf": [one, self._chance.choice(more)], **({"maximum": 50} if self._maybe(0.3) else {})}

    def _reference(self, _depth: int) -> Schema:
        name = self._chance.choice(["leaf", "tree", "a~1b"])
        return {"$ref": f"#/$defs/{name}"} | ({"minimum": 3} if name == "leaf" and self._maybe(0.3) else {})

    def _mixed(self, depth: int) -> Schema:
        types = self._chance.sample(["null", "boolean", "integer", "number", "string", "array", "object"], 3)
        return self._number(0) | self._string(0) | self._array(depth) | self._object(depth) | {"type": types}

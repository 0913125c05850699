"""HTTP requests made of the doors' own descriptions of their routes, right and wrong."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bench.fuzzing.nasty import NOT_UTF8, TEXTS, Raw, changed, json_text, value

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW", "get")
MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "1"},
    {"role": "user", "content": "Go on"},
]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
PIXEL = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)
# What fields of these names are like in the wild: to begin with something that gets further in.
SAMPLES: dict[str, list[Any]] = {
    "model": ["primary", "smollm2", None],
    "consumer_group": ["primary"],
    "messages": [[{"role": "user", "content": "Hello"}], MESSAGES, MESSAGES[:2]],
    "prompt": ["Hello", ["a", "b"], [1, 2, 3], [[1], [2]]],
    "input": ["Hello", ["a"], MESSAGES[:1], [{"type": "message", "role": "user", "content": "a"}], [1, 2]],
    "text": ["Hello", ["a", "b"]],
    "stop": ["\n", ["a", "b"]],
    "tools": [
        [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}],
        [{"type": "function", "name": "f", "parameters": SCHEMA, "strict": True}],
        [{"name": "f", "input_schema": SCHEMA}],
    ],
    "tool_choice": [
        "auto",
        "required",
        "none",
        {"type": "function", "function": {"name": "f"}},
        {"type": "any"},
    ],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
        {"type": "text"},
    ],
    "json_schema": [SCHEMA],
    "regex_string": ["[0-9]{3}", "(a*)*b"],
    "logit_bias": [{"1": 5}, {"50": -100}],
    "stream": [True, False],
    "stream_options": [{"include_usage": True}],
    "max_tokens": [1, 5],
    "max_completion_tokens": [4],
    "max_output_tokens": [16],
    "max_new_tokens": [4],
    "system": ["Be short.", [{"type": "text", "text": "a"}]],
    "documents": [["a", "b"], [{"text": "a"}]],
    "query": ["a"],
    "tokens": [[1, 2], ["a"]],
    "inputs": [[[{"role": "user", "content": "a"}]]],
    "thinking": [{"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024}],
    "reasoning": [{"effort": "low"}],
    "previous_response_id": ["resp_1"],
    "structured_outputs": [{"regex": "a+"}, {"json": SCHEMA}, {"grammar": 'start: "a"'}],
    "image_url": [{"url": PIXEL}, PIXEL, "file:///etc/passwd", "http://127.0.0.1:9/x.png"],
    "model_name": ["smollm2", "/etc/passwd", "../x", "a/b", "https://127.0.0.1:9/x.gguf", "pypi:x"],
}
ENCODINGS = ("gzip", "br", "deflate", "identity", "zstd", "x")
TYPES = (
    *(
        "application/json",
        "application/json; charset=utf-16",
        "text/plain",
        "multipart/form-data",
        "application/xml",
    ),
    *(
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "",
        "application/json;" * 50,
        "\xff",
    ),
)


@dataclass(frozen=True, slots=True)
class Route:
    """One of a door's, as it describes itself."""

    door: str
    method: str
    path: str
    parameters: tuple[tuple[str, str, Any], ...]  # where, name, schema
    body: Any  # the schema of a JSON body; None: it takes none
    is_multipart: bool


def routes_of(door: str, described: dict[str, Any]) -> list[Route]:
    """The routes of an OpenAPI document."""
    found = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            kind = next(iter(content), "")
            parameters = tuple(
                (each["in"], each["name"], resolved(each["schema"], described))
                for each in operation.get("parameters", ())
            )
            body = resolved(content[kind]["schema"], described) if kind else None
            found.append(Route(door, method.upper(), path, parameters, body, kind.startswith("multipart")))
    return found


def resolved(schema: Any, described: dict[str, Any]) -> Any:
    """A schema with its references to the document replaced, as far as they don't lead back."""
    while isinstance(schema, dict) and "$ref" in schema:
        place: Any = described
        for name in schema["$ref"].removeprefix("#/").split("/"):
            place = place[name]
        schema = place
    return schema


def made_of(schema: Any, chance: random.Random, depth: int = 0) -> Any:
    """A value that the schema may take."""
    if not isinstance(schema, dict) or depth > 6:
        return value(chance)
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return made_of(chance.choice(schema[key]), chance, depth + 1)
    if "enum" in schema:
        return chance.choice(schema["enum"])
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    match chance.choice(kind) if isinstance(kind, list) else kind:
        case "object":
            return _object(schema, chance, depth)
        case "array":
            items = schema.get("items", {})
            return [made_of(items, chance, depth + 1) for _ in range(chance.choice((0, 1, 1, 2, 3)))]
        case "integer":
            return chance.randint(int(schema.get("minimum", -2)), int(min(schema.get("maximum", 9), 99_999)))
        case "number":
            return round(chance.uniform(schema.get("minimum", -1), min(schema.get("maximum", 2), 9)), 3)
        case "string":
            return chance.choice(("a", "Hello wörld", "primary", "auto", "low", chance.choice(TEXTS)))
        case "boolean":
            return chance.random() < 0.5
        case "null":
            return None
        case _:
            return value(chance)


def _object(schema: dict[str, Any], chance: random.Random, depth: int) -> dict[str, Any]:
    """The required properties, and some of the others."""
    required, made = schema.get("required", ()), {}
    names = list(schema.get("properties", {}))
    few = chance.choice((0.03, 0.1, 0.3))
    for name in names:
        if name in required or chance.random() < few or (name in SAMPLES and chance.random() < 0.3):
            is_sample = name in SAMPLES and chance.random() < 0.8
            inner = schema["properties"][name]
            made[name] = chance.choice(SAMPLES[name]) if is_sample else made_of(inner, chance, depth + 1)
    if schema.get("additionalProperties") not in (None, False) and chance.random() < 0.5:
        made[chance.choice(TEXTS)] = value(chance)
    return made


def body_of(route: Route, chance: random.Random) -> bytes:
    """A JSON body for the route, mostly almost right."""
    tree = made_of(route.body, chance)
    for _ in range(chance.choice((0, 0, 1, 1, 1, 2, 3))):
        tree = changed(tree, chance)
    text = json_text(tree)
    pick = chance.random()
    if pick < 0.03:
        return text[: chance.randrange(len(text) + 1)]
    if pick < 0.05:
        return text.decode("utf-8", "replace").encode(chance.choice(("utf-16", "utf-32", "utf-8-sig")))
    if pick < 0.07:
        place = chance.randrange(len(text) + 1)
        return text[:place] + chance.choice(NOT_UTF8) + text[place:]
    if pick < 0.08:
        return b'{"a":' + text + b',"a":' + text + b"}"
    return text


def target_of(route: Route, chance: random.Random) -> str:
    """The path with its places filled, and a query."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        if chance.random() < 0.6:
            return "smollm2" if "reader" in name else "mine"
        text = chance.choice(TEXTS)
        return quote(text.encode("utf-8", "surrogatepass"), safe="" if chance.random() < 0.7 else "/%:")

    path = re.sub(r"\{(\w+)(?::\w+)?\}", filled, route.path)
    query = []
    for place, name, schema in route.parameters:
        if place == "query" and chance.random() < 0.7:
            given = made_of(schema, chance) if chance.random() < 0.6 else chance.choice(TEXTS)
            query.append(f"{name}={quote(_word(given))}")
    if chance.random() < 0.05:
        query.append(quote(chance.choice(TEXTS).encode("utf-8", "surrogatepass")))
    return path + ("?" + "&".join(query) if query else "")


def _word(given: Any) -> bytes:
    text = given.text if isinstance(given, Raw) else str(given).encode("utf-8", "surrogatepass")
    return bytes(text)


def headers_of(chance: random.Random) -> list[tuple[str, str]]:
    """Headers that we look at, with values that may be anything."""
    headers = []
    if chance.random() < 0.1:
        headers.append(
            (
                "authorization",
                chance.choice(("Bearer x", "Basic eDp5", "Basic !", "Bearer", "\xff", "Digest")),
            )
        )
    if chance.random() < 0.15:
        headers.append(("x-request-id", chance.choice(("mine", "a b", "\xe9", "x" * 129, "", "mine"))))
    if chance.random() < 0.1:
        headers.append(
            ("x-request-timeout", chance.choice(("30", "60.5", "0", "-1", "nan", "1e9", "9" * 40, "")))
        )
    if chance.random() < 0.05:
        headers.append(("x-resume", chance.choice(("0.05", "0", "x", "61", "1e1"))))
    if chance.random() < 0.08:
        headers.append(("content-encoding", chance.choice(ENCODINGS)))
    if chance.random() < 0.08:
        headers.append(("accept", chance.choice(("text/event-stream", "*/*", "\xff", "," * 300))))
    if chance.random() < 0.04:
        headers.append(
            ("origin", chance.choice(("http://localhost", "null", "http://[", "\xff", "http://evil.test")))
        )
    if chance.random() < 0.03:
        headers.append(("cookie", "a=" + "b" * chance.choice((1, 4_000))))
    return headers


def written(
    method: str, target: str, body: bytes | None, headers: list[tuple[str, str]], chance: random.Random
) -> bytes:
    """The request as bytes, its length told or in chunks."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", *(f"{name}: {each}" for name, each in headers)]
    if body is None:
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
    if not any(name == "content-type" for name, _ in headers):
        lines.append("content-type: application/json")
    if chance.random() < 0.9:
        lines.append(f"content-length: {len(body)}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
    lines.append("transfer-encoding: chunked")
    cut = chance.randrange(len(body) + 1)
    pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + chunks + b"0\r\n\r\n"


def request_to(route: Route, chance: random.Random) -> bytes:
    """One request to a route."""
    method = route.method if chance.random() < 0.96 else chance.choice(METHODS)
    headers = headers_of(chance)
    if chance.random() < 0.05:
        headers.append(("content-type", chance.choice(TYPES)))
    body = None if route.body is None and chance.random() < 0.95 else body_of(route, chance)
    return written(method, target_of(route, chance), body, headers, chance)


def form_of(parts: list[tuple[str, str, bytes]], boundary: str) -> bytes:
    """A multipart body: name, what else its disposition says, content."""
    pieces = [
        f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'.encode(
            "latin-1", "replace"
        )
        + content
        for name, more, content in parts
    ]
    return b"\r\n".join([*pieces, f"--{boundary}--\r\n".encode()])


def sample_json(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()

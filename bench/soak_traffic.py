"""Everything that clients do to a server, all at once and drawn: most of it meant well, some of it not."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
from departures import TEXT, Moment, draw_visit, pay

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}, "days": {"type": "integer"}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
BAD: tuple[tuple[str, bytes, int], ...] = (  # a path, a body, and the status that it must get
    ("/v1/completions", b'{"prompt": "a", "max_tokens": -1}', 400),
    ("/v1/completions", b'{"prompt": "a", "temperature": "hot"}', 400),
    ("/v1/completions", b'{"prompt": "a", "no_such_field": 1}', 400),
    ("/v1/completions", b'{"prompt": "a", "model": "nobody"}', 404),
    ("/v1/completions", b'{"prompt": "a", "guided_regex": "(("}', 400),
    ("/v1/completions", b"{" + b'"a":' * 500, 400),
    ("/v1/completions", json.dumps({"prompt": "word " * 3_000, "max_tokens": 1}).encode(), 400),
    ("/v1/chat/completions", b'{"messages": []}', 400),
    ("/v1/chat/completions", b'{"messages": [{"role": "nobody", "content": "a"}]}', 400),
    ("/v1/embeddings", b'{"model": "embed", "input": 3}', 400),
    ("/no/such/path", b"{}", 404),
)


@dataclass(eq=False, slots=True)
class Seen:
    """What clients saw, by kind of request."""

    counts: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def expect(self, condition: bool, kind: str, what: object) -> None:
        if not condition:
            self.errors.append(f"{kind}: {what}"[:400])


class Traffic:
    """Draws one request after the other and asks it, with one of the keys."""

    def __init__(
        self, client: httpx.AsyncClient, ports: dict[str, int], secrets: Sequence[str], seed: int
    ) -> None:
        self.seen = Seen()
        self._client = client
        self._ports = ports
        self._secrets = secrets
        self._draw = random.Random(seed)
        self._num = 0
        self._kinds: dict[str, tuple[int, Callable[[], Awaitable[None]]]] = {
            "chat": (18, self._chat),
            "streamed": (18, self._streamed),
            "tools": (6, self._tools),
            "schema": (6, self._schema),
            "embeddings": (10, self._embeddings),
            "tokens": (4, self._tokens),
            "departures": (28, self._departure),
            "bad": (10, self._bad),
        }

    async def keep_asking(self, until: float) -> None:
        weights = [weight for weight, _ in self._kinds.values()]
        while time.monotonic() < until:
            kind = self._draw.choices(list(self._kinds), weights)[0]
            self.seen.counts[kind] += 1
            try:
                await self._kinds[kind][1]()
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as exc:
                self.seen.errors.append(f"{kind}: {exc!r}")

    async def _post(
        self, kind: str, path: str, body: dict[str, Any] | bytes, status: int = 200
    ) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"x-api-key": self._draw.choice(self._secrets), "content-type": "application/json"}
        answer = await self._client.post(path, content=content, headers=headers)
        self.seen.statuses[f"{kind} {answer.status_code}"] += 1
        self.seen.expect(answer.status_code == status, kind, f"{answer.status_code} {answer.text[-200:]}")
        return answer

    def _words(self, least: int, most: int) -> str:
        return " ".join(self._draw.choices(TEXT.split(), k=self._draw.randint(least, most)))

    async def _chat(self) -> None:
        body = {"model": "primary", "max_tokens": self._draw.randint(1, 40)}
        messages = [{"role": "user", "content": self._words(3, 80)}]
        answer = await self._post("chat", "/v1/chat/completions", {**body, "messages": messages})
        self.seen.expect(
            answer.json()["choices"][0]["finish_reason"] in ("stop", "length"), "chat", answer.text
        )

    async def _streamed(self) -> None:
        """Every second behind a beginning that others have, too, so that prefixes are found."""
        start = TEXT + ". " if self._draw.random() < 0.5 else ""
        tokens = self._draw.randint(1, 60)
        body = {"model": "primary", "prompt": start + self._words(3, 120), "max_tokens": tokens}
        body |= {"stream": True, "ignore_eos": True, "stream_options": {"include_usage": True}}
        headers = {"x-api-key": self._draw.choice(self._secrets)}
        lines = []
        async with self._client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            self.seen.statuses[f"streamed {answer.status_code}"] += 1
            async for line in answer.aiter_lines():
                lines += [line.removeprefix("data: ")] if line else []
        self.seen.expect(lines[-1] == "[DONE]", "streamed", lines[-1])
        told = json.loads(lines[-2])["usage"]["completion_tokens"]
        self.seen.expect(told == tokens, "streamed", f"{told} tokens came, {tokens} were asked for")

    async def _tools(self) -> None:
        messages = [{"role": "user", "content": "Weather in " + self._words(1, 4) + "?"}]
        body = {"model": "primary", "messages": messages, "tools": [WEATHER], "tool_choice": "required"}
        answer = await self._post("tools", "/v1/chat/completions", {**body, "max_tokens": 60})
        call = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
        self.seen.expect(set(json.loads(call["arguments"])) == {"city", "days"}, "tools", call)

    async def _schema(self) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
        messages = [{"role": "user", "content": self._words(3, 20)}]
        body = {"model": "primary", "messages": messages, "response_format": form, "max_tokens": 60}
        answer = await self._post("schema", "/v1/chat/completions", body)
        person = json.loads(answer.json()["choices"][0]["message"]["content"])
        self.seen.expect(set(person) == {"name", "age"}, "schema", person)

    async def _embeddings(self) -> None:
        texts = [self._words(2, 60) for _ in range(self._draw.randint(1, 6))]
        answer = await self._post("embeddings", "/v1/embeddings", {"model": "embed", "input": texts})
        lengths = {len(each["embedding"]) for each in answer.json()["data"]}
        self.seen.expect(lengths == {384} and len(answer.json()["data"]) == len(texts), "embeddings", lengths)

    async def _tokens(self) -> None:
        answer = await self._post("tokens", "/tokenize", {"model": "primary", "prompt": self._words(2, 60)})
        self.seen.expect(answer.json()["count"] == len(answer.json()["tokens"]) > 0, "tokens", answer.text)

    async def _departure(self) -> None:
        self._num += 1
        visit = draw_visit(self._draw, f"v{self._num}", self._secrets)
        seen = await pay(visit, "127.0.0.1", self._ports)
        status = seen.status or 0
        self.seen.statuses[f"departures {status or 'without an answer'}"] += 1
        told = bytes(seen.data[-200:])
        self.seen.expect(seen.error is None, "departures", seen.error)
        self.seen.expect(
            status in (0, 200, 429, 499, 504), "departures", f"{visit.moment} {visit.way}: {status} {told!r}"
        )
        self.seen.expect(
            visit.moment is not Moment.STAYS or seen.is_whole, "departures", f"broke off: {told!r}"
        )

    async def _bad(self) -> None:
        path, body, status = self._draw.choice(BAD)
        await self._post("bad", path, body, status)

"""Whether a key can tell by the clock what another key has asked: for a prompt, a schema, a repeated text.

    python bench/cache_timing.py [--trials 200] [--seed 1] [--json FILE] [flags of `takeoff serve`]

A victim and an attacker have a key each. In each trial the victim asks for a text that the attacker will
ask for too, or, as a coin decides, for another one of the same kind; then the attacker asks, and times the
answer. A classifier takes that time: its area under the ROC curve is 0.5 if time tells nothing. The probes:
- prefix: the time to the first token of a long prompt that the victim has just asked for;
- running: the same while the victim's own request of it still runs;
- schema: the time until a constrained answer begins, whose schema the victim has just used;
- drafts: the time of a token in a text that repeats itself, after the victim's text did, or only seemed to.

Each probe is made again with one key for both: then what was computed is shared, and the first three must
tell the two cases apart, or the test could not fail. Exits with 1 unless with two keys every interval
contains 0.5 and no token came from the cache, and with one key the areas of these three are near 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from made_keys import make_keys
from server import ONE_DOOR, Server

from takeoff.bench.separation import Separation, separation

LIMIT_S = 120.0
FLAGS = ("--max-slots", "4", "--context", "2048", "--prefix-cache-mb", "256")
PROMPT_WORDS, SCHEMA_NAMES = 110, 150
TELLS = 0.95  # the area with one key, at least
QUIET_S = 0.02  # before the attacker asks, so that both cases find the same engine


@dataclass(frozen=True, slots=True)
class Answer:
    """Seconds to the first piece and of the whole, and tokens of the prompt and of it from the cache."""

    ttft_s: float
    total_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(eq=False, slots=True)
class Trials:
    """What an attacker measured, by whether the victim had asked for the same."""

    same: list[float] = field(default_factory=list)  # higher means faster
    other: list[float] = field(default_factory=list)
    cached_same: list[float] = field(default_factory=list)
    cached_other: list[float] = field(default_factory=list)

    def note(self, score: float, answer: Answer, *, is_same: bool) -> None:
        (self.same if is_same else self.other).append(score)
        (self.cached_same if is_same else self.cached_other).append(answer.cached_tokens)

    @property
    def by_time(self) -> Separation:
        return separation(self.same, self.other)

    @property
    def by_count(self) -> Separation:
        """By what the server itself says of its cache: free of noise."""
        return separation(self.cached_same, self.cached_other)


class Asker:
    """One key at work."""

    def __init__(self, client: httpx.AsyncClient, secret: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {secret}"}

    async def ask(self, prompt: str, max_tokens: int = 1, **fields: Any) -> Answer:
        body = {"model": "primary", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}} | fields
        started, first, usage = time.perf_counter(), 0.0, None
        async with self._client.stream("POST", "/v1/completions", json=body, headers=self._headers) as answer:
            if answer.status_code != 200:
                raise SystemExit(f"HTTP {answer.status_code}: {(await answer.aread()).decode()}")
            async for line in answer.aiter_lines():
                first = first or time.perf_counter()
                if line.startswith("data: {"):
                    usage = json.loads(line.removeprefix("data: ")).get("usage") or usage
        total_s = time.perf_counter() - started
        if usage is None:
            raise SystemExit("a stream ended without its usage")
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        counts = usage["prompt_tokens"], cached, usage["completion_tokens"]
        return Answer(first - started, total_s, *counts)


class Texts:
    """Texts that nobody has sent before."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def words(self, num: int) -> str:
        letters = "abcdefghijklmnopqrstuvwxyz"
        return " ".join("".join(self.draw.choices(letters, k=self.draw.randint(2, 6))) for _ in range(num))

    def schema(self) -> dict[str, Any]:
        names = [self.words(1) + str(number) for number in range(SCHEMA_NAMES)]
        properties = {name: {"type": "string", "pattern": r"\d{3}"} for name in names}
        return {"type": "object", "properties": properties, "additionalProperties": False}


async def prefix(victim: Asker, attacker: Asker, texts: Texts, trials: Trials) -> None:
    asked, other = texts.words(PROMPT_WORDS), texts.words(PROMPT_WORDS)
    is_same = texts.draw.random() < 0.5
    await victim.ask(asked if is_same else other)
    await asyncio.sleep(QUIET_S)
    answer = await attacker.ask(asked)
    trials.note(-answer.ttft_s / answer.prompt_tokens, answer, is_same=is_same)


async def running(victim: Asker, attacker: Asker, texts: Texts, trials: Trials) -> None:
    asked, other = texts.words(PROMPT_WORDS), texts.words(PROMPT_WORDS)
    is_same = texts.draw.random() < 0.5
    begun = asyncio.create_task(victim.ask(asked if is_same else other, 24))
    await asyncio.sleep(texts.draw.uniform(0.0, 0.3))
    answer = await attacker.ask(asked)
    trials.note(-answer.ttft_s / answer.prompt_tokens, answer, is_same=is_same)
    await begun


async def schema(victim: Asker, attacker: Asker, texts: Texts, trials: Trials) -> None:
    asked, other = texts.schema(), texts.schema()
    is_same = texts.draw.random() < 0.5
    await victim.ask(texts.words(4), 2, guided_json=asked if is_same else other)
    await asyncio.sleep(QUIET_S)
    answer = await attacker.ask(texts.words(4), 2, guided_json=asked)
    trials.note(-answer.ttft_s, answer, is_same=is_same)


async def drafts(victim: Asker, attacker: Asker, texts: Texts, trials: Trials) -> None:
    """The victim's text repeats itself as the attacker's will, or only seems to."""
    is_same = texts.draw.random() < 0.5
    told = texts.words(12)
    seeming = " ".join(f"{told} {texts.words(3)}" for _ in range(6))
    await victim.ask(" ".join([told] * 8) if is_same else seeming, 48)
    await asyncio.sleep(QUIET_S)
    answer = await attacker.ask(" ".join([texts.words(12)] * 8), 48)
    spent_s = answer.total_s - answer.ttft_s
    trials.note(-spent_s / answer.completion_tokens, answer, is_same=is_same)


Probe = Callable[[Asker, Asker, Texts, Trials], Awaitable[None]]
PROBES: dict[str, Probe] = {each.__name__: each for each in (prefix, running, schema, drafts)}
SHARED = {"prefix", "running", "schema"}  # with one key


async def measure(url: str, secrets: list[str], options: argparse.Namespace) -> dict[str, dict[str, Trials]]:
    """The trials of each probe, with two keys and with one, in turns."""
    found = {name: {"two keys": Trials(), "one key": Trials()} for name in options.probes}
    async with httpx.AsyncClient(base_url=url, timeout=LIMIT_S) as client:
        askers = [Asker(client, secret) for secret in secrets]
        for name, sides in found.items():
            texts = Texts(options.seed)
            for number in range(2 * options.warm_up + 2 * options.trials):
                side = ("two keys", "one key")[number % 2]
                victim, attacker = (askers[0], askers[1]) if side == "two keys" else (askers[2], askers[2])
                noted = sides[side] if number >= 2 * options.warm_up else Trials()
                await PROBES[name](victim, attacker, texts, noted)
            print(f"{name} is measured", file=sys.stderr)
    return found


def broken(found: dict[str, dict[str, Trials]]) -> list[str]:
    """The promises that were not kept, and controls that could not have found them broken."""
    said = []
    for name, sides in found.items():
        two, one = sides["two keys"], sides["one key"]
        if not two.by_time.is_chance:
            said.append(f"{name}: time tells the keys' texts, {two.by_time.told()}")
        if any(two.cached_same + two.cached_other):
            said.append(f"{name}: another key's tokens came from the cache")
        if name in SHARED and one.by_time.area < TELLS:
            said.append(f"{name}: with one key time does not tell, {one.by_time.told()}")
    return said


def figures(found: dict[str, dict[str, Trials]]) -> dict[str, Any]:
    told: dict[str, Any] = {"broken": broken(found)}
    for name, sides in found.items():
        for side, trials in sides.items():
            by_time, by_count = trials.by_time, trials.by_count
            told[f"{name}, {side}"] = {
                "cases": by_time.num_cases,
                "auc": round(by_time.area, 3),
                "interval": [round(by_time.low, 3), round(by_time.high, 3)],
                "auc_by_cached_tokens": round(by_count.area, 3),
                "cached_tokens": int(sum(trials.cached_same + trials.cached_other)),
            }
    return told


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200, help="of each probe, with two keys and with one")
    parser.add_argument("--warm-up", type=int, default=3, help="trials before them that are not counted")
    parser.add_argument("--probes", nargs="+", choices=list(PROBES), default=list(PROBES))
    parser.add_argument("--seed", type=int, default=1, help="of the texts and the coin")
    parser.add_argument("--json", type=Path, help="write the figures here as well")
    options, flags = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "keys.json")
        secrets = make_keys(path, 3)
        server = Server(*ONE_DOOR, *FLAGS, "--keys-file", str(path), "--request-log", "off", *flags)
        server.copy_to(sys.stderr)
        with contextlib.ExitStack() as stack:
            stack.callback(server.stop)
            found = asyncio.run(measure(server.url, secrets, options))
    told = figures(found)
    if options.json is not None:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    for name, sides in found.items():
        for side, trials in sides.items():
            by_count = f"{trials.by_count.area:.3f}"
            print(f"{name}, {side}: by time {trials.by_time.told()}; by cached tokens {by_count}")
    print("kept" if not told["broken"] else f"BROKEN: {'; '.join(told['broken'])}")
    sys.exit(1 if told["broken"] else 0)


if __name__ == "__main__":
    main()

"""Tries on this machine's GPU what the server does on a processor, and says what differs.

    python bench/gpu.py [--device cuda] [--only text ...] [--model M] [--json FILE] [flags of `takeoff serve`]

Each check starts servers of its own. Texts are greedy, and compared with those of `--device cpu` on the same
machine, or with those of a server that does without the feature in question. Exits with 1 if a check could
not be run or an answer was wrong; two devices may write different texts, because they round differently: then
it says where, and how close the two candidates were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
from server import Server

NUM_STREAMS = 16
TOKENS = 96
LIMIT_S = 60.0
STARTS = (
    "The three largest rivers of Africa are",
    "Once upon a time there was a lighthouse keeper who",
    "def fibonacci(n):\n",
    "A recipe for bread: first",
    "The difference between weather and climate is",
    "1, 2, 4, 8, 16,",
    "Dear Sir or Madam,\n\nI am writing to",
    "In 1969 the first people",
)
PREFIX = " ".join(f"Rule {number}: answer question {number} with care." for number in range(1, 90))
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "population": {"type": "integer"},
        "coastal": {"type": "boolean"},
    },
    "required": ["name", "population", "coastal"],
    "additionalProperties": False,
}
PEOPLE = [{"id": number, "name": f"Person {number}", "city": "London"} for number in range(6)]
EDIT = f"Repeat this JSON, but change the last city to Cambridge:\n\n{json.dumps(PEOPLE, indent=1)}"


class Wrong(Exception):
    """An answer was not what it must be."""


@dataclass
class Running:
    """A server that is ready."""

    server: Server
    client: httpx.Client
    said: list[str] = field(default_factory=list)

    def ask(self, prompt: str, max_tokens: int = TOKENS, **fields: Any) -> dict[str, Any]:
        """A greedy completion of so many tokens."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True} | fields
        return self._post("/v1/completions", body)

    def chat(self, text: str, **fields: Any) -> dict[str, Any]:
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 220, "temperature": 0} | fields
        return self._post("/v1/chat/completions", body)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(path, json={"model": "primary"} | body)
        if answer.status_code != 200:
            raise Wrong(f"HTTP {answer.status_code}: {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found

    def metric(self, name: str) -> float:
        """0 where it has no value yet."""
        page = self.client.get("/metrics").text
        found = [line.rsplit(" ", 1)[1] for line in page.splitlines() if line.startswith(name + " ")]
        return float(found[0]) if found else 0.0

    def soon(self, name: str) -> float:
        """A metric that the engine's next heartbeats bring."""
        time.sleep(0.4)
        return self.metric(name)


class Bench:
    """What all checks need: the device, the flags, and the texts of the processor."""

    def __init__(self, device: str, flags: list[str]) -> None:
        self.device, self._flags = device, flags
        self._plain: list[dict[str, Any]] = []

    @contextlib.contextmanager
    def serving(self, *flags: str, device: str | None = None, key: str | None = None) -> Iterator[Running]:
        doors = ["--takeoff-port=off", "--openai-port=off", "--management-port=0"]
        server = Server("--device", device or self.device, *doors, *self._flags, *flags)
        said: list[str] = server.said.splitlines()
        assert server.process.stderr is not None
        reader = threading.Thread(target=said.extend, args=(server.process.stderr,), daemon=True)
        reader.start()
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            with httpx.Client(base_url=server.url, timeout=LIMIT_S, headers=headers) as client:
                yield Running(server, client, said)
        finally:
            server.process.terminate()
            server.process.wait(LIMIT_S)
            reader.join(LIMIT_S)

    def plain(self) -> list[dict[str, Any]]:
        """The texts of this machine's processor, by llama.cpp's weights as they are."""
        if not self._plain:
            with self.serving("--no-optimize", device="cpu") as running:
                self._plain = texts(running)
        return self._plain

    # --- the checks: each returns what it found ---

    def text(self) -> dict[str, Any]:
        """The same text as a processor writes, or where they part."""
        plain = self.plain()
        with self.serving() as running:
            return {"plan": plan_lines(running), **compared(plain, texts(running))}

    def layers(self) -> dict[str, Any]:
        """Ten layers there, the others here."""
        plain = self.plain()
        layers = "10" if self.device != "cpu" else "0"
        with self.serving("--gpu-layers", layers) as running:
            return {"plan": plan_lines(running), **compared(plain, texts(running))}

    def status(self) -> dict[str, Any]:
        """What the doors say of the device, and the driver of the memory."""
        before = gpu_used_mb()
        with self.serving() as running:
            running.ask(STARTS[0])
            port = (
                next(line for line in running.said if "management" in line).split("management")[1].split()[0]
            )
            status = httpx.get(f"http://{port}/status", timeout=LIMIT_S).json()
            (reader,) = status["status"]["live_readers"].values()
            return {
                "device": reader["device"],
                "gpu_layers": running.soon("takeoff_gpu_layers"),
                "gpu_used_mb": None if before is None else (gpu_used_mb() or 0) - before,
                "rss_mb": {pid: psutil.Process(pid).memory_info().rss >> 20 for pid in reader["pids"]},
                "plan": plan_lines(running),
                "sandbox": [line for line in running.said if "sandbox" in line],
            }

    def prefix(self) -> dict[str, Any]:
        """Sixteen streams with a common prefix, which is computed once, and texts as without a cache."""
        prompts = [f"{PREFIX}\n\nQuestion {number}: {start}" for number, start in enumerate(STARTS * 2)]
        with self.serving("--prefix-cache-mb", "0") as running:
            uncached = [running.ask(prompt, 32) for prompt in prompts]
        flags = ("--max-slots", "4")  # so that most wait, and begin with what others left
        with self.serving(*flags) as running:
            started = time.perf_counter()
            cold = side_by_side(running, prompts)
            cold_s = time.perf_counter() - started
            warm = side_by_side(running, prompts)
            restores = running.soon('takeoff_step_calls_total{kind="restore"}')
            saves = running.metric('takeoff_step_calls_total{kind="save"}')
        total, found = sum(prompt_tokens(each) for each in warm), sum(cached_tokens(each) for each in warm)
        if found < 0.9 * total or not saves or not restores:
            raise Wrong(f"{found} of {total} tokens were cached, {saves:g} saves, {restores:g} restores")
        return {
            "prompt_tokens": total,
            "cached_cold": sum(cached_tokens(each) for each in cold),
            "cached_warm": found,
            "saves": saves,
            "restores": restores,
            "cold_s": round(cold_s, 2),
            "cold_as_uncached": compared(uncached, cold),
            "warm_as_uncached": compared(uncached, warm),
        }

    def schema(self) -> dict[str, Any]:
        """Eight answers at once, each of which must be of the schema."""
        wanted = {"type": "json_schema", "json_schema": {"name": "town", "schema": SCHEMA, "strict": True}}
        towns = ("Paris", "Lima", "Oslo", "Cairo", "Quito", "Delhi", "Porto", "Kyoto")
        with self.serving() as running, ThreadPoolExecutor(8) as pool:
            asked = [f"Tell me about {town} as JSON." for town in towns]
            answers = list(pool.map(lambda text: running.chat(text, response_format=wanted), asked))
        told = [json.loads(each["choices"][0]["message"]["content"]) for each in answers]
        for each in told:
            if set(each) != set(SCHEMA["required"]) or not isinstance(each["population"], int):
                raise Wrong(f"not of the schema: {each}")
        return {"answers": len(told), "first": told[0]}

    def speculation(self) -> dict[str, Any]:
        """A text that repeats its prompt: drafts are accepted, and it stays the same."""
        with self.serving("--speculation", "off") as running:
            started = time.perf_counter()
            plain = running.chat(EDIT)
            plain_s = time.perf_counter() - started
        with self.serving() as running:
            running.chat(EDIT)
            started = time.perf_counter()
            drafted = running.chat(EDIT)
            drafted_s = time.perf_counter() - started
            return {
                "same_text": text_of(plain) == text_of(drafted),
                "tokens": drafted["usage"]["completion_tokens"],
                "drafted": running.soon("takeoff_drafted_tokens_total"),
                "accepted": running.metric("takeoff_accepted_draft_tokens_total"),
                "plain_s": round(plain_s, 3),
                "drafted_s": round(drafted_s, 3),
            }

    def moving(self) -> dict[str, Any]:
        """Sequences that outgrow a short slot go on in a long one, by snapshot."""
        plain_flags = ("--max-slots", "4", "--context", "4096", "--long-slots", "0")
        prompts = [f"{PREFIX} {start}" for start in STARTS[:4]]
        with self.serving(*plain_flags) as running:
            plain = [running.ask(prompt, 300) for prompt in prompts]
        with self.serving("--max-slots", "8", "--context", "8192", "--long-slots", "2") as running:
            moved = side_by_side(running, prompts, 300)
            return {
                "moves": running.soon('takeoff_step_calls_total{kind="move"}'),
                "plan": plan_lines(running),
                **compared(plain, moved),
            }

    def parking(self) -> dict[str, Any]:
        """A light key beside a flooding one: somebody is put aside, and ends with the same text."""
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "keys.json")
            flood, light = (made_key(name, path) for name in ("flood", "light"))
            watcher = made_key("watcher", path, "--scope", "metrics")
            flags = ("--max-slots", "2", "--context", "512", "--keys-file", path)
            with self.serving(*flags, key=flood) as running, ThreadPoolExecutor(12) as pool:
                running.ask(STARTS[1], 200)
                asked = [pool.submit(running.ask, STARTS[1], 200) for _ in range(12)]
                time.sleep(0.3)
                headers = {"authorization": f"Bearer {light}"}
                body = {"model": "primary", "prompt": "Hello", "max_tokens": 4, "temperature": 0}
                answer = running.client.post("/v1/completions", json=body, headers=headers)
                texts_ = {text_of(each.result()) for each in asked}
                time.sleep(0.4)
                page = running.client.get("/metrics", headers={"authorization": f"Bearer {watcher}"}).text
        parked = [
            line
            for line in page.splitlines()
            if line.startswith("takeoff_step_calls_total") and "park" in line
        ]
        return {"light": answer.status_code, "texts_of_the_flood": len(texts_), "calls": parked}

    def deterministic(self) -> dict[str, Any]:
        """The server proves that its bits don't depend on what runs beside a request, or refuses to start."""
        try:
            with self.serving("--deterministic") as running:
                alone = [running.ask(start) for start in STARTS]
                beside = side_by_side(running, list(STARTS), TOKENS)
                return {"said": "ready", **compared(alone, beside)}
        except SystemExit as exc:
            return {"said": [line for line in str(exc).splitlines() if "deterministic" in line][-3:]}


CHECKS = ("status", "text", "layers", "prefix", "schema", "speculation", "moving", "parking", "deterministic")


def texts(running: Running) -> list[dict[str, Any]]:
    """One after the other, with the two best candidates of each token."""
    return [running.ask(start, logprobs=2) for start in STARTS]


def side_by_side(running: Running, prompts: list[str], tokens: int = 32) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(NUM_STREAMS) as pool:
        return list(pool.map(lambda prompt: running.ask(prompt, tokens), prompts))


def compared(plain: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """How many texts are equal, and where each other one parts."""
    partings = []
    for one, other in zip(plain, others, strict=True):
        if text_of(one) != text_of(other):
            partings.append(parting(one, other))
    return {"equal": f"{len(plain) - len(partings)} of {len(plain)}", "partings": partings} | deviation(
        plain, others
    )


def parting(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The first place where two texts differ; with logprobs, how far apart the candidates were."""
    first, second = text_of(one), text_of(other)
    place = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(first))
    found: dict[str, Any] = {"character": place, "one": first[place:][:20], "other": second[place:][:20]}
    tokens = one["choices"][0].get("logprobs")
    others = other["choices"][0].get("logprobs")
    if tokens and others:
        pairs = enumerate(zip(tokens["tokens"], others["tokens"], strict=False))
        at = next((number for number, (a, b) in pairs if a != b), len(tokens["tokens"]) - 1)
        best = sorted(tokens["top_logprobs"][at].values(), reverse=True)
        found |= {"token": at, "margin": round(best[0] - best[1], 4) if len(best) > 1 else None}
    return found


def deviation(plain: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[str, Any]:
    """How far the log-probabilities of equal tokens are apart, at most, before the texts part."""
    most = 0.0
    for one, other in zip(plain, others, strict=True):
        ones, two = one["choices"][0].get("logprobs"), other["choices"][0].get("logprobs")
        if not ones or not two:
            return {}
        for a, b, p, q in zip(
            ones["tokens"], two["tokens"], ones["token_logprobs"], two["token_logprobs"], strict=False
        ):
            if a != b:
                break
            most = max(most, abs(p - q))
    return {"logprob_deviation": round(most, 4)}


def text_of(answer: dict[str, Any]) -> str:
    choice = answer["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def prompt_tokens(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens"])


def cached_tokens(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def plan_lines(running: Running) -> list[str]:
    """What the server planned before it loaded the model."""
    return [line.strip() for line in running.said if line.startswith("  ") and " MB" in line]


def made_key(name: str, path: str, *flags: str) -> str:
    command = [sys.executable, "-c", "from takeoff.cli.main import main; main()", "keys", "create", name]
    return subprocess.run(
        [*command, "--keys-file", path, *flags], capture_output=True, text=True, check=True
    ).stdout.strip()


def gpu_used_mb() -> int | None:
    """Memory in use on the first GPU, in MiB, by whomever."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=CHECKS)
    parser.add_argument("--json", type=Path, help="write what was found here as well")
    options, flags = parser.parse_known_args()
    bench, found, is_whole = Bench(options.device, flags), {}, True
    for name in options.only:
        started = time.perf_counter()
        try:
            found[name] = getattr(bench, name)()
        except (Exception, SystemExit) as exc:
            is_whole = False
            found[name] = {"failed": f"{type(exc).__name__}: {exc}"[-4000:]}
        found[name]["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{name}: {json.dumps(found[name], indent=1)}", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(0 if is_whole else 1)


if __name__ == "__main__":
    main()

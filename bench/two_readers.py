"""What sharing the cores costs: two generating readers beside one, and an embedding reader beside a stream.

    python bench/two_readers.py [--rounds 3]

Starts one server with two readers of the default model and one of MiniLM. In alternation: eight
streams on one reader, eight on each of both, a client that embeds without a pause, and eight streams
beside it. Gaps are pooled over the rounds; how long a batch of the embedder takes is from `/metrics`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import requests
from server import Server

from takeoff.bench.client import Trace, Work, complete
from takeoff.bench.target import Target

STREAMS, TOKENS = 8, 96
ALONE_S = 3.0  # of embedding with nothing beside it
BEAT_S = 1.0  # the engines' counts are this old at most
MANIFEST = """
takeoff:
  server_config: {}
  readers_config:
    one: {model_name: smollm2, device: cpu, consumer_group: one, max_batch_size: 8, max_sequence_length: 1024}
    two: {model_name: smollm2, device: cpu, consumer_group: two, max_batch_size: 8, max_sequence_length: 1024}
    embedder: {model_name: minilm, device: cpu, consumer_group: embed}
"""
TEXTS = [f"The {n}th sentence is about a clockmaker who never sold the blue clock." * 3 for n in range(32)]


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a server."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "config.yaml")
        manifest.write_text(MANIFEST)
        server = Server("--manifest", str(manifest), "--takeoff-port", "0")
        try:
            yield server.url
        finally:
            server.stop()


def together(url: str, groups: tuple[str, ...], gaps: list[float]) -> float:
    """Tokens/s of eight streams a group, all at once; the gaps between their tokens go to `gaps`."""
    host, port = url.removeprefix("http://").split(":")
    work = [
        (Target(group, host, int(port), group), Work(f"A long story about the number {number}:", TOKENS))
        for group in groups
        for number in range(STREAMS)
    ]

    async def complete_all() -> list[Trace]:
        return await asyncio.gather(*(complete(target, each) for target, each in work))

    started = time.perf_counter()
    traces = asyncio.run(complete_all())
    seconds = time.perf_counter() - started
    for trace in traces:
        assert trace.error is None, trace.error
        gaps += trace.gaps()
    return len(traces) * TOKENS / seconds


class Embedding:
    """A client that embeds without a pause until it is left; how many texts/s, in batches how long."""

    texts_per_s = batch_s = 0.0

    def __init__(self, url: str) -> None:
        self._url = url
        self._done = threading.Event()
        self._num_texts = 0
        self._thread = threading.Thread(target=self._embed)

    def __enter__(self) -> Embedding:
        self._calls, self._seconds = self._counts()
        self._started = time.perf_counter()
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join()
        self.texts_per_s = self._num_texts / (time.perf_counter() - self._started)
        calls, seconds = self._counts()
        self.batch_s = (seconds - self._seconds) / (calls - self._calls)

    def _embed(self) -> None:
        while not self._done.is_set():
            body = {"input": TEXTS, "model": "embed", "encoding_format": "base64"}
            requests.post(f"{self._url}/v1/embeddings", json=body, timeout=600).raise_for_status()
            self._num_texts += len(TEXTS)

    def _counts(self) -> tuple[float, float]:
        """The batches of all time, and the seconds in them."""
        time.sleep(BEAT_S)
        page = requests.get(f"{self._url}/metrics", timeout=10).text
        values = dict(line.rsplit(" ", 1) for line in page.splitlines() if 'kind="encode"' in line)
        names = (f'takeoff_step_{name}_total{{kind="encode"}}' for name in ("calls", "seconds"))
        calls, seconds = (float(values.get(name, 0)) for name in names)
        return calls, seconds


@dataclass
class Side:
    """What was measured of eight streams, or of embedding, with or without something beside it."""

    rates: list[float] = field(default_factory=list)  # tokens/s or texts/s
    gaps: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return statistics.median(self.rates)

    @property
    def batch_ms(self) -> float:
        return 1e3 * statistics.median(self.batches)

    def gap_ms(self, percent: int) -> float:
        return 1e3 * statistics.quantiles(self.gaps, n=100)[percent - 1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one, both, beside, texts_alone, texts_beside = (Side() for _ in range(5))
    with serving() as url:
        together(url, ("one", "two"), [])
        for _ in range(rounds):
            one.rates.append(together(url, ("one",), one.gaps))
            both.rates.append(together(url, ("one", "two"), both.gaps))
            with Embedding(url) as alone:
                time.sleep(ALONE_S)
            with Embedding(url) as embedding:
                beside.rates.append(together(url, ("one",), beside.gaps))
            for side, measured in ((texts_alone, alone), (texts_beside, embedding)):
                side.rates.append(measured.texts_per_s)
                side.batches.append(measured.batch_s)
    ratio = statistics.median(two / single for two, single in zip(both.rates, one.rates, strict=True))
    print(f"two readers: {both.rate:.0f} tokens/s, one: {one.rate:.0f}; {ratio:.2f} x")
    print(f"embedding alone: {texts_alone.rate:.0f} texts/s in batches of {texts_alone.batch_ms:.0f} ms")
    for name, side in (("one reader alone", one), ("beside the embedder", beside)):
        gaps = ", ".join(f"p{percent} {side.gap_ms(percent):.0f} ms" for percent in (50, 90, 99))
        print(f"{name}: {side.rate:.0f} tokens/s; gaps {gaps}")
    told = f"{texts_beside.rate:.0f} texts/s in batches of {texts_beside.batch_ms:.0f} ms"
    print(f"the embedder beside it: {told}")
    longer = (beside.gap_ms(99) - one.gap_ms(99)) / texts_beside.batch_ms
    print(f"the p99 gap is longer by {longer:.2f} batches (goal: 1)")


if __name__ == "__main__":
    main()

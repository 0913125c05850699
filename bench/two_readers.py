"""What sharing the cores costs: two generating readers beside one, and an embedding reader beside a stream.

    python bench/two_readers.py

Starts one server with two readers of the default model and one of MiniLM. In alternation: eight
streams on one reader, eight on each of both, and eight beside a client that embeds without a pause.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import requests
from server import Server

ROUNDS, STREAMS, TOKENS = 3, 8, 96
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
    """The address of a server's Takeoff API."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "config.yaml")
        manifest.write_text(MANIFEST)
        server = Server("--manifest", str(manifest), "--takeoff-port", "0", "--management-port", "0")
        try:
            yield "http://" + server.read_until("Takeoff API").split("Takeoff API ")[1].split()[0]
        finally:
            server.stop()


def stream(url: str, group: str, number: int, gaps: list[float]) -> None:
    body = {
        "text": f"Tell a long story about the number {number}.",
        "consumer_group": group,
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
    }
    last = None
    with requests.post(f"{url}/generate_stream", json=body, stream=True, timeout=600) as answer:
        for _ in answer.iter_content(None):
            now = time.perf_counter()
            if last is not None:
                gaps.append(now - last)
            last = now


def together(url: str, groups: tuple[str, ...]) -> tuple[float, list[float]]:
    """Tokens/s of eight streams a group, all at once; the gaps between their tokens."""
    gaps: list[float] = []
    threads = [
        threading.Thread(target=stream, args=(url, group, number, gaps))
        for group in groups
        for number in range(STREAMS)
    ]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(threads) * TOKENS / (time.perf_counter() - started), gaps


def embed(url: str, done: threading.Event, times: list[float]) -> None:
    while not done.is_set():
        started = time.perf_counter()
        body = {"text": TEXTS, "consumer_group": "embed"}
        requests.post(f"{url}/embed", json=body, timeout=600).raise_for_status()
        times.append(time.perf_counter() - started)


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


def main() -> None:
    with serving() as url:
        together(url, ("one", "two"))
        ratios, alone_ms, beside_ms = [], [], []
        for _ in range(ROUNDS):
            one, gaps = together(url, ("one",))
            both, _ = together(url, ("one", "two"))
            ratios.append(both / one)
            alone_ms.append(1e3 * p99(gaps))
            print(f"8 streams on one reader: {one:.0f} tokens/s; 8 on each of two: {both:.0f} tokens/s")
            done, times = threading.Event(), []
            embedding = threading.Thread(target=embed, args=(url, done, times))
            embedding.start()
            rate, gaps = together(url, ("one",))
            done.set()
            embedding.join()
            beside_ms.append(1e3 * p99(gaps))
            took = 1e3 * statistics.median(times)
            print(f"beside an embedder: {rate:.0f} tokens/s; p99 gap {beside_ms[-1]:.0f} ms", end="")
            print(f", alone {alone_ms[-1]:.0f} ms; a request of {len(TEXTS)} texts took {took:.0f} ms")
        print(f"two readers together: {statistics.median(ratios):.2f} x one")
        alone, beside = statistics.median(alone_ms), statistics.median(beside_ms)
        print(f"p99 gap: {alone:.0f} ms alone, {beside:.0f} ms beside an embedder")


if __name__ == "__main__":
    main()

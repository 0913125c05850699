"""Texts/s of an encoder against a bare onnxruntime loop on the same texts, side by side, in alternation.

python bench/embedding.py [FOLDER] [--texts 256] [--batch 32] [--rounds 5]

FOLDER is of the HF layout; default: MiniLM of the store. The bare loop tokenises and pads batches of the
texts in their given order, runs them and pools; `sorted` does so by length, which needs all texts at once.
`http` is a server of its own, asked for as many texts at once on /v1/embeddings by two clients.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
import requests
import tokenizers
from server import Server

from takeoff.engine.encoder.encoder import Encoder
from takeoff.engine.encoder.process import load_model
from takeoff.ipc.messages import Encode, Encoded, FromEncoder, LoadEncoder
from takeoff.models.encoder import read_encoder
from takeoff.models.machine import read_machine
from takeoff.models.store import Store
from takeoff.request import Task
from takeoff.settings import Settings

WORDS = [
    "the",
    "cat",
    "sat",
    "near",
    "a",
    "river",
    "while",
    "London",
    "slept",
    "and",
    "everybody",
    "ran",
    "home",
]


def make_texts(count: int) -> list[str]:
    """Texts of 3 to 60 words, others for each place."""
    drawn = random.Random(1)
    return [" ".join(drawn.choices(WORDS, k=drawn.randint(3, 60))) for _ in range(count)]


class Bare:
    """What anybody would write around onnxruntime."""

    def __init__(self, folder: Path, batch: int) -> None:
        model = read_encoder(folder)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(model.tokenizer_path))
        self.tokenizer.no_truncation()
        self.tokenizer.enable_padding()
        options = ort.SessionOptions()
        options.intra_op_num_threads = read_machine().cores
        self.session = ort.InferenceSession(str(model.onnx.path), options)
        self.batch = batch

    def embed(self, texts: list[str]) -> None:
        for start in range(0, len(texts), self.batch):
            encodings = self.tokenizer.encode_batch(texts[start : start + self.batch])
            mask = np.array([each.attention_mask for each in encodings])
            feed = {
                "input_ids": np.array([each.ids for each in encodings]),
                "attention_mask": mask,
                "token_type_ids": np.array([each.type_ids for each in encodings]),
            }
            hidden = self.session.run(None, feed)[0]
            vectors = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
            vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def embed_sorted(self, texts: list[str]) -> None:
        self.embed(sorted(texts, key=len))


class OverHttp:
    """A server, and two clients that ask for batches; stop it."""

    def __init__(self, folder: Path, batch: int) -> None:
        self.server = Server("--model", str(folder), "--log-level", "warning")
        self.batch = batch

    def embed(self, texts: list[str]) -> None:
        batches = [texts[start : start + self.batch] for start in range(0, len(texts), self.batch)]
        with ThreadPoolExecutor(2) as clients:
            assert sum(clients.map(self._ask, batches)) == len(texts)

    def _ask(self, texts: list[str]) -> int:
        answer = requests.post(f"{self.server.url}/v1/embeddings", json={"input": texts}, timeout=60)
        answer.raise_for_status()
        return len(answer.json()["data"])


class Ours:
    """An encoder in this process; every text a request of its own."""

    def __init__(self, folder: Path, batch: int) -> None:
        load = LoadEncoder(str(folder), Task.EMBED, read_machine().cores, batch, 0.0, None)
        self.answers: list[FromEncoder] = []
        self.encoder = Encoder(load, load_model(load), self.answers.append)

    def embed(self, texts: list[str]) -> None:
        self.answers.clear()
        for number, text in enumerate(texts):
            self.encoder.take(Encode(number, [text]))
        while self.encoder.due_in_s is not None:
            self.encoder.step()
        assert sum(isinstance(answer, Encoded) for answer in self.answers) == len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    folder = options.folder or Store(Settings().store).pull("minilm").path
    texts = make_texts(options.texts)
    bare, http = Bare(folder, options.batch), OverHttp(folder, options.batch)
    ways: dict[str, Callable[[list[str]], None]] = {
        "ours": Ours(folder, options.batch).embed,
        "http": http.embed,
        "bare": bare.embed,
        "sorted": bare.embed_sorted,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    try:
        for way in ways.values():
            way(texts[:64])
        for _ in range(options.rounds):
            for name, way in ways.items():
                started = time.perf_counter()
                way(texts)
                rates[name].append(len(texts) / (time.perf_counter() - started))
    finally:
        http.server.stop()
    for name, values in rates.items():
        ratios = [value / base for value, base in zip(values, rates["bare"], strict=True)]
        print(
            f"{name:7} {statistics.median(values):7.1f} texts/s, "
            f"{statistics.median(ratios):.2f} x bare ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()

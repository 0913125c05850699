"""lm-evaluation-harness 0.4.13 over /v1/completions: its scores are those of llama.cpp on the same files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest
import requests
from tests.cli.test_serve import LIMIT_S
from tests.clients.doors import HOST, Doors
from tests.clients.environments import Environment
from tests.clients.test_openai_guide import code_of

from takeoff.engine.llama.backends import load_backends

TASKS = Path(__file__).parent / "lm_eval_tasks"
BOUND = 1e-3  # nats between the logprobs of a token; on x86 with AVX2 they are the same to 1e-7


class Reference:
    """llama-cpp-python in this process: the logprobs of a text's tokens, all computed at once.

    With our kernels for attention: 8-bit activations make 0.07 of 6 nats of any other rounding.
    """

    def __init__(self, path: Path) -> None:
        load_backends()
        self._llama = llama_cpp.Llama(str(path), n_ctx=512, logits_all=True, flash_attn=True, verbose=False)

    def tokens(self, text: str) -> list[int]:
        return list(self._llama.tokenize(text.encode(), add_bos=False, special=True))

    @property
    def bos(self) -> int:
        return int(self._llama.token_bos())

    def score(self, tokens: list[int], num_known: int) -> tuple[float, bool]:
        """The sum of the logprobs of all but the first tokens, and whether each was the likeliest."""
        self._llama.reset()
        self._llama.eval(tokens)
        logits = np.asarray(self._llama.scores[num_known - 1 : len(tokens) - 1], dtype=np.float64)
        told = tokens[num_known:]
        logits -= logits.max(axis=1, keepdims=True)
        logprobs = logits[np.arange(len(told)), told] - np.log(np.exp(logits).sum(axis=1))
        return float(logprobs.sum()), bool((logits.argmax(axis=1) == told).all())

    def close(self) -> None:
        self._llama.close()


@pytest.fixture(scope="module")
def reference(smollm2_path: Path) -> Iterator[Reference]:
    reference = Reference(smollm2_path)
    yield reference
    reference.close()


@dataclass(frozen=True)
class Told:
    """What the harness wrote down: the scores of each task, and its items in order."""

    scores: dict[str, dict[str, float]]
    items: dict[str, list[dict[str, Any]]]

    @classmethod
    def read(cls, folder: Path) -> Told:
        (results,) = folder.rglob("results_*.json")
        scores = json.loads(results.read_text())["results"]
        items = {}
        for task in scores:
            (samples,) = folder.rglob(f"samples_{task}_*.jsonl")
            lines = map(json.loads, samples.read_text().splitlines())
            items[task] = sorted(lines, key=lambda item: int(item["doc_id"]))
        return cls(scores, items)


@pytest.fixture(scope="module")
def told(
    environment: Callable[[str], Environment], doors: Doors, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """All tasks, with the harness' defaults: one request at a time."""
    folder = tmp_path_factory.mktemp("told")
    url = f"{HOST}:{doors.openai}/v1/completions"
    environment("lm_eval_0_4_13").run(
        *("lm_eval", "run", "--model", "local-completions"),
        *("--model_args", f"model=primary,base_url={url},max_length=1024"),
        *("--tasks", "facts,passages,sums", "--include_path", "."),
        *("--output_path", str(folder), "--log_samples"),
        folder=TASKS,
    )
    return Told.read(folder)


def answers(item: dict[str, Any]) -> list[tuple[list[str], Any]]:
    """What the harness asked of an item, and what it made of each answer."""
    asked = [list(each.values()) for each in item["arguments"].values()]
    return list(zip(asked, item["filtered_resps"], strict=True))


def test_the_likeliest_answers_are_those_of_llama_cpp(told: Told, reference: Reference) -> None:
    items = told.items["facts"]
    assert len(items) == 32
    num_right = 0
    for item in items:
        scores = []
        for (context, choice), (logprob, is_greedy) in answers(item):
            tokens, num_known = reference.tokens(context + choice), len(reference.tokens(context))
            score, was_greedy = reference.score(tokens, num_known)
            assert float(logprob) == pytest.approx(score, abs=BOUND * (len(tokens) - num_known))
            assert (is_greedy == "True") == was_greedy
            scores.append(score)
        num_right += int(np.argmax(scores)) == item["doc"]["answer"]
    assert told.scores["facts"]["acc,none"] == num_right / len(items)
    assert 0.4 < num_right / len(items) < 1, "neither guessed nor trivial"


def test_the_perplexity_of_texts_is_that_of_llama_cpp(told: Told, reference: Reference) -> None:
    texts = [json.loads(line)["text"] for line in (TASKS / "passages.jsonl").read_text().splitlines()]
    assert len(texts) == 6
    total = 0.0
    for text, item in zip(texts, told.items["passages"], strict=True):
        tokens = [reference.bos, *reference.tokens(text)]
        score, _ = reference.score(tokens, 1)
        ((_, logprob),) = answers(item)
        assert float(logprob) == pytest.approx(score, abs=BOUND * len(tokens))
        total += score
    bits_per_byte = -total / sum(len(text.encode()) for text in texts) / math.log(2)
    assert told.scores["passages"]["bits_per_byte,none"] == pytest.approx(bits_per_byte, rel=BOUND)


def test_what_it_generates_is_what_the_api_continues(told: Told, doors: Doors) -> None:
    assert told.scores["sums"]["exact_match,none"] > 0.5
    for item in told.items["sums"]:
        (((prompt, _), text),) = answers(item)
        body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "stop": "\n"}
        answer = requests.post(f"{HOST}:{doors.front}/v1/completions", json=body, timeout=LIMIT_S).json()
        assert text == answer["choices"][0]["text"]


def test_many_at_once_as_the_guide_has_it_get_the_same_scores(
    environment: Callable[[str], Environment], doors: Doors, told: Told, tmp_path: Path
) -> None:
    (command,) = code_of("lm-evaluation-harness", doors)
    assert "num_concurrent=4" in command
    command = f"{command.rstrip()} --output_path {tmp_path} --log_samples"
    table = environment("lm_eval_0_4_13").run("bash", "-ec", command, folder=TASKS)
    many = Told.read(tmp_path)
    assert many.scores["facts"]["acc,none"] == told.scores["facts"]["acc,none"]
    assert f"|{many.scores['facts']['acc,none']:.4f}|" in table
    for item, other in zip(told.items["facts"], many.items["facts"], strict=True):
        for (_, (logprob, _)), (_, (again, _)) in zip(answers(item), answers(other), strict=True):
            assert float(again) == pytest.approx(float(logprob), abs=BOUND)

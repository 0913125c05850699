"""Speculation on real weights: the same text in far fewer calls.

Up to 512 cells flash attention gives tokens that are computed together the bits that each has alone; so here
texts are compared to the last token.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import pytest
from llguidance import LLMatcher
from tests.engine.real import RealEngine

from takeoff.engine.constraint import ConstraintCompiler
from takeoff.ipc.messages import SlotClass, Submit
from takeoff.request import SamplingParams

SYSTEM = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=140, seed=0)
FEWER = 0.75  # of the calls at most; about half, but the costs that decide are measured on a busy machine
PEOPLE = [
    {"id": 1, "name": "Ada Lovelace", "city": "London"},
    {"id": 2, "name": "Alan Turing", "city": "Manchester"},
    {"id": 3, "name": "Grace Hopper", "city": "Arlington"},
    {"id": 4, "name": "Barbara Liskov", "city": "Boston"},
]
REPEAT = "Repeat this JSON, but change the city of Ada Lovelace to Paris:"
EDIT = f"{REPEAT}\n\n{json.dumps(PEOPLE, indent=1)}"


class Pair:
    """The same model without and with speculation."""

    def __init__(self, path: Path) -> None:
        self.without, self.with_drafts = (
            RealEngine(path, speculation=on, cache_mb=0) for on in (False, True)
        )
        self._llm = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
        kernels = self.without.kernels
        self._compiler = ConstraintCompiler(kernels.constraint_tokenizer(), kernels.n_vocab)
        self._num_asked = 0

    def ask(
        self, text: str, params: SamplingParams, grammar: str | None = None, predicted: str = ""
    ) -> tuple[int, int]:
        """The calls that either took for the same text."""
        chat = f"{SYSTEM}<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        prompt = self._llm.tokenize(chat.encode(), add_bos=False, special=True)
        expected = self._llm.tokenize(predicted.encode(), add_bos=False)
        self._num_asked += 1
        texts, calls = [], []
        for engine in (self.without, self.with_drafts):
            before = num_calls(engine)
            constraint = None if grammar is None else self._compiler.compile(grammar)
            submit = Submit(self._num_asked, prompt, params, "", predicted_token_ids=expected)
            engine.engine.submit(submit, constraint)
            engine.run_until_idle()
            calls.append(num_calls(engine) - before)
            texts.append((engine.token_ids(self._num_asked), engine.text(self._num_asked)))
        assert texts[0] == texts[1]
        assert len(prompt) + len(texts[0][0]) <= 512
        return calls[0], calls[1]

    def text(self) -> str:
        """Of the last question."""
        return self.with_drafts.text(self._num_asked)

    def close(self) -> None:
        self.without.close()
        self.with_drafts.close()


def num_calls(engine: RealEngine) -> int:
    counters = engine.engine.counters.snapshot()
    return int(counters.get("decode_calls", 0) + counters.get("verify_calls", 0))


@pytest.fixture(scope="module")
def pair(smollm2_path: Path) -> Iterator[Pair]:
    pair = Pair(smollm2_path)
    yield pair
    pair.close()


def test_an_edited_document_is_the_same_in_far_fewer_calls(pair: Pair) -> None:
    without, with_drafts = pair.ask(EDIT, GREEDY)
    assert '"name": "Grace Hopper"' in pair.text()
    assert with_drafts < without * FEWER


def test_prose_is_the_same_at_every_temperature(pair: Pair) -> None:
    for seed, temperature in enumerate((0.0, 0.7, 1.2)):
        params = SamplingParams(temperature=temperature, max_new_tokens=60, seed=seed, repetition_penalty=1.1)
        without, with_drafts = pair.ask("Tell me about the sea.", params)
        assert with_drafts <= without + 1  # a prompt that is cut before its last token takes a call more


def test_what_the_client_predicts_is_taken_over_where_it_is_right(pair: Pair) -> None:
    params = SamplingParams(temperature=0.0, max_new_tokens=80, seed=0)
    _, without_prediction = pair.ask("Tell me about the moon.", params)
    predicted = pair.text().replace("the", "a", 1)
    _, with_prediction = pair.ask("Tell me about the moon.", params, predicted=predicted)
    assert with_prediction < without_prediction * FEWER


def test_the_fixed_parts_of_a_schema_take_few_calls(pair: Pair) -> None:
    schema = {
        "type": "object",
        "properties": {
            "measured_temperature_in_degrees": {"type": "integer", "minimum": 0, "maximum": 9},
            "is_the_measurement_reliable": {"type": "boolean"},
            "is_the_thermometer_outdoors": {"type": "boolean"},
        },
        "required": [
            "measured_temperature_in_degrees",
            "is_the_measurement_reliable",
            "is_the_thermometer_outdoors",
        ],
        "additionalProperties": False,
    }
    grammar = LLMatcher.grammar_from_json_schema(schema)
    without, with_drafts = pair.ask("Report the weather as JSON.", GREEDY, grammar)
    assert set(json.loads(pair.text())) == set(schema["properties"])
    assert with_drafts < without * FEWER


def test_a_short_and_a_long_slot_verify_in_the_same_step_and_say_the_same(smollm2_path: Path) -> None:
    texts, calls = [], []
    for speculation in (False, True):
        engine = RealEngine(
            smollm2_path,
            speculation=speculation,
            cache_mb=0,
            slot_classes=(SlotClass(2, 256), SlotClass(2, 512)),
        )
        llm = llama_cpp.Llama(str(smollm2_path), vocab_only=True, verbose=False)
        for number, people in enumerate((PEOPLE[:2], PEOPLE)):
            asked = f"{REPEAT}\n\n{json.dumps(people, indent=1)}"
            chat = f"{SYSTEM}<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
            prompt = llm.tokenize(chat.encode(), add_bos=False, special=True)
            engine.engine.submit(Submit(number, prompt, GREEDY, ""))
        engine.engine.step()
        assert {seq.slot_class for seq in engine.engine._scheduler.running} == {0, 1}
        engine.run_until_idle()
        texts.append([engine.token_ids(number) for number in range(2)])
        calls.append(num_calls(engine))
        engine.close()
    assert texts[0] == texts[1]
    assert calls[1] < calls[0] * FEWER

"""The engine on real weights: the same tokens as llama.cpp's own loop, alone, shared and under load."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tests.engine.real import RealEngine

from takeoff.engine.llama.rows import Rows
from takeoff.request import FinishReason, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=64, seed=0)

PROMPTS = [
    "The capital of France is",
    "List 3 things to do in London.",
    "def fibonacci(n):\n",
    "Once upon a time, in a village by the sea,",
    "Die Hauptstadt von Deutschland ist",
    "Der alte Mann ging langsam die Straße hinunter und",
    "La capitale de l'Italie est",
    "Il était une fois une petite fille qui",
    "El gato se sentó en la ventana y",
    "Había una vez un rey que",
    "A capital de Portugal é",
    "Stolicą Polski jest miasto",
    "Россия является самой большой страной",
    "東京は日本の",
    "从前有一座山，山上有一座庙，",
    "한국의 수도는",
    "Η Αθήνα είναι",
    "عاصمة مصر هي",
    "🙂 means happy, 😢 means",
    '{"name": "Ada", "born": 1815, "field":',
]


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, n_slots=8)
    yield engine
    engine.close()


def reference_greedy(llm: llama_cpp.Llama, prompt: list[int], count: int) -> list[int]:
    """What llama-cpp-python's own loop says, the end of text included."""
    llm.reset()
    token_ids = []
    for token_id in llm.generate(prompt, temp=0.0, repeat_penalty=1.0):
        token_ids.append(token_id)
        if len(token_ids) == count or token_id == llm.token_eos():
            break
    return token_ids


def test_greedy_tokens_equal_llama_cpps_own_on_twenty_prompts(
    smollm2: RealEngine, smollm2_path: Path
) -> None:
    llm = llama_cpp.Llama(str(smollm2_path), n_ctx=2048, n_threads=2, flash_attn=True, verbose=False)
    different = []
    for number, text in enumerate(PROMPTS):
        prompt = llm.tokenize(text.encode(), add_bos=True)
        expected = reference_greedy(llm, prompt, 64)
        got = smollm2.complete(number, prompt, GREEDY)
        if got != expected:
            same = next(i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b)
            different.append(
                (text, same, tie_gap(smollm2, [*prompt, *got[:same]], got[same], expected[same]))
            )
    llm.close()
    assert all(gap < 1e-3 for _, _, gap in different), different


def tie_gap(engine: RealEngine, token_ids: list[int], a: int, b: int) -> float:
    """How far apart the logits of two tokens are after `token_ids`; a numeric tie is near 0."""
    slot = engine.kernels.n_slots - 1
    logits = engine.kernels.forward([Rows(slot, 0, token_ids, True)])[0]
    engine.kernels.clear(slot)
    return float(abs(logits[a] - logits[b]))


def test_streamed_pieces_are_whole_characters_and_join_to_the_text(smollm2: RealEngine) -> None:
    prompt = smollm2_tokens(smollm2, "Repeat: 🙂😢 naïve café 東京 ")
    token_ids = smollm2.complete(100, prompt, GREEDY)
    whole = b"".join(smollm2.kernels.piece(token_id) for token_id in token_ids)
    assert smollm2.text(100) == whole.decode("utf-8", "ignore")
    assert "\ufffd" not in smollm2.text(100)


def smollm2_tokens(engine: RealEngine, text: str) -> list[int]:
    """Token ids of plain text, found by the longest pieces: enough for prompts of a test."""
    by_piece = {engine.kernels.piece(t): t for t in range(engine.kernels.n_vocab)}
    data, token_ids = text.encode(), []
    while data:
        size = next(n for n in range(min(24, len(data)), 0, -1) if data[:n] in by_piece)
        token_ids.append(by_piece[data[:size]])
        data = data[size:]
    return token_ids


def random_prompt(rng: random.Random, length: int, n_vocab: int = 40_000) -> list[int]:
    return [rng.randrange(1_000, n_vocab) for _ in range(length)]


def test_sixteen_prompts_with_a_common_prefix_prefill_it_once(smollm2: RealEngine) -> None:
    rng = random.Random(3)
    common = random_prompt(rng, 400)
    before = smollm2.engine.counters.snapshot()
    params = SamplingParams(temperature=0.0, max_new_tokens=4, seed=0)
    for i in range(200, 216):
        smollm2.submit(i, common + random_prompt(rng, 12), params)
    smollm2.run_until_idle()
    after = smollm2.engine.counters.snapshot()
    prefilled = after["prefill_tokens"] - before.get("prefill_tokens", 0)
    assert 400 + 16 * 11 <= prefilled <= 400 + 16 * 12, "a prompt's rest of one token may be decoded"
    assert sorted(smollm2.events[i][0].cached_tokens for i in range(200, 216)) == [0] + [400] * 15


def test_deterministic_requests_give_the_same_bytes_alone_and_under_changing_neighbours(
    smollm2_path: Path,
) -> None:
    rng = random.Random(8)
    lengths = [rng.randrange(40, 120) for _ in range(28)] + [300, 700]
    cases = [
        (
            random_prompt(rng, length),
            SamplingParams(temperature=0.8, top_p=0.95, max_new_tokens=rng.randrange(4, 24), seed=seed),
        )
        for seed, length in enumerate(lengths)
    ]
    engine = RealEngine(smollm2_path, n_slots=12, n_ctx_slot=1024, deterministic=True, cache_mb=0)
    alone = [engine.complete(i, *case) for i, case in enumerate(cases)]
    for i, case in enumerate(cases):
        engine.submit(1_000 + i, *case)
        for _ in range(rng.randrange(3)):
            engine.engine.step()
    engine.run_until_idle()
    together = [engine.token_ids(1_000 + i) for i in range(len(cases))]
    engine.close()
    different = [(lengths[i], alone[i], together[i]) for i in range(len(cases)) if alone[i] != together[i]]
    assert different == []


def test_a_prompt_as_long_as_the_context_gets_one_token(smollm2: RealEngine) -> None:
    prompt = random_prompt(random.Random(6), 2048)
    assert len(smollm2.complete(300, prompt, GREEDY)) == 1
    assert smollm2.finish_reason(300) is FinishReason.LENGTH


def test_logits_are_the_same_for_any_way_to_cut_a_prompt_without_flash_attention(smollm2_path: Path) -> None:
    engine = RealEngine(smollm2_path, deterministic=True, n_slots=2, cache_mb=0)
    prompt = random_prompt(random.Random(7), 600)
    whole = engine.kernels.forward([Rows(0, 0, prompt[:500], False)])
    whole = engine.kernels.forward([Rows(0, 500, prompt[500:], True)]).copy()
    for cut in (2, 77, 598):
        engine.kernels.forward([Rows(1, 0, prompt[:cut], False)])
        parts = engine.kernels.forward([Rows(1, cut, prompt[cut:], True)])
        assert np.array_equal(whole, parts), f"cut at {cut}"
        engine.kernels.clear(1)
    engine.close()

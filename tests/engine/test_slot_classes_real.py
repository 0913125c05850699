"""Slots of several sizes on real weights: a sequence that moves between them says what it would have said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tests.engine.real import RealEngine
from tests.engine.test_real_model import random_prompt, reference_greedy, tie_gap

from takeoff.engine.invariance import check_invariance
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import SlotClass
from takeoff.request import SamplingParams

CLASSES = (SlotClass(4, 256), SlotClass(2, 1024))


def greedy(tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_new_tokens=tokens, ignore_eos=True, seed=0)


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, slot_classes=CLASSES)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def exact(smollm2_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_path, slot_classes=CLASSES, deterministic=True)
    yield engine
    engine.close()


def saved(engine: RealEngine, slot: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    state = np.empty(engine.kernels.snapshot_bytes(slot), np.uint8)
    return state[: engine.kernels.save(slot, state)]


def logits_after(engine: RealEngine, slot: int, pos: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Of one token more at `pos`; the slot is cleared."""
    logits = engine.kernels.forward([Rows(slot, pos, [77], True)])[0].copy()
    engine.kernels.clear(slot)
    return logits


def test_a_text_that_outgrows_its_slot_is_llama_cpps_own(engine: RealEngine, smollm2_path: Path) -> None:
    llm = llama_cpp.Llama(str(smollm2_path), n_ctx=1024, n_threads=2, flash_attn=True, verbose=False)
    prompt = llm.tokenize(b"Once upon a time, in a village by the sea,", add_bos=True)
    expected = reference_greedy(llm, prompt, 320)
    llm.close()
    got = engine.complete(1, prompt, SamplingParams(temperature=0.0, max_new_tokens=320, seed=0))
    assert engine.engine.counters.snapshot()["grow_tokens"] == 256
    assert len(got) == len(expected) == 320
    if got != expected:
        same = next(i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b)
        assert tie_gap(engine, [*prompt, *got[:same]], got[same], expected[same]) < 1e-3


@pytest.mark.parametrize("name", ["engine", "exact"])
def test_a_snapshot_of_one_size_gives_the_same_bits_in_another(
    name: str, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(name)
    prompt = random_prompt(random.Random(1), 200)
    engine.kernels.forward([Rows(2, 0, prompt, False)])
    state = saved(engine, 2)
    engine.kernels.restore(5, state)
    back = saved(engine, 5)
    engine.kernels.restore(3, back)
    logits = [logits_after(engine, slot, 200) for slot in (2, 5, 3)]
    assert np.array_equal(logits[0], logits[1])
    assert np.array_equal(logits[0], logits[2])


@pytest.mark.parametrize("name", ["engine", "exact"])
def test_of_a_longer_snapshot_a_short_slot_takes_the_first_tokens(
    name: str, request: pytest.FixtureRequest
) -> None:
    engine = request.getfixturevalue(name)
    prompt = random_prompt(random.Random(2), 600)
    engine.kernels.forward([Rows(4, 0, prompt[:512], False)])
    engine.kernels.forward([Rows(4, 512, prompt[512:], False)])
    state = saved(engine, 4)
    engine.kernels.clear(4)
    engine.kernels.restore(1, state)
    engine.kernels.trim(1, 200)
    engine.kernels.forward([Rows(0, 0, prompt[:200], False)])
    assert np.array_equal(logits_after(engine, 1, 200), logits_after(engine, 0, 200))


def test_deterministic_texts_do_not_depend_on_the_slots(exact: RealEngine, smollm2_path: Path) -> None:
    rng = random.Random(5)
    asked = [
        (random_prompt(rng, size), tokens) for size, tokens in ((12, 40), (110, 170), (300, 30), (125, 150))
    ]
    check_invariance(exact.kernels)
    for i, (prompt, tokens) in enumerate(asked):
        exact.submit(10 + i, prompt, greedy(tokens))
    exact.run_until_idle()
    alike = RealEngine(smollm2_path, n_slots=1, n_ctx_slot=1024, deterministic=True, cache_mb=0)
    alone = [alike.complete(i, prompt, greedy(tokens)) for i, (prompt, tokens) in enumerate(asked)]
    alike.close()
    assert [exact.token_ids(10 + i) for i in range(4)] == alone
    assert exact.engine.counters.snapshot()["grow_calls"] == 2


def test_more_texts_outgrow_their_slots_than_there_are_long_ones(exact: RealEngine) -> None:
    rng = random.Random(6)
    prompts = [random_prompt(rng, 120) for _ in range(4)]
    for i, prompt in enumerate(prompts):
        exact.submit(30 + i, prompt, greedy(220))
    for i in range(12):  # so many that somebody wants a short slot when the third text outgrows its own
        exact.submit(40 + i, random_prompt(rng, 20), greedy(8))
    exact.run_until_idle()
    together = [exact.token_ids(30 + i) for i in range(4)]
    assert exact.engine.counters.snapshot()["unpark_calls"] >= 1
    alone = [exact.complete(60 + i, prompt, greedy(220), tenant=str(i)) for i, prompt in enumerate(prompts)]
    assert together == alone
    assert all(len(exact.token_ids(40 + i)) == 8 for i in range(12))


def test_a_prefix_that_a_long_text_computed_serves_a_short_one(engine: RealEngine) -> None:
    rng = random.Random(7)
    common = random_prompt(rng, 100)
    short = common + random_prompt(rng, 9)
    expected = engine.complete(60, short, greedy(12), tenant="alone")
    engine.complete(61, common + random_prompt(rng, 500), greedy(4), tenant="shared")
    assert engine.complete(62, short, greedy(12), tenant="shared") == expected
    assert engine.events[62][0].cached_tokens == 100


def test_a_model_with_sliding_windows_moves_too(gemma_q8_path: Path) -> None:
    prompt = random_prompt(random.Random(8), 120)
    texts = []
    for classes in ((SlotClass(2, 256), SlotClass(1, 1024)), (SlotClass(1, 1024),)):
        engine = RealEngine(gemma_q8_path, slot_classes=classes, flash_attention=False, cache_mb=0)
        assert "grow_calls" not in engine.engine.counters.snapshot()
        texts.append(engine.complete(1, prompt, greedy(150)))
        assert ("grow_calls" in engine.engine.counters.snapshot()) == (len(classes) == 2)
        engine.close()
    assert texts[0] == texts[1]

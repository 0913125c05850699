"""A long prompt, short ones behind it and streams beside it, on real weights: order, counts and texts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.engine.real import RealEngine

from takeoff.request import SamplingParams

STREAMS, LONG, SHORTS = (1,), 2, (3, 4)
LENGTHS = {1: 20, LONG: 240, 3: 20, 4: 24}
MAX_NEW_TOKENS = {1: 32, LONG: 4, 3: 4, 4: 4}


@pytest.fixture(scope="module")
def engine(smollm2_path: Path) -> Iterator[RealEngine]:
    """Deterministic, so that texts are equal alone and together; without a cache, so that all is computed.

    Streams can bear no gap at all, so that slices are the smallest however fast the machine is.
    """
    engine = RealEngine(
        smollm2_path, n_slots=4, n_ctx_slot=512, deterministic=True, itl_slo_ms=1e-3, cache_mb=0
    )
    yield engine
    engine.close()


def prompt_of(number: int) -> list[int]:
    rng = random.Random(number)
    return [rng.randrange(100, 40_000) for _ in range(LENGTHS[number])]


def submit(engine: RealEngine, number: int, base: int = 0) -> None:
    params = SamplingParams(
        temperature=0.0, ignore_eos=True, max_new_tokens=MAX_NEW_TOKENS[number], seed=number
    )
    engine.submit(base + number, prompt_of(number), params)


def test_short_prompts_overtake_a_long_one_beside_streams_and_every_text_is_what_it_is_alone(
    engine: RealEngine,
) -> None:
    for number in STREAMS:
        submit(engine, number)
    while not all(engine.events[number] for number in STREAMS):
        engine.engine.step()
    before = engine.engine.counters.snapshot()
    for number in (LONG, *SHORTS):
        submit(engine, number)
    order: list[int] = []
    while len(order) < 3:
        engine.engine.step()
        order += [number for number in (LONG, *SHORTS) if engine.events[number] and number not in order]
    after = engine.engine.counters.snapshot()
    assert order[-1] == LONG
    # A rest of one token is decoded with the others, so that a prompt may take one token less.
    computed = after["prefill_tokens"] - before["prefill_tokens"]
    prompts = sum(LENGTHS[number] for number in (LONG, *SHORTS))
    assert prompts - 3 <= computed <= prompts
    calls, decodes = (after[name] - before.get(name, 0) for name in ("prefill_calls", "decode_calls"))
    assert calls >= 8, "the prompt was cut"
    assert decodes >= calls / 3, "and the streams went on between its pieces"

    engine.run_until_idle()
    for number in (LONG, *SHORTS, *STREAMS):
        submit(engine, number, base=100)
        engine.run_until_idle()
        assert engine.token_ids(number) == engine.token_ids(100 + number)
        assert len(engine.token_ids(number)) == MAX_NEW_TOKENS[number]

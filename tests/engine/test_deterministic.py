"""`--deterministic`: the same request gives the same bytes, whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.engine.real import RealEngine

from takeoff.ipc.messages import Submit
from takeoff.request import SamplingParams

NUM_REQUESTS = 200


@dataclass(frozen=True)
class Asked:
    prompt: list[int]
    params: SamplingParams


@pytest.fixture(scope="module")
def engine(smollm2_q8_path: Path) -> Iterator[RealEngine]:
    engine = RealEngine(smollm2_q8_path, n_slots=32, n_ctx_slot=3328, deterministic=True, cache_mb=256)
    yield engine
    engine.close()


@pytest.fixture
def fresh_engine(smollm2_path: Path) -> Iterator[RealEngine]:
    """One whose cache is not full of what others want: it would keep that."""
    engine = RealEngine(smollm2_path, n_slots=4, n_ctx_slot=3328, deterministic=True, cache_mb=256)
    yield engine
    engine.close()


def requests(seed: int) -> list[Asked]:
    """Prompts of 40 to 3,000 tokens, most short, some with a common prefix; every kind of sampling."""
    rng = random.Random(seed)
    lengths = [rng.randint(40, 120) for _ in range(NUM_REQUESTS - 24)]
    lengths += [rng.randint(121, 500) for _ in range(20)] + [1_000, 1_537, 2_049, 3_000]
    rng.shuffle(lengths)
    shared = [rng.randrange(100, 40_000) for _ in range(64)]
    asked = []
    for number, length in enumerate(lengths):
        prompt = [rng.randrange(100, 40_000) for _ in range(length)]
        if rng.random() < 0.3:
            prompt[:64] = shared[: min(64, length)]
        params = SamplingParams(
            temperature=rng.choice([0.0, 0.7, 1.0, 1.5]),
            top_k=rng.choice([0, 0, 40]),
            top_p=rng.choice([1.0, 0.9]),
            min_p=rng.choice([0.0, 0.05]),
            repetition_penalty=rng.choice([1.0, 1.2]),
            max_new_tokens=rng.randint(4, 20),
            ignore_eos=True,
            seed=number,
        )
        asked.append(Asked(prompt[:length], params))
    return asked


def alone(engine: RealEngine, asked: list[Asked], base: int) -> list[list[int]]:
    """Each request on an idle engine that has never seen its prompt: a tenant of its own."""
    completions = []
    for number, each in enumerate(asked, base):
        engine.submit(number, each.prompt, each.params, tenant=str(number))
        engine.run_until_idle()
        completions.append(engine.token_ids(number))
    return completions


def crowded(engine: RealEngine, asked: list[Asked], base: int, seed: int) -> list[list[int]]:
    """Under each other's load: they come at random steps, and strangers come and are cancelled."""
    rng = random.Random(seed)
    waiting = list(enumerate(asked, base))
    rng.shuffle(waiting)
    strangers: list[int] = []
    while waiting or not engine.engine.is_idle:
        while waiting and engine.engine.num_running + engine.engine.num_waiting < 34 and rng.random() < 0.7:
            number, each = waiting.pop()
            engine.submit(number, each.prompt, each.params)
        if waiting and rng.random() < 0.1:
            strangers.append(number := 1_000_000 + base + len(strangers))
            engine.submit(number, [7] * rng.randint(2, 60), SamplingParams(max_new_tokens=30, seed=1))
        if strangers and rng.random() < 0.1:
            engine.engine.cancel(strangers.pop(rng.randrange(len(strangers))))
        engine.engine.step()
    return [engine.token_ids(number) for number in range(base, base + len(asked))]


def test_two_hundred_requests_give_the_same_bytes_alone_and_under_thirty_two_neighbours(
    engine: RealEngine,
) -> None:
    asked = requests(seed=11)
    apart = alone(engine, asked, base=0)
    together = crowded(engine, asked, base=1_000, seed=3)
    assert all(len(tokens) == each.params.max_new_tokens for tokens, each in zip(apart, asked, strict=True))
    different = [number for number in range(NUM_REQUESTS) if apart[number] != together[number]]
    assert different == []


def test_a_resubmitted_request_goes_on_bit_by_bit_as_it_would_have(fresh_engine: RealEngine) -> None:
    engine = fresh_engine
    prompt = [random.Random(5).randrange(100, 40_000) for _ in range(300)]
    params = SamplingParams(temperature=1.5, max_new_tokens=60, ignore_eos=True, seed=8, logprobs=0)
    engine.complete(20_000, prompt, params, tenant="alone")
    told = [each for event in engine.events[20_000] for each in event.logprobs]
    emitted = engine.token_ids(20_000)[:40]
    for stranger in range(3):
        engine.submit(
            20_001 + stranger, [7] * 50, SamplingParams(max_new_tokens=30, seed=1), tenant="stranger"
        )
    engine.engine.submit(Submit(20_010, prompt, params, "again", emitted_token_ids=emitted))
    engine.run_until_idle()
    assert [each for event in engine.events[20_010] for each in event.logprobs] == told[40:]


def test_a_prefix_from_the_cache_changes_nothing(fresh_engine: RealEngine) -> None:
    engine = fresh_engine
    asked = requests(seed=12)[:12]
    cold = alone(engine, asked, base=10_000)
    for number, each in enumerate(asked, 11_000):
        for repeat in range(2):
            engine.submit(number + 500 * repeat, each.prompt, each.params, tenant="again")
            engine.run_until_idle()
    cached = [max(event.cached_tokens for event in engine.events[11_500 + place]) for place in range(12)]
    assert min(cached) >= 32, "the second time most of the prompt came from a snapshot"
    assert [engine.token_ids(11_000 + place) for place in range(12)] == cold
    assert [engine.token_ids(11_500 + place) for place in range(12)] == cold

"""Adapters in the step, against kernels whose next token depends on the adapter of every token before it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.engine.fake_kernels import expected_completion
from tests.engine.test_engine import GREEDY, Run, prompt_of

from takeoff.ipc.messages import Submit

ADAPTERS = (None, "legal", "medical", "poetry")


def submit(run: Run, request_id: int, prompt: list[int], lora: str | None, tokens: int = 8) -> None:
    run.engine.submit(Submit(request_id, prompt, replace(GREEDY, max_new_tokens=tokens), "", lora=lora))


def decode_calls(run: Run) -> list[tuple[str | None, list[int]]]:
    """Adapter and slots of every call that decoded."""
    return [
        (lora, [rows.slot for rows in call])
        for lora, call in zip(run.kernels.loras, run.kernels.calls, strict=True)
        if all(len(rows.token_ids) == 1 for rows in call)
    ]


@pytest.mark.parametrize("can_trim", [True, False])
def test_every_request_is_completed_as_if_it_were_alone_with_its_adapter(can_trim: bool) -> None:
    run = Run(6, can_trim=can_trim, cache_bytes=64 * 1024)
    rng = random.Random(2)
    asked = {
        i: (prompt_of(rng.randrange(2, 200), seed=rng.randrange(4)), rng.choice(ADAPTERS)) for i in range(80)
    }
    for i, (prompt, lora) in asked.items():
        submit(run, i, prompt, lora, tokens=rng.randrange(1, 20))
        for _ in range(rng.randrange(4)):
            run.engine.step()
        if rng.random() < 0.2:
            run.engine.cancel(rng.randrange(i + 1))
    run.finish()
    for i, (prompt, lora) in asked.items():
        completion = run.completion(i)
        assert completion == expected_completion(prompt, len(completion), lora)


def test_the_sequences_of_an_adapter_own_consecutive_slots_at_every_call_whatever_departs() -> None:
    run = Run(16)
    rng = random.Random(5)
    for i in range(60):
        submit(run, i, prompt_of(rng.randrange(2, 90), seed=i), rng.choice(ADAPTERS), rng.randrange(1, 40))
    run.finish()
    calls = decode_calls(run)
    assert len(calls) > 100
    assert {lora for lora, _ in calls} == set(ADAPTERS)
    for _, slots in calls:
        assert slots == list(range(slots[0], slots[0] + len(slots)))


def test_a_step_decodes_every_adapter_once_so_that_all_streams_go_on_at_one_pace() -> None:
    run = Run(8)
    for i in range(8):
        submit(run, i, prompt_of(4, seed=i), ADAPTERS[i % 4], tokens=60)
    while not all(run.events[i] for i in range(8)):
        run.engine.step()
    run.engine.step()
    told = [len(run.events[i]) for i in range(8)]
    run.kernels.calls.clear()
    run.kernels.loras.clear()
    for _ in range(10):
        run.engine.step()
    assert [len(run.events[i]) for i in range(8)] == [number + 10 for number in told]
    assert sorted(run.kernels.loras, key=str) == sorted(ADAPTERS * 10, key=str)
    assert all(len(call) == 2 for call in run.kernels.calls)


def test_adapters_that_stay_beside_each_other_do_not_move() -> None:
    run = Run(8)
    for i in range(6):
        submit(run, i, prompt_of(4, seed=i), ADAPTERS[1 + i // 3], tokens=60)
    while not all(run.events[i] for i in range(6)):
        run.engine.step()
    run.engine.step()
    moves = run.engine.counters.snapshot().get("move_calls", 0.0)
    submit(run, 6, prompt_of(4, seed=6), None, tokens=60)
    for _ in range(10):
        run.engine.step()
    assert len(run.events[6]) > 2
    assert run.engine.counters.snapshot().get("move_calls", 0.0) == moves


def test_prompts_of_several_adapters_are_prefilled_in_order_of_admission() -> None:
    run = Run(4)
    for i, lora in enumerate(["legal", "medical", "legal", None]):
        submit(run, i, prompt_of(8, seed=i), lora)
    first = []
    while len(first) < 4:
        run.engine.step()
        first += [i for i in range(4) if run.events[i] and i not in first]
    assert first == [0, 2, 1, 3], "the first one's adapter takes the others of its own along"


@pytest.mark.parametrize("meanwhile", ["is computed", "runs", "is finished"])
def test_prefixes_are_not_shared_between_adapters(meanwhile: str) -> None:
    run = Run(4)
    prompt = prompt_of(100)
    submit(run, 0, prompt, "legal", tokens=40)
    if meanwhile == "runs":
        while not run.events[0]:
            run.engine.step()
    elif meanwhile == "is finished":
        run.finish()
    for i, lora in enumerate(["medical", None, "legal"], start=1):
        submit(run, i, prompt, lora)
    run.finish()
    for i, lora in enumerate(["medical", None, "legal"], start=1):
        assert run.completion(i) == expected_completion(prompt, 8, lora)
    assert [run.events[i][0].cached_tokens for i in range(1, 4)] == [0, 0, 99]


def test_a_resubmitted_request_goes_on_with_its_adapter() -> None:
    prompt, full = prompt_of(50), expected_completion(prompt_of(50), 8, "legal")
    run = Run(1)
    run.engine.submit(Submit(1, prompt, GREEDY, "", emitted_token_ids=full[:3], lora="legal"))
    run.finish()
    assert run.completion(1) == full[3:]

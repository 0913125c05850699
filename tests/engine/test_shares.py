"""Fair shares between tenants: who gets a slot, who gives way, whose prompt is first; on fake kernels."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from tests.engine.fake_kernels import expected_completion
from tests.engine.simulated import SimulatedRun
from tests.engine.test_engine import GREEDY, Run, prompt_of

from takeoff.ipc.messages import SlotClass, Submit
from takeoff.request import FinishReason

ROOM = 1 << 20  # for what is put aside


def submit(
    run: Run, request_id: int, tenant: str, tokens: int, *, prompt: int = 20, priority: int = 10
) -> None:
    params = replace(GREEDY, max_new_tokens=tokens)
    run.engine.submit(Submit(request_id, prompt_of(prompt, request_id), params, tenant, priority=priority))


def steps_until_begun(run: Run, request_id: int) -> int:
    steps = 0
    while not run.events[request_id]:
        run.engine.step()
        steps += 1
    return steps


def order_of_ends(run: Run) -> list[int]:
    ended: list[int] = []
    while not run.engine.is_idle:
        run.engine.step()
        ended += [i for i in run.events if i not in ended and run.reason(i)]
    return ended


def num_told(run: Run, request_ids: Iterable[int]) -> int:
    return sum(len(run.completion(request_id)) for request_id in request_ids)


def test_the_order_of_one_tenants_requests_is_that_of_arrival() -> None:
    run = Run(1, parking_bytes=ROOM)
    for i in range(6):
        submit(run, i, "key:a", 20 - 3 * i)
    assert order_of_ends(run) == list(range(6))
    assert "park_calls" not in run.engine.counters.snapshot()


def test_a_light_tenant_waits_for_no_more_than_the_slot_and_not_for_the_flood() -> None:
    run = Run(1)
    for i in range(100):
        submit(run, i, "key:flood", 10)
    for _ in range(50):
        run.engine.step()
    num_begun = len(run.events)
    assert num_begun < 10
    submit(run, 200, "key:light", 4)
    run.finish()
    assert list(run.events) == [*range(num_begun), 200, *range(num_begun, 100)]


def test_who_finds_all_slots_taken_by_one_tenant_gets_one_at_the_next_step() -> None:
    run = Run(4, parking_bytes=ROOM)
    for i in range(12):
        submit(run, i, "key:flood", 500)
    for _ in range(30):
        run.engine.step()
    submit(run, 20, "key:light", 8)
    assert steps_until_begun(run, 20) <= 3, "as if a slot had been free"
    assert run.engine.num_running == 4
    run.finish()
    assert run.engine.counters.snapshot()["park_calls"] == 1
    for i in range(12):
        assert run.completion(i) == expected_completion(prompt_of(20, i), 500), "what was put aside goes on"
    assert run.completion(20) == expected_completion(prompt_of(20, 20), 8)
    assert run.kernels.memory == [[]] * 4


def test_without_room_to_put_it_aside_nobody_gives_way() -> None:
    run = Run(2, parking_bytes=0)
    for i in range(2):
        submit(run, i, "key:flood", 100)
    for _ in range(20):
        run.engine.step()
    submit(run, 20, "key:light", 8)
    steps_until_begun(run, 20)
    assert run.reason(0) is FinishReason.LENGTH
    run.finish()
    assert "park_calls" not in run.engine.counters.snapshot()


def test_two_floods_get_as_many_tokens_each_whatever_their_requests_are_like() -> None:
    run = Run(8, parking_bytes=ROOM)
    for i in range(200):
        submit(run, i, "key:a", 60)
    for _ in range(100):
        run.engine.step()
    for i in range(200, 500):
        submit(run, i, "key:b", 20, prompt=2)
    before = num_told(run, range(200))
    for _ in range(400):
        run.engine.step()
    cost_of_a = (2 + 20 / 60) * (num_told(run, range(200)) - before)
    cost_of_b = (2 + 2 / 20) * num_told(run, range(200, 500))
    assert cost_of_a / cost_of_b == pytest.approx(1.0, abs=0.1)


def test_of_two_floods_the_one_of_twice_the_priority_gets_twice_as_much() -> None:
    run = Run(6, parking_bytes=ROOM)
    for i in range(300):
        submit(run, i, "key:a" if i % 2 else "key:b", 30, priority=20 if i % 2 else 10)
    for _ in range(500):
        run.engine.step()
    ratio = num_told(run, range(1, 300, 2)) / num_told(run, range(0, 300, 2))
    assert ratio == pytest.approx(2.0, abs=0.2)


def test_who_kept_quiet_has_saved_up_no_claim() -> None:
    run = Run(2)
    submit(run, 0, "key:quiet", 2)
    run.engine.step()
    for i in range(1, 60):
        submit(run, i, "key:busy", 20)
    for _ in range(300):
        run.engine.step()
    busy = num_told(run, range(60))
    for i in range(100, 200):
        submit(run, i, "key:quiet", 20)
    for _ in range(200):
        run.engine.step()
    assert num_told(run, range(100, 200)) == pytest.approx(num_told(run, range(60)) - busy, rel=0.25)


def test_the_prompt_of_a_light_tenant_is_prefilled_before_those_of_a_flood() -> None:
    run = SimulatedRun(n_slots=8)
    params = replace(GREEDY, max_new_tokens=1, ignore_eos=True)
    for i in range(6):
        run.engine.submit(Submit(i, prompt_of(900, i), params, "key:flood"))
    run.engine.step()
    run.engine.submit(Submit(10, prompt_of(900, 10), params, "key:light"))
    run.run_until_begun([*range(6), 10])
    begun = sorted(run.told_at, key=lambda request_id: run.told_at[request_id][0])
    assert begun == [0, 10, 1, 2, 3, 4, 5], "behind the one that was in work, not behind five"


def test_prompts_of_one_tenant_keep_their_order_whatever_the_cache_had_of_them() -> None:
    run = SimulatedRun(n_slots=8, cache_bytes=1 << 24)
    params = replace(GREEDY, max_new_tokens=1, ignore_eos=True)

    def ask(request_id: int, prompt: list[int]) -> None:
        run.engine.submit(Submit(request_id, prompt, params, "key:a"))

    known = prompt_of(900, 1)
    ask(0, known)
    run.run_until_begun([0])
    ask(1, prompt_of(900, 2))
    ask(2, [*known, 2])
    ask(3, [*known, 3])
    ask(4, prompt_of(900, 4))
    run.engine.step()
    ask(5, prompt_of(900, 5))
    run.run_until_begun([4, 5])
    assert run.told_at[4][0] < run.told_at[5][0]


def test_a_prefix_from_the_cache_costs_nothing() -> None:
    run = Run(1, cache_bytes=1 << 20)
    long = prompt_of(400, 7)
    params = replace(GREEDY, max_new_tokens=2)
    run.engine.submit(Submit(0, long, params, "key:cached"))
    run.finish()
    submit(run, 1, "key:other", 60, prompt=100)
    run.engine.step()
    for i in (2, 3):
        run.engine.submit(Submit(i, [*long, i], params, "key:cached"))
    submit(run, 4, "key:other", 2)
    run.finish()
    assert list(run.events) == [0, 1, 2, 3, 4]


def test_tenants_come_and_go_in_any_order_and_every_text_is_as_if_alone() -> None:
    rng = random.Random(3)
    classes = (SlotClass(4, 256), SlotClass(2, 1024))
    run = Run(slot_classes=classes, parking_bytes=3_000)
    lengths: dict[int, tuple[int, int]] = {}
    for i in range(120):
        lengths[i] = rng.choice([5, 40, 300]), rng.randrange(1, 120)
        size, tokens = lengths[i]
        tenant = rng.choice(["key:flood", "key:flood", "key:flood", "key:b", "key:c"])
        submit(run, i, tenant, tokens, prompt=size, priority=rng.choice([5, 10]))
        for _ in range(rng.randrange(6)):
            run.engine.step()
        if rng.random() < 0.2:
            run.engine.cancel(rng.randrange(i + 1))
    run.finish()
    assert run.engine.counters.snapshot()["park_calls"] > 5
    for i, (size, _) in lengths.items():
        assert run.reason(i) in (FinishReason.LENGTH, FinishReason.CANCELLED)
        assert run.completion(i) == expected_completion(prompt_of(size, i), len(run.completion(i)))
    assert run.kernels.memory == [[]] * 6

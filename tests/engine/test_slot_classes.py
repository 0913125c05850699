"""Slots of several sizes: who gets which, who moves, who waits for whom; on fake kernels."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tests.engine.fake_kernels import expected_completion
from tests.engine.test_engine import GREEDY, Run, prompt_of

from takeoff.ipc.messages import SlotClass, Submit
from takeoff.request import FinishReason

SHORT_AND_LONG = (SlotClass(4, 256), SlotClass(2, 1024))


def run_of(*classes: SlotClass, parking_bytes: int = 1 << 20, deterministic: bool = False) -> Run:
    return Run(slot_classes=classes, parking_bytes=parking_bytes, deterministic=deterministic)


def step_until_one_is_put_aside(run: Run) -> None:
    while "park_calls" not in run.engine.counters.snapshot():
        assert not run.engine.is_idle
        run.engine.step()


def parked_bytes(run: Run) -> float:
    return run.engine.counters.snapshot()["parked_bytes"]


def submit(run: Run, request_id: int, prompt: list[int], tokens: int) -> None:
    run.submit(request_id, prompt, replace(GREEDY, max_new_tokens=tokens))


@pytest.mark.parametrize(
    ("size", "tokens", "slot"), [(20, 2_000, 0), (128, 2_000, 0), (129, 2_000, 4), (200, 57, 0), (200, 58, 4)]
)
def test_a_sequence_begins_in_the_shortest_slot_that_holds_it_and_a_little_more(
    size: int, tokens: int, slot: int
) -> None:
    run = run_of(*SHORT_AND_LONG)
    submit(run, 1, prompt_of(size), tokens)
    run.engine.step()
    assert run.kernels.calls[0][0].slot == slot


def test_who_outgrows_a_slot_moves_to_a_longer_one_and_says_the_same() -> None:
    run = run_of(*SHORT_AND_LONG)
    for i in range(2):
        submit(run, i, prompt_of(100, i), 700)
    run.finish()
    for i in range(2):
        assert run.completion(i) == expected_completion(prompt_of(100, i), 700)
    assert run.engine.counters.snapshot()["grow_calls"] == 2
    assert run.engine.counters.snapshot()["grow_tokens"] == 2 * 256
    assert run.kernels.memory == [[]] * 6


def test_a_text_ends_at_the_end_of_the_longest_slots() -> None:
    run = run_of(*SHORT_AND_LONG)
    run.submit(1, prompt_of(100), replace(GREEDY, max_new_tokens=None))
    run.finish()
    assert len(run.completion(1)) == 1024 + 1 - 100
    assert run.reason(1) is FinishReason.LENGTH


def test_a_text_that_ends_with_its_slot_does_not_move() -> None:
    run = run_of(*SHORT_AND_LONG)
    submit(run, 1, prompt_of(100), 157)
    run.finish()
    assert run.completion(1) == expected_completion(prompt_of(100), 157)
    assert "grow_calls" not in run.engine.counters.snapshot()


def test_those_who_wait_for_a_long_slot_hold_up_no_short_one() -> None:
    run = run_of(*SHORT_AND_LONG)
    for i in range(5):
        submit(run, i, prompt_of(600, i), 200)
    for i in range(10, 22):
        run.submit(i, prompt_of(40, i))
    ended: list[int] = []
    while not run.engine.is_idle:
        run.engine.step()
        ended += [i for i in run.events if i not in ended and run.reason(i)]
    assert sorted(ended[:12]) == list(range(10, 22)), "the short ones were done before any long one"
    assert ended[12:] == [0, 1, 2, 3, 4], "the long ones in order of arrival"


def test_by_default_sixteen_texts_of_some_length_run_beside_short_and_long_ones() -> None:
    """4,000 tokens are few enough for all slots; none of 36 requests is refused or waits for a longer one."""
    classes = (SlotClass(16, 4_096), SlotClass(4, 8_192))  # the default model's, with memory to spare
    run = run_of(*classes)
    sizes = [*[3_000] * 12, *[6_000] * 4, *[40] * 20]
    for i, size in enumerate(sizes):
        submit(run, i, prompt_of(size, i), 30)
    most, ended = 0, list[int]()
    while not run.engine.is_idle:
        run.engine.step()
        most = max(most, run.engine.num_running)
        ended += [i for i in run.events if i not in ended and run.reason(i)]
    assert most == 20
    assert sorted(ended) == list(range(36))
    assert [run.reason(i) for i in range(36)] == [FinishReason.LENGTH] * 36
    assert set(ended[-4:]) <= {*range(16)}, "short ones do not wait for the last of the others"
    assert "grow_calls" not in run.engine.counters.snapshot()


def test_short_ones_leave_the_long_slots_alone() -> None:
    run = run_of(*SHORT_AND_LONG)
    for i in range(12):
        run.submit(i, prompt_of(40, i), replace(GREEDY, max_new_tokens=60))
    for _ in range(30):
        run.engine.step()
    submit(run, 20, prompt_of(600), 4)
    run.engine.step()
    assert run.engine.num_running == 5, "four short ones, and the long one at once"
    while not run.events[20]:
        run.engine.step()
    assert run.engine.num_running >= 4
    run.finish()
    assert all(run.completion(i) == expected_completion(prompt_of(40, i), 60) for i in range(12))


@pytest.mark.parametrize("parking_bytes", [1 << 20, 2_500, 0])
def test_more_outgrow_their_slots_than_there_are_long_ones(parking_bytes: int) -> None:
    run = run_of(*SHORT_AND_LONG, parking_bytes=parking_bytes)
    for i in range(12):
        submit(run, i, prompt_of(50, i), 400)
    for i in range(20, 30):
        run.submit(i, prompt_of(40, i))
    most = 0
    while not run.engine.is_idle:
        run.engine.step()
        most = max(most, parked_bytes(run))
    for i in range(12):
        assert run.completion(i) == expected_completion(prompt_of(50, i), 400)
    for i in range(20, 30):
        assert run.completion(i) == expected_completion(prompt_of(40, i), 8)
    assert most <= parking_bytes
    assert (most > 0) == (parking_bytes > 0)
    assert run.kernels.memory == [[]] * 6


def test_the_older_of_two_gets_the_long_slot_wherever_it_waits() -> None:
    run = run_of(SlotClass(2, 256), SlotClass(1, 1024))
    submit(run, 0, prompt_of(600), 300)
    submit(run, 1, prompt_of(100, 1), 400)  # outgrows a short slot before that one ends
    submit(run, 2, prompt_of(600, 2), 4)
    submit(run, 3, prompt_of(100, 3), 400)
    submit(run, 4, prompt_of(600, 4), 4)
    ended: list[int] = []
    while not run.engine.is_idle:
        run.engine.step()
        ended += [i for i in run.events if i not in ended and run.reason(i)]
    assert ended == [0, 1, 2, 3, 4]


def test_nobody_is_put_aside_while_nobody_wants_the_place() -> None:
    run = run_of(SlotClass(2, 256), SlotClass(1, 1024))
    for i in range(4):
        submit(run, i, prompt_of(50, i), 400)
    run.finish()
    for i in range(4):
        assert run.completion(i) == expected_completion(prompt_of(50, i), 400)
    assert run.engine.counters.snapshot()["park_calls"] == 1, "the fourth wanted a place"
    alone = run_of(SlotClass(2, 256), SlotClass(1, 1024))
    for i in range(2):
        submit(alone, i, prompt_of(50, i), 400)
    alone.finish()
    assert "park_calls" not in alone.engine.counters.snapshot()
    assert alone.engine.counters.snapshot()["grow_calls"] == 2


def test_three_classes_are_climbed_one_by_one() -> None:
    run = run_of(SlotClass(3, 256), SlotClass(2, 512), SlotClass(1, 2048), parking_bytes=0)
    for i in range(6):
        submit(run, i, prompt_of(30, i), 1_500)
    run.finish(max_steps=20_000)
    for i in range(6):
        assert run.completion(i) == expected_completion(prompt_of(30, i), 1_500)


def test_a_long_prompt_and_short_ones_are_prefilled_in_turns() -> None:
    run = run_of(*SHORT_AND_LONG)
    submit(run, 0, prompt_of(900), 4)
    run.engine.step()
    for i in range(1, 5):
        run.submit(i, prompt_of(40, i))
    steps = 0
    while not all(run.events[i] for i in range(1, 5)):
        run.engine.step()
        steps += 1
    assert steps < 40
    assert not run.events[0], "the long one is not done yet"
    run.finish()
    assert run.completion(0) == expected_completion(prompt_of(900), 4)


def test_a_call_is_of_one_class_and_its_slots_are_dense() -> None:
    run = run_of(SlotClass(6, 256), SlotClass(3, 1024))
    rng = random.Random(4)
    for i in range(50):
        size = rng.choice([rng.randrange(2, 90), rng.randrange(150, 600)])
        submit(run, i, prompt_of(size, i), rng.randrange(1, 300))
        run.engine.step()
    run.finish()
    starts = (0, 6)
    decode_calls = [call for call in run.kernels.calls if all(len(rows.token_ids) == 1 for rows in call)]
    for call in (call for call in decode_calls if len(call) > 1):
        first = starts[call[0].slot >= 6]
        assert [rows.slot for rows in call] == list(range(first, first + len(call)))
    assert {call[0].slot >= 6 for call in decode_calls} == {False, True}


def test_a_prefix_of_a_long_sequence_serves_a_short_one() -> None:
    run = run_of(*SHORT_AND_LONG)
    common = prompt_of(96)
    submit(run, 1, common + prompt_of(700, 1), 4)
    run.finish()
    run.submit(2, common + prompt_of(10, 2))
    run.finish()
    submit(run, 3, common + prompt_of(600, 3), 4)
    run.finish()
    assert [run.events[i][0].cached_tokens for i in (1, 2, 3)] == [0, 96, 96]
    assert run.completion(2) == expected_completion(common + prompt_of(10, 2), 8)
    assert run.completion(3) == expected_completion(common + prompt_of(600, 3), 4)


def test_a_follower_waits_for_a_leader_in_a_slot_of_another_size() -> None:
    run = run_of(*SHORT_AND_LONG)
    common = prompt_of(160)
    run.submit(0, common + prompt_of(700, 9))
    for i in range(1, 5):
        run.submit(i, common + prompt_of(10, i))
    run.finish()
    for i in range(1, 5):
        assert run.completion(i) == expected_completion(common + prompt_of(10, i), 8)
    run.assert_prefilled(160 + 700 + 4 * 10, prompts=5)


def test_who_is_between_slots_can_be_cancelled() -> None:
    run = run_of(SlotClass(1, 256), SlotClass(1, 1024))
    submit(run, 0, prompt_of(600), 300)
    submit(run, 1, prompt_of(100, 1), 200)
    run.submit(2, prompt_of(10, 2), replace(GREEDY, max_new_tokens=100))
    step_until_one_is_put_aside(run)
    assert parked_bytes(run) > 0
    run.engine.cancel(1)
    run.engine.step()
    assert parked_bytes(run) == 0
    run.finish()
    assert run.reason(1) is FinishReason.CANCELLED
    assert run.completion(1) == expected_completion(prompt_of(100, 1), len(run.completion(1)))
    assert run.completion(0) == expected_completion(prompt_of(600), 300)


@pytest.mark.parametrize("deterministic", [False, True])
def test_random_arrivals_and_cancellations_end_each_request_once(deterministic: bool) -> None:
    rng = random.Random(12)
    run = run_of(
        SlotClass(5, 256),
        SlotClass(2, 512),
        SlotClass(1, 1024),
        parking_bytes=4_000,
        deterministic=deterministic,
    )
    prompts: dict[int, list[int]] = {}
    for i in range(150):
        size = rng.choice([rng.randrange(4, 60), rng.randrange(100, 700)])
        prompts[i] = prompt_of(size, seed=rng.randrange(4)) + prompt_of(3, seed=i)
        submit(run, i, prompts[i], rng.choice([rng.randrange(1, 20), rng.randrange(100, 300)]))
        for _ in range(rng.randrange(8)):
            run.engine.step()
        if rng.random() < 0.2:
            run.engine.cancel(rng.randrange(i + 1))
    run.finish(max_steps=50_000)
    for i, prompt in prompts.items():
        completion = run.completion(i)
        assert run.reason(i) in (FinishReason.LENGTH, FinishReason.CANCELLED)
        assert completion == expected_completion(prompt, len(completion))
    assert all(memory == [] for memory in run.kernels.memory)


def test_a_resubmitted_request_goes_on_in_a_slot_that_holds_what_it_had() -> None:
    run = run_of(*SHORT_AND_LONG)
    prompt, full = prompt_of(50), expected_completion(prompt_of(50), 400)
    params = replace(GREEDY, max_new_tokens=400)
    run.engine.submit(Submit(1, prompt, params, "", emitted_token_ids=full[:300]))
    run.finish()
    assert run.completion(1) == full[300:]
    assert "grow_calls" not in run.engine.counters.snapshot()


def test_sixty_four_short_requests_and_two_of_eight_thousand_tokens_are_all_served() -> None:
    run = run_of(SlotClass(64, 512), SlotClass(2, 8192))
    for i in range(2):
        submit(run, i, prompt_of(7_900, i), 100)
    for i in range(2, 66):
        submit(run, i, prompt_of(100, i), 60)
    run.engine.step()
    assert run.engine.num_running == 66, "nobody waits"
    while not all(run.reason(i) for i in range(2, 66)):
        run.engine.step()
    assert not run.events[0], "the long ones are far from done"
    assert not run.events[1]
    run.finish()
    for i in range(2):
        assert run.completion(i) == expected_completion(prompt_of(7_900, i), 100)
    for i in range(2, 66):
        assert run.completion(i) == expected_completion(prompt_of(100, i), 60)

"""The step against kernels whose next token depends on everything before it."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from tests.engine.fake_kernels import EOG, FakeKernels, expected_completion, load_for

from takeoff.engine.engine import Engine
from takeoff.engine.images import ImageSpan, Prompt
from takeoff.engine.llama.rows import ImageTokens
from takeoff.errors import EngineFailed
from takeoff.ipc.arena import ALIGNMENT_BYTES
from takeoff.ipc.messages import SlotClass, Submit
from takeoff.request import FinishReason, SamplingParams, TokenEvent

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=8, seed=1)


class Run:
    """An engine on fake kernels, and what it told."""

    def __init__(
        self,
        n_slots: int = 4,
        *,
        n_ctx_slot: int = 4096,
        can_trim: bool = True,
        deterministic: bool = False,
        cache_bytes: int = 1 << 20,
        slot_classes: tuple[SlotClass, ...] = (),
        parking_bytes: int = 0,
    ) -> None:
        self.kernels = FakeKernels(n_slots, n_ctx_slot, slot_classes=slot_classes, can_trim=can_trim)
        load = load_for(
            self.kernels,
            deterministic=deterministic,
            cache_bytes=cache_bytes,
            itl_slo_ms=1e-6,  # the smallest slices, so that prompts take several
            parking_bytes=parking_bytes,
        )
        self.events: defaultdict[int, list[TokenEvent]] = defaultdict(list)
        self.engine = Engine(load, self.kernels, self._note)
        self.kernels.calls.clear()
        self.kernels.loras.clear()

    def _note(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.events[event.request_id].append(event)

    def submit(
        self, request_id: int, prompt: list[int], params: SamplingParams = GREEDY, tenant: str = ""
    ) -> None:
        self.engine.submit(Submit(request_id, prompt, params, tenant))

    def assert_prefilled(self, tokens: int, *, prompts: int) -> None:
        """So many tokens and no more were prefilled; of a prompt a rest of one token is decoded instead."""
        assert tokens - prompts <= self.kernels.prefilled_tokens <= tokens

    def finish(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if self.engine.is_idle:
                return
            self.engine.step()
        pytest.fail(f"not idle after {max_steps} steps")

    def completion(self, request_id: int) -> list[int]:
        return [token for event in self.events[request_id] for token in event.token_ids]

    def reason(self, request_id: int) -> FinishReason | None:
        ends = [event.finish_reason for event in self.events[request_id] if event.finish_reason]
        assert len(ends) <= 1, "a request ends once"
        assert not ends or self.events[request_id][-1].finish_reason is ends[0], "nothing comes after the end"
        return ends[0] if ends else None


def prompt_of(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(200) for _ in range(length)]


@pytest.mark.parametrize(("n_slots", "requests"), [(1, 3), (2, 2), (2, 7), (4, 2), (8, 40)])
def test_every_request_is_completed_as_if_it_were_alone(n_slots: int, requests: int) -> None:
    run = Run(n_slots)
    rng = random.Random(n_slots)
    prompts = {i: prompt_of(rng.randrange(1, 300), seed=i) for i in range(requests)}
    lengths = {i: rng.randrange(1, 30) for i in prompts}
    for i, prompt in prompts.items():
        run.submit(i, prompt, replace(GREEDY, max_new_tokens=lengths[i]))
        run.engine.step()
    run.finish()
    for i, prompt in prompts.items():
        assert run.completion(i) == expected_completion(prompt, lengths[i])
        assert run.reason(i) is FinishReason.LENGTH


def test_decoding_sequences_own_the_lowest_slots_at_every_call_whatever_departs() -> None:
    run = Run(16)
    rng = random.Random(5)
    for i in range(60):
        run.submit(
            i, prompt_of(rng.randrange(2, 90), seed=i), replace(GREEDY, max_new_tokens=rng.randrange(1, 40))
        )
    run.finish()
    decode_calls = [call for call in run.kernels.calls if all(len(rows.token_ids) == 1 for rows in call)]
    assert len(decode_calls) > 60
    for call in (call for call in decode_calls if len(call) > 1):
        assert [rows.slot for rows in call] == list(range(len(call)))


def test_a_long_prompt_is_prefilled_in_slices_between_the_steps_of_others() -> None:
    run = Run(2)
    run.submit(1, prompt_of(4), replace(GREEDY, max_new_tokens=400))
    while not run.events[1]:
        run.engine.step()
    run.submit(2, prompt_of(320, seed=2))
    run.kernels.calls.clear()
    while not run.events[2]:
        run.engine.step()
    sizes = [len(rows.token_ids) for call in run.kernels.calls for rows in call if len(rows.token_ids) > 1]
    assert sum(sizes) in (319, 320), "a rest of one token is decoded"
    assert max(sizes) <= 16
    assert len(run.events[1]) >= len(sizes), "the running stream got a token between any two slices"


def test_who_comes_or_leaves_during_a_decode_is_served_before_the_next_one() -> None:
    run = Run(4)
    for request_id in (1, 2):
        run.submit(request_id, prompt_of(4, seed=request_id), replace(GREEDY, max_new_tokens=40))
    while not (run.events[1] and run.events[2]):
        run.engine.step()

    def come_and_leave() -> None:
        run.submit(3, prompt_of(8, seed=3))
        run.engine.cancel(1)

    run.engine.step(come_and_leave)
    assert run.completion(3) == expected_completion(prompt_of(8, seed=3), 1)
    assert run.reason(1) is FinishReason.CANCELLED
    run.finish()
    assert run.completion(3) == expected_completion(prompt_of(8, seed=3), 8)
    assert run.completion(2) == expected_completion(prompt_of(4, seed=2), 40)


def test_requests_with_a_common_prefix_compute_it_once() -> None:
    run = Run(8)
    common = prompt_of(160)
    for i in range(8):
        run.submit(i, common + prompt_of(10, seed=i + 1))
    run.finish()
    for i in range(8):
        assert run.completion(i) == expected_completion(common + prompt_of(10, seed=i + 1), 8)
    run.assert_prefilled(160 + 8 * 10, prompts=8)
    assert sorted(run.events[i][0].cached_tokens for i in range(8)) == [0] + [160] * 7


def test_a_follower_takes_over_when_its_leader_is_cancelled() -> None:
    run = Run(4)
    common = prompt_of(160)
    for i in range(4):
        run.submit(i, [*common, i])
    for _ in range(3):
        run.engine.step()
    run.engine.cancel(0)
    run.finish()
    assert run.reason(0) is FinishReason.CANCELLED
    for i in (1, 2, 3):
        assert run.completion(i) == expected_completion([*common, i], 8)
    assert run.kernels.prefilled_tokens <= 161 + 48, "what the leader had computed was not computed again"


def test_a_later_request_starts_from_a_finished_one() -> None:
    run = Run(2)
    prompt = prompt_of(100)
    run.submit(1, prompt)
    run.finish()
    follow_up = prompt + run.completion(1) + prompt_of(20, seed=9)
    run.submit(2, follow_up)
    run.finish()
    assert run.completion(2) == expected_completion(follow_up, 8)
    assert run.events[2][0].cached_tokens == 107, "the last token of the first was never computed"


def test_a_request_starts_from_one_that_still_runs() -> None:
    run = Run(2)
    prompt = prompt_of(100)
    run.submit(1, prompt, replace(GREEDY, max_new_tokens=50))
    while not run.events[1]:
        run.engine.step()
    run.submit(2, prompt)
    run.finish()
    assert run.completion(2) == expected_completion(prompt, 8)
    assert run.events[2][0].cached_tokens == 99


def test_prefixes_are_not_shared_between_tenants() -> None:
    run = Run(4)
    prompt = prompt_of(100)
    for i, tenant in enumerate(["a", "b", "a"]):
        run.submit(i, prompt, tenant=tenant)
    run.finish()
    assert [run.events[i][0].cached_tokens for i in range(3)] == [0, 0, 99]


def test_without_a_cache_nothing_is_reused() -> None:
    run = Run(4, cache_bytes=0)
    for i in range(4):
        run.submit(i, prompt_of(100))
    run.finish()
    run.assert_prefilled(400, prompts=4)
    assert [run.completion(i) for i in range(4)] == [expected_completion(prompt_of(100), 8)] * 4


def test_a_cache_of_a_few_snapshots_evicts_and_stays_right() -> None:
    run = Run(3, cache_bytes=3 * 4096)
    for i in range(40):
        run.submit(i, prompt_of(80, seed=i % 7) + prompt_of(5, seed=i))
        run.engine.step()
    run.finish()
    for i in range(40):
        assert run.completion(i) == expected_completion(prompt_of(80, seed=i % 7) + prompt_of(5, seed=i), 8)


def test_a_snapshot_that_the_kernels_refuse_is_forgotten_and_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, prompt = Run(), prompt_of(100)
    run.submit(1, prompt)
    run.finish()

    def refuse(slot: int, source: object) -> None:
        run.kernels.memory[slot] = [1, 2, 3]  # nobody knows what the slot holds
        raise EngineFailed("not a snapshot of this context")

    with monkeypatch.context() as patched:
        patched.setattr(run.kernels, "restore", refuse)
        run.submit(2, prompt)
        run.finish()
    run.submit(3, prompt)
    run.finish()
    assert run.completion(2) == run.completion(3) == expected_completion(prompt, 8)
    assert [run.events[number][0].cached_tokens for number in (2, 3)] == [0, 99]


def test_what_is_missed_is_counted_in_prompts_and_tokens() -> None:
    run = Run(1)
    common = prompt_of(160)
    run.submit(1, common, tenant="a")
    run.submit(2, common + [150] * 40, tenant="a")
    run.submit(3, common, tenant="b")
    run.submit(4, prompt_of(9, seed=2), tenant="b")
    run.finish()
    sums = run.engine.counters.snapshot()
    counts = {name: sum for name, sum in sums.items() if name.startswith(("cache_missed", "cache_diverged"))}
    assert counts == {
        "cache_missed_diverged": 2,
        "cache_missed_diverged_tokens": 159 + 39 + 15,
        "cache_diverged_16": 1,
        "cache_diverged_256": 1,
        "cache_missed_other_tenant": 1,
        "cache_missed_other_tenant_tokens": 144,
        "cache_missed_short": 1,
        "cache_missed_short_tokens": 8,
    }
    assert (sums["cache_lookups"], sums["cache_hits"]) == (4, 1)


def test_what_was_evicted_or_could_not_be_cut_back_is_counted_as_that() -> None:
    one, other = prompt_of(300), prompt_of(300, seed=1)
    small = Run(1, cache_bytes=ALIGNMENT_BYTES)
    for number, prompt in enumerate((one, other, one)):
        small.submit(number, prompt)
    small.finish()
    sums = small.engine.counters.snapshot()
    assert (sums["cache_missed_evicted"], sums["cache_missed_evicted_tokens"]) == (1, 288)
    assert sums["cache_evictions"] == 2
    whole = Run(1, can_trim=False)
    whole.submit(1, one)
    whole.submit(2, one[:200] + [150] * 20)
    whole.finish()
    sums = whole.engine.counters.snapshot()
    assert (sums["cache_missed_window"], sums["cache_missed_window_tokens"]) == (1, 200)


def test_a_model_that_cannot_be_trimmed_reuses_exact_snapshots_only() -> None:
    run = Run(8, can_trim=False)
    common = prompt_of(160)
    for i in range(6):
        run.submit(i, common + prompt_of(10, seed=i + 1))
    run.finish()
    for i in range(6, 9):
        run.submit(i, common + prompt_of(10, seed=i + 1))
        run.finish()
    for i in range(9):
        assert run.completion(i) == expected_completion(common + prompt_of(10, seed=i + 1), 8)
    run.assert_prefilled(160 + 9 * 10, prompts=9)


@pytest.mark.parametrize("length", [128, 129, 130])  # slices have 64 tokens: one may end right before it
def test_a_model_that_cannot_be_trimmed_learns_where_prompts_part(length: int) -> None:
    run = Run(1, can_trim=False)
    system = prompt_of(length)
    for i in range(4):
        run.submit(i, system + prompt_of(40, seed=i + 1))
        run.finish()
    assert [run.events[i][0].cached_tokens for i in range(4)] == [0, 0, length, length]


@pytest.mark.parametrize("length", [128, 129, 130])
def test_a_follower_forks_from_a_leader_that_cannot_be_trimmed_and_has_no_slice_of_one_token(
    length: int,
) -> None:
    run = Run(2, can_trim=False, deterministic=True)
    for i in range(2):
        run.submit(i, prompt_of(length) + prompt_of(40, seed=i + 1))
    run.finish()
    assert [run.events[i][0].cached_tokens for i in range(2)] == [0, length]
    assert all(
        len(rows.token_ids) > 1 or rows.pos >= length + 40 for call in run.kernels.calls for rows in call
    )


def test_deterministic_prefill_has_one_sequence_a_call_and_no_slice_of_one_token() -> None:
    run = Run(8, deterministic=True)
    for i in range(20):
        run.submit(i, prompt_of(2 + 31 * i, seed=i % 3))
    run.finish()
    prefills = [call for call in run.kernels.calls if any(len(rows.token_ids) > 1 for rows in call)]
    assert all(len(call) == 1 for call in prefills)
    decoded = [rows.pos for call in run.kernels.calls for rows in call if len(rows.token_ids) == 1]
    assert len(decoded) == 20 * 7, "only sampled tokens are computed one at a time"
    for i in range(20):
        assert run.completion(i) == expected_completion(prompt_of(2 + 31 * i, seed=i % 3), 8)


def test_deterministic_reuse_stops_at_what_was_computed_as_a_prompt() -> None:
    run = Run(1, deterministic=True)
    run.submit(1, prompt_of(100))
    run.finish()
    run.submit(2, prompt_of(100) + run.completion(1) + prompt_of(20, seed=3))
    run.finish()
    assert run.events[2][0].cached_tokens == 100


def test_cancel_frees_the_slot_in_queue_prefill_and_decode() -> None:
    run = Run(1)
    run.submit(1, prompt_of(8), replace(GREEDY, max_new_tokens=100))
    run.submit(2, prompt_of(300))
    while len(run.events[1]) < 3:
        run.engine.step()
    run.submit(3, prompt_of(300, seed=3))
    run.submit(4, prompt_of(5, seed=4))
    run.engine.cancel(3)  # in the queue
    run.engine.cancel(1)  # in decode
    run.engine.step()
    assert run.engine.num_running == 1
    run.engine.cancel(2)  # in prefill
    run.finish()
    assert [run.reason(i) for i in (1, 2, 3)] == [FinishReason.CANCELLED] * 3
    assert run.completion(4) == expected_completion(prompt_of(5, seed=4), 8)
    run.engine.cancel(4)
    assert run.reason(4) is FinishReason.LENGTH, "cancelling what has ended does nothing"


def test_the_end_of_the_context_ends_a_completion_as_length() -> None:
    run = Run(1, n_ctx_slot=64)
    run.submit(1, prompt_of(60), replace(GREEDY, max_new_tokens=None))
    run.finish()
    assert run.completion(1) == expected_completion(prompt_of(60), 5)
    assert run.reason(1) is FinishReason.LENGTH


def test_a_resubmitted_request_goes_on_where_it_was() -> None:
    prompt, full = prompt_of(50), expected_completion(prompt_of(50), 8)
    run = Run(1)
    run.engine.submit(Submit(1, prompt, GREEDY, "", emitted_token_ids=full[:3]))
    run.finish()
    assert run.completion(1) == full[3:]


def test_deterministic_resubmission_computes_what_was_emitted_token_by_token_and_tells_the_rest() -> None:
    prompt, full = prompt_of(50), expected_completion(prompt_of(50), 8)
    run = Run(1, deterministic=True)
    run.engine.submit(Submit(1, prompt, replace(GREEDY, logprobs=0), "", emitted_token_ids=full[:5]))
    run.finish()
    assert run.completion(1) == full[5:]
    assert all(event.token_ids for event in run.events[1])
    assert run.kernels.prefilled_tokens == 50, "as at first, and none of the completion with them"
    told = [each.token.token_id for event in run.events[1] for each in event.logprobs]
    assert told == full[5:]


def test_the_end_of_text_is_never_shown_and_stop_strings_are_cut() -> None:
    run = Run(1)
    prompt = prompt_of(50)
    text = bytes(expected_completion(prompt, 8)).decode()
    run.submit(1, prompt, replace(GREEDY, stop=(text[3:5],)))
    run.finish()
    assert "".join(event.text for event in run.events[1]) == text[:3]
    assert run.reason(1) is FinishReason.STOP
    run.submit(2, prompt, replace(GREEDY, logit_bias={EOG: 100.0}))
    run.finish()
    assert [event.text for event in run.events[2]] == [""]
    assert run.reason(2) is FinishReason.STOP


def test_random_arrivals_and_cancellations_end_each_request_once() -> None:
    rng = random.Random(11)
    for can_trim in (True, False):
        run = Run(6, can_trim=can_trim, cache_bytes=64 * 1024)
        prompts: dict[int, list[int]] = {}
        for i in range(120):
            prompts[i] = prompt_of(rng.randrange(20, 200), seed=rng.randrange(4)) + prompt_of(3, seed=i)
            run.submit(i, prompts[i], replace(GREEDY, max_new_tokens=rng.randrange(1, 20)))
            for _ in range(rng.randrange(6)):
                run.engine.step()
            if rng.random() < 0.3:
                run.engine.cancel(rng.randrange(i + 1))
        run.finish()
        for i, prompt in prompts.items():
            completion = run.completion(i)
            assert run.reason(i) in (FinishReason.LENGTH, FinishReason.CANCELLED)
            assert completion == expected_completion(prompt, len(completion))
        assert all(memory == [] for memory in run.kernels.memory)


WHOLE = ImageTokens(np.ones((100, 4), np.float32), True)
CUT = ImageTokens(np.ones((100, 4), np.float32), False)


def with_images(seed: int, *images: ImageTokens) -> Prompt:
    """Seven tokens of text, an image, seven of text, ..."""
    token_ids, spans = prompt_of(7, seed), []
    for number, image in enumerate(images):
        spans.append(ImageSpan(len(token_ids), image))
        token_ids += [-1_000 * (seed + 1) - 200 * number - i for i in range(len(image.vectors))]
        token_ids += prompt_of(7, seed + 50 + number)
    return Prompt(token_ids, tuple(spans))


def submit_images(run: Run, request_id: int, prompt: Prompt) -> None:
    words = [token_id for token_id in prompt.token_ids if token_id >= 0]
    run.engine.submit(Submit(request_id, words, replace(GREEDY, no_repeat_ngram_size=2), ""), prompt=prompt)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("can_trim", [False, True])
@pytest.mark.parametrize("image", [WHOLE, CUT])
def test_images_are_prefilled_alone_and_in_their_places(
    image: ImageTokens, can_trim: bool, deterministic: bool
) -> None:
    run = Run(4, can_trim=can_trim, deterministic=deterministic)
    prompts = {i: with_images(i % 3, image, image) for i in range(6)}
    for i, prompt in prompts.items():
        submit_images(run, i, prompt)
        run.submit(10 + i, prompt_of(40, seed=90 + i))
        run.engine.step()
    run.finish()
    for i, prompt in prompts.items():
        assert run.reason(i) is FinishReason.LENGTH
        assert run.completion(i)[:1] == expected_completion(prompt.token_ids, 1)
        assert run.completion(10 + i) == expected_completion(prompt_of(40, seed=90 + i), 8)
    calls = [call for call in run.kernels.calls if any(rows.image for rows in call)]
    assert calls
    for call in calls:
        (rows,) = call
        assert rows.image is not None
        assert len(rows.image.vectors) == len(rows.token_ids)
        assert all(token_id < 0 for token_id in rows.token_ids)
        assert len(rows.token_ids) == 100 or not rows.image.sees_itself
    for call in run.kernels.calls:
        assert all(token_id >= 0 for rows in call if rows.image is None for token_id in rows.token_ids)


def test_a_shared_image_is_computed_once() -> None:
    run = Run(2)
    prompt = with_images(1, WHOLE)
    for i in range(3):
        submit_images(run, i, prompt)
        run.finish()
    assert sum(rows.image is not None for call in run.kernels.calls for rows in call) == 1
    assert run.events[2][0].cached_tokens >= 107

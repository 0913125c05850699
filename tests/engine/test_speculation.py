"""Speculation against kernels that often repeat themselves, on a clock that only they move."""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from llguidance import LLMatcher
from numpy.typing import NDArray
from tests.engine.fake_kernels import EOG, N_VOCAB, FakeKernels, load_for

from takeoff.engine.constraint import ConstraintCompiler, ConstraintState
from takeoff.engine.engine import Engine
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import SlotClass, Submit
from takeoff.models.guidance import guidance_tokenizer
from takeoff.request import FinishReason, SamplingParams, TokenEvent

DECODE_S = 0.01  # of a call of one row
Cost = Callable[[int], float]

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=200, seed=1)


def by_fours(num_rows: int) -> float:
    """Decode calls of one row that a call takes: four rows at a time, as kernels compute them."""
    return 1.0 + 0.5 * -(-(num_rows - 1) // 4)


def each_for_itself(num_rows: int) -> float:
    """A machine on which computing rows together saves nothing."""
    return float(num_rows)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class RepeatingKernels(FakeKernels):
    """Its favourite is mostly what followed the last two tokens before; how often, `habit` says.

    All logits depend on every token before. A prompt that begins with 1 is never repeated.
    """

    def __init__(
        self,
        clock: Clock,
        cost: Cost,
        habit: int,
        n_slots: int = 4,
        *,
        can_trim: bool = True,
        slot_classes: Sequence[SlotClass] = (),
    ) -> None:
        super().__init__(n_slots, can_trim=can_trim, slot_classes=slot_classes)
        self._clock, self._cost, self._habit = clock, cost, habit

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        self._clock.now += DECODE_S * self._cost(sum(len(rows.token_ids) for rows in work))
        return super().forward(work, lora)

    def logits_after(self, token_ids: list[int]) -> NDArray[np.float32]:
        digest = hashlib.sha256(np.array(token_ids, np.int32).tobytes()).digest()
        row = np.random.default_rng(list(digest[:8])).normal(size=N_VOCAB).astype(np.float32)
        row[EOG] = -20.0 if digest[9] else 20.0
        favourite = 32 + digest[10] % 90
        token_ids = [token_id % 1_000 for token_id in token_ids]  # without the marks of adapters
        if token_ids[0] != 1 and digest[11] < self._habit:
            pair = token_ids[-2:]
            places = (at for at in range(len(token_ids) - 2, 1, -1) if token_ids[at - 2 : at] == pair)
            favourite = token_ids[next(places, 0)]
        row[favourite] += 8.0
        return row


class Run:
    """An engine on these kernels, and what it told."""

    def __init__(
        self,
        clock: Clock,
        *,
        speculation: bool,
        cost: Cost = by_fours,
        habit: int = 230,
        n_slots: int = 4,
        n_outputs: int = 16,
        can_trim: bool = True,
        itl_slo_ms: float | None = None,
        slot_classes: Sequence[SlotClass] = (),
    ) -> None:
        self.clock = clock
        self.kernels = RepeatingKernels(
            clock, cost, habit, n_slots, can_trim=can_trim, slot_classes=slot_classes
        )
        load = load_for(
            self.kernels,
            n_ubatch=512,
            itl_slo_ms=itl_slo_ms,
            speculation=speculation,
            n_outputs=n_outputs,
            parking_bytes=1 << 20,
        )
        self.events: defaultdict[int, list[TokenEvent]] = defaultdict(list)
        self.began_at: dict[int, float] = {}
        self.ended_at: dict[int, float] = {}
        self.engine = Engine(load, self.kernels, self._note, clock)
        self.kernels.calls.clear()

    def _note(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.events[event.request_id].append(event)
            self.began_at.setdefault(event.request_id, self.clock.now)
            if event.finish_reason is not None:
                self.ended_at[event.request_id] = self.clock.now

    def submit(
        self,
        request_id: int,
        prompt: list[int],
        params: SamplingParams,
        constraint: ConstraintState | None = None,
        tenant: str = "",
    ) -> None:
        self.engine.submit(Submit(request_id, prompt, params, tenant), constraint)

    def predictions(self, request_id: int) -> tuple[int, int]:
        """Tokens of what a request predicted that were computed ahead, rightly and in vain."""
        events = self.events[request_id]
        return (
            sum(event.accepted_prediction_tokens for event in events),
            sum(event.rejected_prediction_tokens for event in events),
        )

    def finish(self) -> None:
        for _ in range(20_000):
            if self.engine.is_idle:
                return
            self.engine.step()
        pytest.fail("not idle after 20,000 steps")

    def told(self, request_id: int) -> tuple[object, ...]:
        """All that a client hears of a request, however it was cut into events."""
        events = self.events[request_id]
        assert [event.finish_reason is None for event in events] == [True] * (len(events) - 1) + [False]
        return (
            [token_id for event in events for token_id in event.token_ids],
            "".join(event.text for event in events),
            events[-1].finish_reason,
            events[-1].stop_string,
            [each for event in events for each in event.logprobs],
        )

    def count(self, name: str) -> float:
        return self.engine.counters.snapshot().get(name, 0.0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def compiler() -> ConstraintCompiler:
    pieces = [bytes([token_id]) if token_id < 256 else b"" for token_id in range(N_VOCAB)]
    return ConstraintCompiler(guidance_tokenizer(pieces, [EOG], list), N_VOCAB)


def prompt_of(length: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(2, 200) for _ in range(length)]


def any_params(rng: random.Random) -> SamplingParams:
    """Every kind of sampling, and of end."""
    wants_logprobs = rng.random() < 0.3
    return SamplingParams(
        temperature=rng.choice([0.0, 0.0, 0.7, 1.0, 1.5]),
        top_k=rng.choice([0, 0, 20]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.05]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.1]),
        presence_penalty=rng.choice([0.0, 0.0, 0.5]),
        frequency_penalty=rng.choice([0.0, 0.0, 0.2]),
        no_repeat_ngram_size=rng.choice([0, 0, 0, 12]),
        logit_bias={rng.randrange(200): rng.uniform(-3, 3) for _ in range(rng.choice([0, 3]))},
        max_new_tokens=rng.randrange(1, 150),
        min_new_tokens=0,
        stop=tuple(rng.choice(["ab", "q", "zz"]) for _ in range(rng.choice([0, 0, 2]))),
        stop_tokens=rng.choice([(), (), ("~",)]),
        ignore_eos=rng.random() < 0.2,
        seed=rng.randrange(1000),
        logprobs=rng.choice([0, 2]) if wants_logprobs else None,
        prompt_logprobs=wants_logprobs and rng.random() < 0.5,
    )


def test_two_hundred_requests_of_every_kind_are_told_the_same_as_without_drafts(clock: Clock) -> None:
    rng = random.Random(7)
    cases = []
    for number in range(200):
        params = any_params(rng)
        assert params.max_new_tokens is not None
        params = replace(params, min_new_tokens=min(rng.choice([0, 0, 20]), params.max_new_tokens))
        cases.append((prompt_of(rng.randrange(2, 60), number), params))
    told = {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation)
        for number, case in enumerate(cases):
            run.submit(number, *case)
            run.engine.step()
        run.finish()
        told[speculation] = [run.told(number) for number in range(len(cases))]
    assert told[True] == told[False]
    assert run.count("accepted_draft_tokens") > 1_000, "drafts were at work"
    assert run.count("drafted_tokens") > run.count("accepted_draft_tokens") + 200, "some were wrong"
    ends = {reason for _, _, reason, _, _ in told[True]}
    assert ends == {FinishReason.STOP, FinishReason.LENGTH}


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "description": {"type": "string", "maxLength": 20},
            "temperature_in_degrees": {"type": "integer"},
            "is_reliable": {"type": "boolean"},
        },
        "required": ["description", "temperature_in_degrees", "is_reliable"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("max_new_tokens", [40, 90, 300])
def test_a_constraints_forced_tokens_are_computed_together_and_change_nothing(
    clock: Clock, compiler: ConstraintCompiler, max_new_tokens: int
) -> None:
    grammar = LLMatcher.grammar_from_json_schema(SCHEMA)
    told, calls = {}, {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation)
        for number in range(6):
            params = SamplingParams(
                temperature=number % 3 * 0.5, max_new_tokens=max_new_tokens, seed=number, stop=("zq",)
            )
            run.submit(number, prompt_of(30, number), params, compiler.compile(grammar))
            run.finish()
        told[speculation] = [run.told(number) for number in range(6)]
        calls[speculation] = len(run.kernels.calls)
    assert told[True] == told[False]
    assert calls[True] < calls[False] * 0.65, "much of such a text is forced"


def test_a_text_that_repeats_its_prompt_takes_a_third_of_the_time(clock: Clock) -> None:
    took = {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, habit=256)
        started = clock.now
        run.submit(1, prompt_of(150, 1) + prompt_of(150, 1)[:8], replace(GREEDY, ignore_eos=True))
        run.finish()
        took[speculation] = clock.now - started
    assert took[True] < took[False] / 3


def test_how_far_drafts_are_trusted_is_learnt_within_one_tenant(clock: Clock) -> None:
    """The pace of one's text must not tell whether another's repeat themselves."""
    run = Run(clock, speculation=True, habit=200)
    classes = [(agreed, resumed) for agreed in (2, 3, 5, 8, 12, 20, 32) for resumed in (False, True)]

    def trust(tenant: str) -> list[float]:
        """As the next text of the tenant would begin with it."""
        of_all = run.engine._speculation._trusts[tenant]
        return [of_all.chance(agreed, resumed=resumed) for agreed, resumed in classes]

    untaught = trust("key:2")
    for seed in range(4):
        params = replace(GREEDY, max_new_tokens=400, ignore_eos=True)
        run.submit(seed, [1, *prompt_of(3, seed) * 60], params, tenant="key:1")
        run.finish()
    run.submit(9, [1, *prompt_of(20, 9)], GREEDY, tenant="key:2")
    run.engine.step()
    assert trust("key:1") != untaught
    assert trust("key:2") == untaught


@pytest.mark.parametrize("num_streams", [1, 2, 4, 8])
@pytest.mark.parametrize("habit", [0, 128])
def test_nobody_loses_more_than_two_hundredths_by_drafts_that_are_wrong(
    clock: Clock, num_streams: int, habit: int
) -> None:
    took = {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, habit=habit, n_slots=num_streams, cost=each_for_itself)
        started = clock.now
        for number in range(num_streams):
            run.submit(number, prompt_of(100, number), replace(GREEDY, max_new_tokens=300, ignore_eos=True))
        run.finish()
        took[speculation] = clock.now - started
    assert took[True] <= took[False] / 0.98


def test_a_neighbour_does_not_pay_for_the_drafts_of_others(clock: Clock) -> None:
    took = {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, habit=256)
        params = replace(GREEDY, max_new_tokens=300, ignore_eos=True)
        run.submit(1, prompt_of(150, 1) + prompt_of(150, 1)[:8], replace(params, max_new_tokens=3_000))
        run.submit(2, [1, *prompt_of(150, 2)], params)  # never repeats itself, and ends first
        run.finish()
        took[speculation] = run.ended_at[2] - run.began_at[2]
    assert run.count("verify_calls") > 0
    assert took[True] <= took[False] / 0.98


def test_with_many_streams_no_text_is_even_looked_at(clock: Clock) -> None:
    run = Run(clock, speculation=True, n_slots=16, n_outputs=16)
    for number in range(16):
        run.submit(number, prompt_of(2, number), replace(GREEDY, max_new_tokens=40, ignore_eos=True))
    for _ in range(30):
        run.engine.step()
    running = run.engine._scheduler.running
    assert [len(call) for call in run.kernels.calls[-20:]] == [16] * 20
    assert [seq.drafter for seq in running] == [None] * 16


def test_a_call_takes_no_longer_than_a_stream_can_bear(clock: Clock) -> None:
    run = Run(clock, speculation=True, habit=256, itl_slo_ms=25)
    run.submit(1, prompt_of(150, 1) + prompt_of(150, 1)[:8], replace(GREEDY, ignore_eos=True))
    run.finish()
    sizes = [len(call[0].token_ids) for call in run.kernels.calls if call[0].wants_all]
    assert len(sizes) > 10
    assert max(map(by_fours, sizes)) <= 2.5


def test_a_model_whose_slots_cannot_be_trimmed_decodes_one_by_one(clock: Clock) -> None:
    run = Run(clock, speculation=True, habit=256, can_trim=False)
    run.submit(1, prompt_of(150, 1), GREEDY)
    run.finish()
    assert run.count("verify_calls") == 0
    assert not any(rows.wants_all for call in run.kernels.calls for rows in call)


TWO_CLASSES = (SlotClass(2, 512), SlotClass(2, 4_096))
REPEATING = prompt_of(150, 1) + prompt_of(150, 1)[:8]


def test_calls_of_several_classes_and_adapters_have_drafts_in_the_same_step_and_say_the_same(
    clock: Clock,
) -> None:
    rng = random.Random(11)
    cases = [
        (
            prompt_of(rng.choice([20, 60, 600]), number),
            any_params(rng),
            rng.choice([None, "legal", "medical"]),
        )
        for number in range(80)
    ]
    told, calls = {}, {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, slot_classes=TWO_CLASSES)
        for number, (prompt, params, lora) in enumerate(cases):
            run.engine.submit(Submit(number, prompt, params, "", lora=lora))
            run.engine.step()
        run.finish()
        told[speculation] = [run.told(number) for number in range(len(cases))]
        calls[speculation] = len(run.kernels.calls)
    assert told[True] == told[False]
    assert run.count("accepted_draft_tokens") > 300
    assert calls[True] < calls[False] * 0.9


@pytest.mark.parametrize("prompts", [(REPEATING, REPEATING * 6), (REPEATING, REPEATING[:60])])
def test_both_calls_of_a_step_are_verified_where_both_texts_repeat_themselves(
    clock: Clock, prompts: tuple[list[int], list[int]]
) -> None:
    """In a short and a long slot; and in two of a size, with and without an adapter."""
    took = {}
    loras = (None, None if len(prompts[1]) > 512 else "legal")
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, habit=256, slot_classes=TWO_CLASSES)
        started = clock.now
        for number, (prompt, lora) in enumerate(zip(prompts, loras, strict=True)):
            params = replace(GREEDY, max_new_tokens=300, ignore_eos=True)
            run.engine.submit(Submit(number, prompt, params, "", lora=lora))
        run.finish()
        took[speculation] = clock.now - started
    assert took[True] < took[False] / 2


def test_who_decodes_in_another_call_does_not_pay_for_drafts_either(clock: Clock) -> None:
    took = {}
    for speculation in (False, True):
        run = Run(clock, speculation=speculation, habit=256, slot_classes=TWO_CLASSES)
        params = replace(GREEDY, max_new_tokens=300, ignore_eos=True)
        run.submit(1, REPEATING * 4, replace(params, max_new_tokens=3_000))
        run.submit(2, [1, *prompt_of(150, 2)], params)  # never repeats itself, and ends first
        run.finish()
        took[speculation] = run.ended_at[2] - run.began_at[2]
    assert run.count("verify_calls") > 0
    assert took[True] <= took[False] / 0.98


def test_a_step_of_several_calls_takes_no_longer_than_a_stream_can_bear(clock: Clock) -> None:
    run = Run(clock, speculation=True, habit=256, itl_slo_ms=45, slot_classes=TWO_CLASSES)
    params = replace(GREEDY, max_new_tokens=300, ignore_eos=True)
    run.submit(1, REPEATING, params)
    run.submit(2, REPEATING * 4, params)
    longest = 0.0
    while not run.engine.is_idle:
        before, is_prefill = clock.now, run.count("prefill_calls")
        run.engine.step()
        if run.count("prefill_calls") == is_prefill:
            longest = max(longest, clock.now - before)
    assert run.count("verify_calls") > 20
    assert longest <= 0.0451


@pytest.mark.parametrize(("num_right", "least", "most"), [(200, 160, 200), (103, 75, 103), (0, 0, 0)])
def test_what_became_of_a_prediction_is_told_with_the_tokens(
    clock: Clock, num_right: int, least: int, most: int
) -> None:
    """Of each call one token is what comes after its draft: that was not computed ahead."""
    params = replace(GREEDY, ignore_eos=True)
    run = Run(clock, speculation=False, habit=0)
    run.submit(1, prompt_of(40, 5), params)
    run.finish()
    completion = [token_id for event in run.events[1] for token_id in event.token_ids]
    assert run.predictions(1) == (0, 0)
    predicted = completion[:num_right] + [201] * (200 - num_right)
    run = Run(clock, speculation=True, habit=0)
    run.engine.submit(Submit(1, prompt_of(40, 5), params, "", predicted_token_ids=predicted))
    run.submit(2, prompt_of(40, 6), replace(params, max_new_tokens=20))
    run.finish()
    assert [token_id for event in run.events[1] for token_id in event.token_ids] == completion
    accepted, in_vain = run.predictions(1)
    assert least <= accepted <= most
    assert accepted == run.count("accepted_draft_tokens")
    assert accepted + in_vain <= run.count("drafted_tokens")
    assert (in_vain == 0) == (num_right != 103)
    assert run.predictions(2) == (0, 0)

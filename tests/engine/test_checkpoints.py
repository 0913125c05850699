"""An engine takes over from one that is gone: what checkpoints save and cost, and that no text changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO

import pytest
from tests.engine.fake_kernels import FakeKernels, expected_completion, load_for
from tests.engine.real import RealEngine

from takeoff.engine.checkpoints import MIN_LOST_TOKENS, SHARE
from takeoff.engine.engine import Engine
from takeoff.ipc.arena import make_arena_file
from takeoff.ipc.messages import Submit
from takeoff.request import SamplingParams, TokenEvent

CACHE_BYTES = 4 << 20


@pytest.fixture
def arena() -> Iterator[IO[bytes]]:
    file = make_arena_file(CACHE_BYTES)
    assert file is not None
    with file:
        yield file


class Run:
    """An engine on fake kernels; its clock goes on by what a call and a written token take."""

    def __init__(
        self, arena: IO[bytes], *, deterministic: bool = False, written_token_s: float = 0.0
    ) -> None:
        self.kernels = TimedKernels(written_token_s)
        self.tokens: defaultdict[int, list[int]] = defaultdict(list)
        load = load_for(
            self.kernels,
            cache_bytes=CACHE_BYTES,
            arena_fd=arena.fileno(),
            deterministic=deterministic,
        )
        self.engine = Engine(load, self.kernels, self._note, lambda: self.kernels.now)
        self.kernels.calls.clear()

    def submit(
        self, request_id: int, prompt: list[int], count: int, emitted: list[int] | None = None
    ) -> None:
        params = SamplingParams(temperature=0.0, max_new_tokens=count, ignore_eos=True, seed=0)
        self.engine.submit(Submit(request_id, prompt, params, "", emitted_token_ids=emitted or []))

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()

    def finish(self) -> None:
        while not self.engine.is_idle:
            self.engine.step()

    def counted(self, name: str) -> float:
        return self.engine.counters.snapshot().get(name, 0.0)

    @property
    def num_computed(self) -> int:
        return sum(len(rows.token_ids) for call in self.kernels.calls for rows in call)

    def _note(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.tokens[event.request_id] += event.token_ids


class TimedKernels(FakeKernels):
    """A call takes 10 ms."""

    def __init__(self, written_token_s: float) -> None:
        super().__init__()
        self.now = 0.0
        self.written_s = 0.0
        self._written_token_s = written_token_s

    def forward(self, work, lora=None):  # type: ignore[no-untyped-def]
        self.now += 0.01
        return super().forward(work, lora)

    def save(self, slot, target):  # type: ignore[no-untyped-def]
        took_s = self._written_token_s * len(self.memory[slot])
        self.now += took_s
        self.written_s += took_s
        return super().save(slot, target)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_next_engine_computes_only_what_came_behind_the_last_checkpoint(
    arena: IO[bytes], deterministic: bool
) -> None:
    prompts = {number: list(range(40 + number, 140 + number)) for number in range(3)}
    first = Run(arena, deterministic=deterministic)
    for number, prompt in prompts.items():
        first.submit(number, prompt, 150)
    first.steps(100)
    emitted = {number: list(first.tokens[number]) for number in prompts}
    assert all(80 < len(tokens) < 120 for tokens in emitted.values())

    second = Run(arena, deterministic=deterministic)
    for number, prompt in prompts.items():
        second.submit(number, prompt, 150, emitted[number])
    second.finish()
    for number, prompt in prompts.items():
        assert emitted[number] + second.tokens[number] == expected_completion(prompt, 150)
    to_come = sum(150 - len(tokens) for tokens in emitted.values())
    assert second.num_computed < to_come + len(prompts) * (MIN_LOST_TOKENS + 3)
    assert second.counted("restore_calls") == 3


def test_a_text_that_ends_leaves_no_checkpoint_that_only_its_replay_could_use(arena: IO[bytes]) -> None:
    run = Run(arena, deterministic=True)
    run.submit(1, list(range(40, 140)), 200)
    run.finish()
    assert run.counted("checkpoint_calls") > 2
    kept = Run(arena, deterministic=True).engine.prefixes._cache
    assert [len(entry.token_ids) for entry in kept._tree] == [100], "the prompt alone"


@pytest.mark.parametrize("written_token_s", [1e-6, 5e-6, 20e-6])
def test_checkpoints_take_no_more_than_their_share_however_long_they_are(
    arena: IO[bytes], written_token_s: float
) -> None:
    run = Run(arena, written_token_s=written_token_s)
    for number in range(4):
        run.submit(number, list(range(100 + number, 1_100 + number)), 1_000)
    run.steps(900)
    assert run.counted("checkpoint_calls") > 4
    longest_s = written_token_s * 2_000
    assert run.kernels.written_s <= SHARE * run.kernels.now + longest_s


def test_no_checkpoint_takes_longer_than_streams_may_wait(arena: IO[bytes]) -> None:
    """A token takes 0.1 ms: 50 ms are over at 500 tokens, and a step is 10 ms."""
    run = Run(arena, written_token_s=1e-4)
    run.submit(1, list(range(40, 140)), 900)
    written: list[float] = []
    before = 0.0
    while not run.engine.is_idle:
        run.engine.step()
        written.append(run.kernels.written_s - before)
        before = run.kernels.written_s
    assert max(written[:-1]) < 0.06
    assert sum(seconds > 0 for seconds in written) > 2


def test_without_a_file_that_outlives_it_an_engine_writes_none() -> None:
    kernels = TimedKernels(0.0)
    engine = Engine(load_for(kernels, cache_bytes=CACHE_BYTES), kernels, lambda events: None)
    params = SamplingParams(temperature=0.0, max_new_tokens=100, ignore_eos=True, seed=0)
    engine.submit(Submit(1, list(range(40, 140)), params, ""))
    while not engine.is_idle:
        engine.step()
    assert "checkpoint_calls" not in engine.counters.snapshot()


@pytest.mark.parametrize("deterministic", [False, True])
def test_real_weights_go_on_from_a_checkpoint(smollm2_path: Path, deterministic: bool) -> None:
    """With every bit the same where what came behind it is decoded again one by one."""
    file = make_arena_file(256 << 20)
    assert file is not None
    params = SamplingParams(temperature=0.0, max_new_tokens=400, ignore_eos=True, seed=0)
    prompt = [504, 3058, 253, 655, 378, 2010, 314, 216, 49, 5893] * 12

    texts = {1: prompt, 2: prompt[7:]}

    def engine(fd: int | None) -> RealEngine:
        """To whom every step takes as long as any, and so does every checkpoint."""
        clock = partial(next, count(0.0, 0.001))
        return RealEngine(smollm2_path, deterministic=deterministic, arena_fd=fd, clock=clock)

    with file:
        undisturbed, first = engine(None), engine(file.fileno())
        for number, text in texts.items():
            undisturbed.submit(number, text, params)
            first.submit(number, text, params)
        undisturbed.run_until_idle()
        running = first.engine._scheduler.running
        while not running or min(seq.num_safe_tokens - seq.num_prompt_tokens for seq in running) < 24:
            first.engine.step()
        emitted = {number: first.token_ids(number) for number in texts}
        first.close()
        second = engine(file.fileno())
        for number, text in texts.items():
            second.engine.submit(Submit(number, text, params, "", emitted_token_ids=emitted[number]))
        second.run_until_idle()
        counted = second.engine.counters.snapshot()
        undisturbed.close()
        second.close()
    assert counted["restore_calls"] == 2
    assert counted["restore_tokens"] >= sum(len(text) for text in texts.values()) + 2 * 24
    for number in texts:
        gone_on = emitted[number] + second.token_ids(number)
        assert len(gone_on) == 400
        assert gone_on == undisturbed.token_ids(number) or not deterministic

"""A machine whose calls take a stated time, by a clock of its own; and the engine on it."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tests.engine.fake_kernels import FakeKernels, load_for

from takeoff.engine.call_cost import Cost, Work
from takeoff.engine.engine import Engine
from takeoff.engine.llama.rows import Rows
from takeoff.ipc.messages import Submit
from takeoff.request import SamplingParams, TokenEvent

# About what a model of 0.2 billion parameters takes on two cores, most of whose layers see a window only:
# attention costs as much as all else at 16,000 tokens.
SMALL = Cost(fixed=0.005, per_token=0.0015, per_pair=0.0015 / 16_000)


class SimulatedKernels(FakeKernels):
    """Always says the same, and takes its time.
    `noise` is the spread of a call's time; `disturbed` the share of calls that take four times theirs.
    """

    def __init__(self, cost: Cost, n_slots: int, n_ctx_slot: int, *, noise: float, disturbed: float) -> None:
        super().__init__(n_slots, n_ctx_slot)
        self.cost = cost
        self.now = 0.0
        self.longest_s = 0.0
        self._noise, self._disturbed = noise, disturbed
        self._random = random.Random(4)

    def forward(self, work: Sequence[Rows], lora: str | None = None) -> NDArray[np.float32]:
        amount = Work.of((rows.pos, len(rows.token_ids)) for rows in work)
        seconds = sum(cost * much for cost, much in zip(self.cost, amount, strict=True))
        seconds *= self._random.lognormvariate(0.0, self._noise) if self._noise else 1.0
        if self._random.random() < self._disturbed:
            seconds *= 4.0
        self.now += seconds
        self.longest_s = max(self.longest_s, seconds)
        for rows in work:
            assert rows.pos == len(self.memory[rows.slot]), "a token was computed at the wrong position"
            self.memory[rows.slot] += rows.token_ids
        logits = np.zeros((sum(rows.wants_logits for rows in work), self.n_vocab), np.float32)
        logits[:, 65] = 1.0
        return logits


class SimulatedRun:
    """An engine on simulated kernels, and when each request's tokens came."""

    def __init__(
        self,
        cost: Cost = SMALL,
        *,
        n_slots: int = 64,
        itl_slo_ms: float | None = None,
        noise: float = 0.0,
        disturbed: float = 0.0,
        deterministic: bool = False,
        cache_bytes: int = 0,
    ) -> None:
        n_ctx_slot = 32_768
        self.kernels = SimulatedKernels(cost, n_slots, n_ctx_slot, noise=noise, disturbed=disturbed)
        load = load_for(
            self.kernels,
            n_batch=2048,
            n_ubatch=512,
            deterministic=deterministic,
            cache_bytes=cache_bytes,
            itl_slo_ms=itl_slo_ms,
        )
        self.told_at: defaultdict[int, list[float]] = defaultdict(list)
        self.engine = Engine(load, self.kernels, self._note, clock=lambda: self.kernels.now)

    @property
    def now(self) -> float:
        return self.kernels.now

    def _note(self, events: list[TokenEvent]) -> None:
        for event in events:
            self.told_at[event.request_id].append(self.now)

    def submit(
        self,
        request_id: int,
        length: int,
        max_new_tokens: int = 100_000,
        *,
        like: int | None = None,
        shared: int = 0,
    ) -> None:
        """A prompt of its own, whose first `shared` tokens are those of the request `like`."""
        prompt = _prompt(request_id, length)
        if like is not None:
            prompt[:shared] = _prompt(like, shared)
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_new_tokens=max_new_tokens, seed=1)
        self.engine.submit(Submit(request_id, prompt, params, tenant=""))

    def start_streams(self, request_ids: range, steps: int = 30) -> list[float]:
        """Streams that decode undisturbed for so many steps; returns their gaps."""
        for request_id in request_ids:
            self.submit(request_id, 40)
        while not all(self.told_at[request_id] for request_id in request_ids):
            self.engine.step()
        since = self.now
        for _ in range(steps):
            self.engine.step()
        return self.gaps(request_ids, since)

    def run_until_begun(self, request_ids: range | list[int]) -> None:
        """Step until each has its first token."""
        while not all(self.told_at[request_id] for request_id in request_ids):
            self.engine.step()

    def gaps(self, request_ids: range, since: float) -> list[float]:
        """Seconds between tokens of each, of the tokens that came after `since`."""
        pairs = (zip(self.told_at[i], self.told_at[i][1:], strict=False) for i in request_ids)
        return [after - before for both in pairs for before, after in both if after > since]


def _prompt(request_id: int, length: int) -> list[int]:
    return [(request_id * 37 + place * 11) % 200 for place in range(length)]

"""When a request would end: predicted from what the reader's engine computes and how fast it does that now.

The engine's beats say how long its calls have taken and what they computed, the streams how long they wait
for a token. What is old is forgotten. Predictions rather err to the late side: a promise is made on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from takeoff.ipc.messages import Heartbeat

MEMORY_S = 10.0  # of work that a rate remembers
SAFETY = 1.25  # a request is expected to take so many times what the rates say
PREFILL_SHARE = 0.67  # of the time that prompts get while streams decode: gaps are three decode steps
GROWTH = 0.11  # of a decode step with each sequence more: 32 take 4.4 times as long as one
_DECODE_SECONDS = ("decode_seconds", "verify_seconds", "sample_seconds")


class Ratio:
    """So much of one thing for each of another, lately."""

    def __init__(self, memory: float = MEMORY_S) -> None:
        """`memory`: of the first thing, as much as counts."""
        self._memory = memory
        self._much = 0.0
        self._of = 0.0

    def add(self, much: float, of: float) -> None:
        self._much += much
        self._of += of
        if self._much > self._memory:
            self._of *= self._memory / self._much
            self._much = self._memory

    @property
    def value(self) -> float | None:
        """None: there was none yet."""
        return self._much / self._of if self._of > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What a reader has in work before a request, in tokens. `own` is of the request's own party."""

    num_open: int
    num_parties: int  # with something in work, the request's own among them
    waiting_prompt: int  # of requests without a first token
    waiting_completion: int
    running_completion: int  # still to come, at most
    own_prompt: int
    own_completion: int

    @property
    def num_tokens(self) -> int:
        return self.waiting_prompt + self.waiting_completion + self.running_completion

    def for_each(self, num_replicas: int) -> Self:
        """What one of so many engines has of it, if all have as much."""
        return type(self)(
            num_open=self.num_open // num_replicas,
            num_parties=self.num_parties,
            waiting_prompt=self.waiting_prompt // num_replicas,
            waiting_completion=self.waiting_completion // num_replicas,
            running_completion=self.running_completion // num_replicas,
            own_prompt=self.own_prompt // num_replicas,
            own_completion=self.own_completion // num_replicas,
        )


class Pace:
    """Of one reader's engine."""

    def __init__(self) -> None:
        self._prompt_s, self._completion_s, self._gap_s = Ratio(), Ratio(), Ratio()  # for a token
        self._calls = Ratio(memory=200.0)  # for each token that is decoded
        self._wall_s = Ratio()  # for each second of calls, while there is work
        self._last: Heartbeat | None = None
        self._last_at = 0.0

    def take(self, beat: Heartbeat, now: float) -> None:
        """The engine's sums since its start; `now` is monotonic seconds."""
        last, since, self._last, self._last_at = self._last, self._last_at, beat, now
        if last is None or beat.steps < last.steps:  # another engine, which began at zero
            return

        def growth(*names: str) -> float:
            return sum(beat.counters.get(name, 0.0) - last.counters.get(name, 0.0) for name in names)

        prefill_s, decode_s = growth("prefill_seconds"), growth(*_DECODE_SECONDS)
        num_decoded = growth("sample_tokens")
        self._prompt_s.add(prefill_s, growth("prefill_tokens"))
        self._completion_s.add(decode_s, num_decoded)
        self._calls.add(growth("decode_calls", "verify_calls"), num_decoded)
        if last.running and beat.running:
            self._wall_s.add(now - since, prefill_s + decode_s)

    def note_gap(self, seconds: float, num_tokens: int) -> None:
        """A stream has got so many tokens, so long after the ones before."""
        self._gap_s.add(seconds, num_tokens)

    @property
    def told(self) -> str:
        """The rates, for people."""
        rates = (("prompt", self._prompt_s.value), ("completion", self._completion_s.value))
        return " and ".join(f"{1 / seconds:.0f} {name} tokens/s" for name, seconds in rates if seconds)

    def seconds(self, prompt: int, completion: int, ahead: Ahead, n_slots: int) -> float | None:
        """From now to the end of a request of so many tokens; None: nothing is known yet."""
        of_prompt, of_completion, gap = self._prompt_s.value, self._completion_s.value, self._gap_s.value
        if of_prompt is None or of_completion is None or gap is None:
            return None
        if ahead.num_open < n_slots:
            wait_s = of_prompt * ahead.waiting_prompt / PREFILL_SHARE
        else:
            of_all = of_prompt * ahead.waiting_prompt + of_completion * ahead.waiting_completion
            of_own = of_prompt * ahead.own_prompt + of_completion * ahead.own_completion
            running = of_completion * ahead.running_completion
            wait_s = of_all + running / 2
            if ahead.num_parties > 1:
                wait_s = min(wait_s, of_own * ahead.num_parties + running / n_slots)
        prefill_s = of_prompt * prompt / PREFILL_SHARE
        overhead = max(self._wall_s.value or 1.0, 1.0)
        return SAFETY * (overhead * (wait_s + prefill_s) + completion * gap * self._slower(ahead, n_slots))

    def _slower(self, ahead: Ahead, n_slots: int) -> float:
        """How many times as long gaps may become: there may soon be twice as many requests as now."""
        calls = self._calls.value
        together = 1 / calls if calls else 1.0
        expected = min(2 * (ahead.num_open + 1), n_slots)
        return max(1.0, (1 + GROWTH * (expected - 1)) / (1 + GROWTH * (together - 1)))

"""What a search is after: bounds, and one figure to make as large or as small as they allow.

    latency        answer_s=min, users=1
    throughput     tokens_s=max, users=32
    memory         memory=min, tokens_s>90%, users=32
    ttft_p95<1s, users=max

Figures of a load of so many users are predicted from the costs of single steps, see `Predicted`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from takeoff.errors import SettingsError

MAX_USERS = 256
PROMPT_TOKENS, ANSWER_TOKENS = 300, 128  # of the request that `answer_s`, `ttft_p95` and `tokens_s` are of
GAP_STEPS = 3  # a gap with a prefill in it, in decode steps: the engine's own default

NAMED = {
    "latency": "answer_s=min, users=1",
    "throughput": "tokens_s=max, users=32",
    "memory": "memory=min, tokens_s>90%, users=32",
}

_UNITS = {"": 1.0, "s": 1.0, "ms": 1e-3, "GB": 1e9, "MB": 1e6, "%": 0.01}
_TERM = re.compile(r"(\w+)\s*([<>=])\s*([\d.]+)?\s*([A-Za-z%]*)")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one setting."""

    step_s: Mapping[int, float]  # seconds of a decode step, by its streams; never empty
    prefill_token_s: float  # seconds for a token of a prompt
    memory_bytes: int  # of the plan: weights, KV cache, buffers


@dataclass(frozen=True, slots=True)
class Predicted:
    """Figures of `users` who ask again as soon as they are answered: 300 tokens in, 128 out.

    A step's cost between measured numbers of streams is interpolated, beyond them drawn on. A prompt waits
    for the end of a step and for the prompts before it, whose number is distributed geometrically, as in a
    queue that is served for the share of the time that goes to prefill; the other users have one each at
    most. A gap between tokens is as long as the engine lets a prefill make it.
    """

    measured: Measured
    users: int

    @property
    def step_s(self) -> float:
        return _at(self.measured.step_s, self.users)

    @property
    def ttft_p95(self) -> float:
        prompt_s = PROMPT_TOKENS * self.measured.prefill_token_s
        if self.users == 1:
            return prompt_s
        busy = self.users * prompt_s / self.answer_s
        ahead = min(self.users - 1, math.log(0.05) / math.log(busy))
        return self.step_s + prompt_s * (1 + ahead)

    @property
    def itl_p99(self) -> float:
        return self.step_s if self.users == 1 else GAP_STEPS * self.step_s

    @property
    def answer_s(self) -> float:
        return self.users * PROMPT_TOKENS * self.measured.prefill_token_s + ANSWER_TOKENS * self.step_s

    @property
    def tokens_s(self) -> float:
        return self.users * ANSWER_TOKENS / self.answer_s

    @property
    def memory(self) -> float:
        return float(self.measured.memory_bytes)


METRICS: dict[str, Callable[[Predicted], float]] = {
    "ttft_p95": lambda load: load.ttft_p95,
    "itl_p99": lambda load: load.itl_p99,
    "answer_s": lambda load: load.answer_s,
    "tokens_s": lambda load: load.tokens_s,
    "memory": lambda load: load.memory,
    "users": lambda load: float(load.users),
}


@dataclass(frozen=True, slots=True)
class Bound:
    """`metric` must be below or above `value`; of a relative one `value` is a share of what it was before."""

    metric: str
    side: Literal["<", ">", "="]
    value: float
    is_relative: bool = False

    def holds(self, load: Predicted, before: Measured) -> bool:
        if self.side == "=":
            return METRICS[self.metric](load) == self.value
        return self.excess(load, before) < 1

    def excess(self, load: Predicted, before: Measured) -> float:
        """How many times too large or too small the figure is; below 1 the bound holds."""
        figure, value = METRICS[self.metric](load), self.value
        if self.is_relative:
            value *= METRICS[self.metric](Predicted(before, load.users))
        return figure / value if self.side == "<" else value / figure


@dataclass(frozen=True, slots=True)
class Goal:
    """`aim` is the figure to make small or large; `text` is what the user said."""

    text: str
    aim: str
    is_max: bool
    bounds: tuple[Bound, ...]

    def served(self, measured: Measured, before: Measured) -> Predicted | None:
        """The load that serves the aim best; None: no load keeps the bounds."""
        kept = [
            load for load in self._loads(measured) if all(bound.holds(load, before) for bound in self.bounds)
        ]
        if not kept:
            return None
        return max(kept, key=self.figure) if self.is_max else min(kept, key=self.figure)

    def nearest(self, measured: Measured, before: Measured) -> Predicted:
        """The load that is nearest to keeping the bounds."""
        return min(self._loads(measured), key=lambda load: self._excess(load, before))

    def figure(self, load: Predicted) -> float:
        """What is to be large or small."""
        return METRICS[self.aim](load)

    def gain(self, challenger: Measured, incumbent: Measured, before: Measured) -> float:
        """How many times as good the challenger is as the incumbent.

        0 where only the challenger breaks a bound, infinite where only the incumbent does. Where both do it
        is how much nearer to the bounds the challenger is. Of equally many users, who are whole, those are
        served better who get more tokens.
        """
        new, old = self.served(challenger, before), self.served(incumbent, before)
        if new is None and old is None:
            near, far = self.nearest(challenger, before), self.nearest(incumbent, before)
            return self._excess(far, before) / self._excess(near, before)
        if new is None or old is None:
            return 0.0 if new is None else math.inf
        if self.aim == "users" and new.users == old.users:
            return new.tokens_s / old.tokens_s
        ratio = self.figure(new) / self.figure(old)
        return ratio if self.is_max else 1 / ratio

    def _loads(self, measured: Measured) -> Iterator[Predicted]:
        """Those that may be asked for: of so many users as the goal says, or of any number."""
        loads = (Predicted(measured, users) for users in range(1, MAX_USERS + 1))
        fixed = [bound for bound in self.bounds if bound.side == "="]
        return (load for load in loads if all(METRICS[each.metric](load) == each.value for each in fixed))

    def _excess(self, load: Predicted, before: Measured) -> float:
        return max((bound.excess(load, before) for bound in self.bounds if bound.side != "="), default=1.0)

    @property
    def streams(self) -> tuple[int, ...]:
        """The numbers of streams whose steps have to be measured."""
        fixed = [int(bound.value) for bound in self.bounds if bound.metric == "users" and bound.side == "="]
        if fixed == [1]:
            return (1,)
        return (1, 8, 32)

    @property
    def wants_memory(self) -> bool:
        return self.aim == "memory" or any(bound.metric == "memory" for bound in self.bounds)


def parse_goal(text: str) -> Goal:
    """A name, or an objective such as `ttft_p95<1s, users=max`.

    Raises:
        SettingsError: it says nothing to make large or small, or what it says is unknown.
    """
    bounds: list[Bound] = []
    aims: list[tuple[str, bool]] = []
    for term in NAMED.get(text.strip(), text).split(","):
        found = _TERM.fullmatch(term.strip())
        if found is None or found[1] not in METRICS:
            raise _refusal(f"{term.strip()!r} is not understood")
        metric, side, number, word = found.groups()
        if number is None and side == "=" and word in ("max", "min"):
            aims.append((metric, word == "max"))
        elif number is not None and word in _UNITS and number.count(".") <= 1 and number != ".":
            bounds.append(_bound(metric, side, float(number), word))
        else:
            raise _refusal(f"{term.strip()!r} has no value that is understood")
    if len(aims) != 1:
        raise _refusal(f"{text!r} has {len(aims)} figures to make as large or small as can be, not one")
    return Goal(text.strip(), aims[0][0], aims[0][1], tuple(bounds))


def _bound(metric: str, side: str, number: float, unit: str) -> Bound:
    value = number * _UNITS[unit]
    if metric == "users" and not (value == int(value) and 1 <= value <= MAX_USERS):
        raise _refusal(f"users must be a whole number from 1 to {MAX_USERS}, not {number:g}{unit}")
    if side == "=" and metric != "users":
        raise _refusal(f"{metric} can be bounded by < or >, or be =max or =min, not ={number:g}{unit}")
    if value <= 0:
        raise _refusal(f"{metric} is bounded by {number:g}{unit}: it must be more than 0")
    assert side in ("<", ">", "="), "the expression allows no other"
    return Bound(metric, side, value, is_relative=unit == "%")  # type: ignore[arg-type]


def _refusal(why: str) -> SettingsError:
    hint = (
        f"--goal {', '.join(NAMED)}, or bounds and one aim of {', '.join(METRICS)}: 'ttft_p95<1s, users=max'"
    )
    return SettingsError(f"--goal: {why}", hint=hint)


def _at(points: Mapping[int, float], users: int) -> float:
    """The value at `users`, on the straight line through the two nearest measured points."""
    known = sorted(points.items())
    if len(known) == 1:
        return known[0][1] * users / known[0][0]
    above = next((place for place, (streams, _) in enumerate(known) if streams >= users), len(known) - 1)
    (low, low_s), (high, high_s) = known[max(above, 1) - 1], known[max(above, 1)]
    return max(0.0, low_s + (high_s - low_s) * (users - low) / (high - low))

"""Scenarios on several servers in alternation: round by round, the order turned each time.

A shared machine's speed drifts; two servers measured one after the other in the same round see
nearly the same machine, so ratios are taken round by round and their median is what counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from takeoff.bench.apis import Work
from takeoff.bench.client import complete
from takeoff.bench.machine import CpuShare, OthersShare, tree_memory
from takeoff.bench.prompts import Prompts
from takeoff.bench.runs import Outcome
from takeoff.bench.scenarios import Scenario
from takeoff.bench.target import Target


@dataclass(eq=False, slots=True)
class Measured:
    """The runs of one scenario: for each target name its outcomes, a round each."""

    scenario: Scenario
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    @classmethod
    def nothing_of(cls, scenario: Scenario, targets: Sequence[Target]) -> Measured:
        """Before the first round."""
        return cls(scenario, {target.name: [] for target in targets})

    def values(self, target: str, figure: str) -> list[float]:
        """A figure's value in each round that gave one."""
        return [out.figures[figure].value for out in self.outcomes[target] if figure in out.figures]

    def count(self, target: str, figure: str) -> int:
        """How many values the figure is made of, all rounds together."""
        return sum(out.figures[figure].num_values for out in self.outcomes[target] if figure in out.figures)

    def median(self, target: str, figure: str) -> float | None:
        """The middle one of the rounds; None when every round failed."""
        values = self.values(target, figure)
        return statistics.median(values) if values else None

    def ratio(self, target: str, other: str, figure: str) -> float | None:
        """Median over the rounds of `target`'s value by `other`'s; None when no round has both."""
        pairs = zip(self.outcomes[target], self.outcomes[other], strict=True)
        ratios = [
            a.figures[figure].value / b.figures[figure].value
            for a, b in pairs
            if figure in a.figures and figure in b.figures and b.figures[figure].value
        ]
        return statistics.median(ratios) if ratios else None

    def errors(self, target: str) -> list[str]:
        return [error for outcome in self.outcomes[target] for error in outcome.errors]

    def refusals(self, target: str, status: int) -> int:
        return sum(outcome.refusals(status) for outcome in self.outcomes[target])

    def num_requests(self, target: str) -> int:
        return sum(len(outcome.traces) for outcome in self.outcomes[target])

    def memory_bytes(self, target: str) -> int | None:
        """The most that the server held after a run; None where nobody could tell."""
        known = [out.memory_bytes for out in self.outcomes[target] if out.memory_bytes is not None]
        return max(known, default=None)

    def client_share(self, target: str) -> float:
        """The most that the client took of a core in a run."""
        return max((out.client_share for out in self.outcomes[target]), default=0.0)

    def others_share(self, target: str) -> float | None:
        """The most that other programs took in a run, in cores; None where nobody could tell."""
        known = [out.others_share for out in self.outcomes[target] if out.others_share is not None]
        return max(known, default=None)

    def lateness_s(self, target: str) -> float:
        """The worst run's p99 of how much too late the client turned to a request."""
        return max((out.lateness_s for out in self.outcomes[target]), default=0.0)


async def warm_up(targets: Sequence[Target], *, num_requests: int, seed: int) -> None:
    """Ask each server so often for a few tokens, one at a time; nothing of it counts."""
    for target in targets:
        prompts = Prompts(seed)
        for _ in range(num_requests):
            await complete(target, Work(prompts.text(32), 16))


async def compare(
    targets: Sequence[Target],
    measured: Sequence[Measured],
    *,
    rounds: int,
    seed: int,
    pause_s: float,
    on_run: Callable[[str, str], None],
) -> None:
    """Run every scenario `rounds` times on every target, with a pause after each run.

    `on_run(scenario, target)` is called before each. What has been run on all targets is in `measured`, also
    when this is cancelled.
    """
    pids = [target.pid for target in targets]
    for number in range(rounds):
        order = targets if number % 2 == 0 else list(reversed(targets))
        for place, each in enumerate(measured):
            outcomes: dict[str, Outcome] = {}
            for target in order:
                on_run(each.scenario.name, target.name)
                prompts = Prompts(seed + number * len(measured) + place)
                outcomes[target.name] = await _run(each.scenario, target, prompts, pids)
                await asyncio.sleep(pause_s)
            for name, outcome in outcomes.items():
                each.outcomes[name].append(outcome)


async def _run(
    scenario: Scenario, target: Target, prompts: Prompts, servers: Sequence[int | None]
) -> Outcome:
    share, others = CpuShare(), OthersShare(servers)
    outcome = await scenario.run(target, prompts)
    outcome.client_share, outcome.others_share = share.read(), others.read()
    outcome.memory_bytes = await asyncio.to_thread(tree_memory, target.pid)
    return outcome

"""Scenarios on several servers in alternation: round by round, the order turned each time.

A shared machine's speed drifts; two servers measured one after the other in the same round see
nearly the same machine, so ratios are taken round by round and their median is what counts.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from takeoff.bench.prompts import Prompts
from takeoff.bench.scenarios import Outcome, Scenario
from takeoff.bench.target import Target


@dataclass(eq=False, slots=True)
class Measured:
    """The runs of one scenario: for each target name its outcomes, a round each."""

    scenario: Scenario
    outcomes: dict[str, list[Outcome]] = field(default_factory=dict)

    def values(self, target: str, figure: str) -> list[float]:
        """A figure's value in each round that gave one."""
        return [out.figures[figure] for out in self.outcomes[target] if figure in out.figures]

    def median(self, target: str, figure: str) -> float | None:
        """The middle one of the rounds; None when every round failed."""
        values = self.values(target, figure)
        return statistics.median(values) if values else None

    def ratio(self, target: str, other: str, figure: str) -> float | None:
        """Median over the rounds of `target`'s value by `other`'s; None when no round has both."""
        pairs = zip(self.outcomes[target], self.outcomes[other], strict=True)
        ratios = [
            a.figures[figure] / b.figures[figure]
            for a, b in pairs
            if figure in a.figures and b.figures.get(figure)
        ]
        return statistics.median(ratios) if ratios else None

    def errors(self, target: str) -> list[str]:
        return [error for outcome in self.outcomes[target] for error in outcome.errors]


async def compare(
    targets: Sequence[Target],
    scenarios: Sequence[Scenario],
    *,
    rounds: int,
    seed: int,
    pause_s: float,
    on_run: Callable[[str, str], None],
) -> list[Measured]:
    """Run every scenario `rounds` times on every target, with a pause after each run.

    `on_run(scenario, target)` is called before each.
    """
    measured = [Measured(scenario, {target.name: [] for target in targets}) for scenario in scenarios]
    for number in range(rounds):
        order = targets if number % 2 == 0 else list(reversed(targets))
        for place, each in enumerate(measured):
            for target in order:
                on_run(each.scenario.name, target.name)
                prompts = Prompts(seed + number * len(measured) + place)
                each.outcomes[target.name].append(await each.scenario.run(target, prompts))
                await asyncio.sleep(pause_s)
    return measured

"""Measured figures as a table for people and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from takeoff.bench.comparison import Measured
from takeoff.bench.target import Target


def rows(measured: Sequence[Measured], targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    """(work, figure, a value for each target, ratio of the first to each other) as text."""
    first, *others = [target.name for target in targets]
    for each in measured:
        for number, figure in enumerate(each.scenario.figures):
            values = [_text(each.median(name, figure.name)) for name in (first, *others)]
            ratios = [_text(each.ratio(first, name, figure.name)) for name in others]
            title = each.scenario.title if number == 0 else ""
            yield (title, f"{figure.name}, {figure.unit}", *values, *ratios)


def header(targets: Sequence[Target]) -> tuple[str, ...]:
    """The titles of the columns of `rows`."""
    first, *others = [target.name for target in targets]
    return ("work", "figure", first, *others, *(f"{first} / {name}" for name in others))


def as_json(measured: Sequence[Measured], targets: Sequence[Target], conditions: dict[str, Any]) -> Any:
    """Everything that was measured, every round of it."""
    names = [target.name for target in targets]
    return {
        "conditions": conditions,
        "targets": [{"name": target.name, "model": target.model} for target in targets],
        "scenarios": [
            {
                "name": each.scenario.name,
                "title": each.scenario.title,
                "figures": [
                    {
                        "name": figure.name,
                        "unit": figure.unit,
                        "higher_is_better": figure.higher_is_better,
                        "rounds": {name: each.values(name, figure.name) for name in names},
                        "median": {name: each.median(name, figure.name) for name in names},
                        "ratio": {name: each.ratio(names[0], name, figure.name) for name in names[1:]},
                    }
                    for figure in each.scenario.figures
                ],
                "errors": {name: each.errors(name) for name in names},
            }
            for each in measured
        ],
    }


def error_lines(measured: Sequence[Measured], targets: Sequence[Target]) -> Iterator[str]:
    """One line for each scenario and target that had errors."""
    for each in measured:
        for target in targets:
            if errors := each.errors(target.name):
                count = f"{len(errors)} requests failed"
                yield f"{each.scenario.name}, {target.name}: {count}, first: {errors[0]}"


def _text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"

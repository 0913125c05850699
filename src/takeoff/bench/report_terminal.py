"""Measured figures as tables for people, and what is wrong with them as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from takeoff.bench.client import REFUSALS
from takeoff.bench.comparison import Measured
from takeoff.bench.target import Target

CLIENT_SHARE_LIMIT = 0.7  # of a core: above it the client may be what is measured
OTHERS_LIMIT = 0.1  # of a core: above it another program slowed the server
LATENESS_LIMIT_S = 0.02

REQUEST_COLUMNS = (
    "work",
    "server",
    "requests",
    "errors",
    *map(str, REFUSALS),
    "memory, MB",
    "client, % of a core",
)


def rows(measured: Sequence[Measured], targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    """(work, figure, number of values, a value for each target, ratio of the first to each other) as text."""
    first, *others = [target.name for target in targets]
    for each in measured:
        for number, figure in enumerate(each.scenario.figures):
            values = [shown(each.median(name, figure.name)) for name in (first, *others)]
            ratios = [shown(each.ratio(first, name, figure.name)) for name in others]
            title = each.scenario.title if number == 0 else ""
            count = str(each.count(first, figure.name))
            yield (title, f"{figure.name}, {figure.unit}", count, *values, *ratios)


def header(targets: Sequence[Target]) -> tuple[str, ...]:
    """The titles of the columns of `rows`."""
    first, *others = [target.name for target in targets]
    return ("work", "figure", "of", first, *others, *(f"{first} / {name}" for name in others))


def request_rows(measured: Sequence[Measured], targets: Sequence[Target]) -> Iterator[tuple[str, ...]]:
    """What became of the requests of each work on each server; under `REQUEST_COLUMNS`."""
    for each in measured:
        for number, target in enumerate(targets):
            memory = each.memory_bytes(target.name)
            yield (
                each.scenario.title if number == 0 else "",
                target.name,
                str(each.num_requests(target.name)),
                str(len(each.errors(target.name))),
                *(str(each.refusals(target.name, status)) for status in REFUSALS),
                "unknown" if memory is None else f"{memory / 1e6:.0f}",
                f"{100 * each.client_share(target.name):.0f}",
            )


def warning_lines(measured: Sequence[Measured], targets: Sequence[Target]) -> Iterator[str]:
    """One line for each scenario and target that had errors, or where the client was too slow."""
    for each in measured:
        for target in targets:
            work = f"{each.scenario.name}, {target.name}"
            if errors := each.errors(target.name):
                yield f"{work}: {len(errors)} requests failed, first: {errors[0]}"
            share, late = each.client_share(target.name), each.lateness_s(target.name)
            if share > CLIENT_SHARE_LIMIT:
                yield f"{work}: the client took {100 * share:.0f} % of a core, so it may be what was measured"
            if (others := each.others_share(target.name) or 0.0) > OTHERS_LIMIT:
                yield f"{work}: other programs took {100 * others:.0f} % of a core while it was measured"
            if late > LATENESS_LIMIT_S:
                yield f"{work}: requests left up to {1e3 * late:.0f} ms late (p99): the client was too slow"


def shown(value: float | None) -> str:
    """Three digits; a dash where there is no value."""
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"

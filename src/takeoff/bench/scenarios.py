"""What is asked: the scenarios by name, and the figures that each yields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from takeoff.bench.measures import PERCENTS
from takeoff.bench.runs import (
    Run,
    Terms,
    busy_streams,
    clients_leave,
    leave_mid_stream,
    mixed,
    poisson,
    prompts_between,
    random_ends,
    repeat_input,
    search_goodput,
    shared_prefix,
)

DEFAULT_LEVELS = (1, 8, 32)  # streams at a time
NAMES = {1: "one", 8: "eight", 32: "thirty-two"}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a scenario yields."""

    name: str
    unit: str
    higher_is_better: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """`num_streams` is how many are always busy, where the scenario is a level of the sweep."""

    name: str
    title: str
    figures: tuple[Figure, ...]  # the first is the one to look at
    run: Run
    num_streams: int | None = None
    is_default: bool = True


def _spread(name: str) -> tuple[Figure, ...]:
    return tuple(Figure(f"{name}_p{percent}", "s") for percent in PERCENTS)


_RATE = Figure("rate", "tokens/s", higher_is_better=True)
_LATENCIES = (*_spread("ttft"), *_spread("itl"), *_spread("tpot"))
_GOOD = (
    Figure("good_share", "of requests", higher_is_better=True),
    Figure("good_rate", "requests/s", higher_is_better=True),
    Figure("offered", "requests/s", higher_is_better=True),
)


def all_scenarios(terms: Terms) -> tuple[Scenario, ...]:
    """Every scenario there is, in the order in which they run."""
    return (*_sweep(terms.levels), *_mixtures(), *_disturbances(), *_at_rates(terms))


def _sweep(levels: Sequence[int]) -> tuple[Scenario, ...]:
    return tuple(
        Scenario(
            NAMES.get(level, f"streams-{level}"),
            f"{level} stream{'s' if level > 1 else ''} of 32 to 192 tokens",
            (_RATE, *_LATENCIES),
            busy_streams(level),
            level,
        )
        for level in sorted(set(levels))
    )


def _mixtures() -> tuple[Scenario, ...]:
    return (
        Scenario(
            "shared-prefix",
            "16 requests at once with a common prefix of 800 words, cold",
            (*_spread("ttft"), Figure("ttft_max", "s")),
            shared_prefix,
        ),
        Scenario(
            "mixed",
            "8 clients, prompts of 20 to 60 words and every fourth of 600 to 800",
            (_RATE, *_spread("ttft_short"), *_spread("ttft_long"), *_spread("itl"), *_spread("tpot")),
            mixed,
        ),
        Scenario(
            "random-ends",
            "8 streams that end at random, after 64 tokens on average",
            (_RATE, *_LATENCIES),
            random_ends,
        ),
        Scenario(
            "repeat-input",
            "1 stream of 192 tokens that writes the 8 records of its prompt again, with one change",
            (_RATE, *_LATENCIES),
            repeat_input,
            is_default=False,
        ),
    )


def _disturbances() -> tuple[Scenario, ...]:
    return (
        Scenario(
            "prompts-between",
            "8 streams decode while four prompts of 900 words arrive",
            (
                Figure("gap_p99_ratio", "x alone"),
                Figure("gap_alone", "s"),
                Figure("gap_p99", "s"),
                Figure("prompts_done", "s"),
                _RATE,
            ),
            prompts_between,
        ),
        Scenario(
            "clients-leave",
            "16 clients leave in the middle, then a small request",
            (Figure("ratio", "x idle"), Figure("after", "s"), Figure("idle", "s")),
            clients_leave,
        ),
        Scenario(
            "leave-mid-stream",
            "16 streams, every other is left at random; those that stay",
            (*_spread("itl"), *_spread("ttft"), Figure("left", "streams"), Figure("freed", "s")),
            leave_mid_stream,
        ),
    )


def _at_rates(terms: Terms) -> tuple[Scenario, ...]:
    promise = terms.promise
    work = "300-token prompts with a common start of 200, 100-token answers"
    return (
        Scenario(
            "poisson",
            f"{terms.rate:g} requests/s at random times; {work}",
            (*_GOOD, _RATE, *_LATENCIES),
            poisson(terms),
        ),
        Scenario(
            "goodput",
            f"highest rate with TTFT p95 ≤ {promise.ttft_s:g} s and ITL p99 ≤ {promise.itl_s:g} s; {work}",
            (Figure("max_rate", "requests/s", higher_is_better=True), *_GOOD, _RATE, *_LATENCIES),
            search_goodput(terms),
            is_default=False,
        ),
    )


def find_scenarios(scenarios: Sequence[Scenario], names: Sequence[str]) -> list[Scenario]:
    """The scenarios of these names, in their own order; those that run by default if there are no names."""
    return [each for each in scenarios if (each.name in names if names else each.is_default)]

"""How rounds become figures, and how the report reads."""

from __future__ import annotations

import asyncio

import pytest

from takeoff.bench.client import Trace
from takeoff.bench.comparison import Measured, compare
from takeoff.bench.measures import Reading
from takeoff.bench.prompts import Prompts
from takeoff.bench.report_json import as_json
from takeoff.bench.report_terminal import header, request_rows, rows, warning_lines
from takeoff.bench.runs import Outcome
from takeoff.bench.scenarios import Figure, Scenario
from takeoff.bench.target import Target, find_target
from takeoff.errors import TargetError

A, B = Target("a", "127.0.0.1", 1, "m"), Target("b", "127.0.0.1", 2, "m")


def scripted(values: dict[str, list[float | None]]) -> tuple[Scenario, list[tuple[str, str]]]:
    """A scenario that yields these values in turn, None failing; and the list of (target, prompt)."""
    runs: list[tuple[str, str]] = []

    async def run(target: Target, prompts: Prompts) -> Outcome:
        runs.append((target.name, prompts.text(5)))
        value = values[target.name].pop(0)
        failed = Trace(0.0, error="status 500")
        return Outcome({"rate": Reading(value, 2)}) if value is not None else Outcome({}, [failed])

    return Scenario("s", "Scripted", (Figure("rate", "tokens/s", higher_is_better=True),), run), runs


async def measure(values: dict[str, list[float | None]]) -> tuple[Measured, list[tuple[str, str]]]:
    scenario, runs = scripted(values)
    measured = Measured.nothing_of(scenario, [A, B])
    await compare([A, B], [measured], rounds=3, seed=1, pause_s=0.0, on_run=lambda *names: None)
    return measured, runs


@pytest.mark.anyio
async def test_servers_alternate_and_get_the_same_new_prompts_each_round() -> None:
    _, runs = await measure({"a": [1, 1, 1], "b": [1, 1, 1]})
    assert [name for name, _ in runs] == ["a", "b", "b", "a", "a", "b"]
    prompts = [prompt for _, prompt in runs]
    assert prompts[0] == prompts[1]
    assert len(set(prompts)) == 3


@pytest.mark.anyio
async def test_an_interrupted_comparison_keeps_its_whole_rounds() -> None:
    scenario, runs = scripted({"a": [1, 2, 3], "b": [4, 5, 6]})
    measured = Measured.nothing_of(scenario, [A, B])

    def on_run(_scenario: str, target: str) -> None:
        if (len(runs), target) == (3, "a"):  # b of the second round has run, a has not
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await compare([A, B], [measured], rounds=3, seed=1, pause_s=0.0, on_run=on_run)
    assert (measured.values("a", "rate"), measured.values("b", "rate")) == ([1], [4])
    assert measured.ratio("a", "b", "rate") == 0.25


@pytest.mark.anyio
async def test_a_ratio_is_the_median_of_the_rounds_ratios() -> None:
    measured, _ = await measure({"a": [10, 40, 30], "b": [10, 20, 30]})
    assert measured.median("a", "rate") == 30
    assert measured.ratio("a", "b", "rate") == 1.0, "the ratio of medians would be 1.5"


@pytest.mark.anyio
async def test_a_failed_round_counts_for_nothing_but_is_told() -> None:
    measured, _ = await measure({"a": [10, None, 30], "b": [20, 20, 20]})
    assert measured.values("a", "rate") == [10, 30]
    assert measured.ratio("a", "b", "rate") == 1.0
    assert list(warning_lines([measured], [A, B])) == ["s, a: 1 requests failed, first: status 500"]


@pytest.mark.anyio
async def test_the_table_and_the_json_have_every_figure() -> None:
    measured, _ = await measure({"a": [10, 20, 30], "b": [5, 10, 15]})
    assert header([A, B]) == ("work", "figure", "of", "a", "b", "a / b")
    assert list(rows([measured], [A, B])) == [("Scripted", "rate, tokens/s", "6", "20", "10", "2")]
    data = as_json([measured], [A, B], {"rounds": 3}, ["a carries 2."])
    figure = data["scenarios"][0]["figures"][0]
    assert figure["rounds"] == {"a": [10, 20, 30], "b": [5, 10, 15]}
    assert figure["ratio"] == {"b": 2.0}
    assert figure["count"] == {"a": 6, "b": 6}
    assert data["verdict"] == ["a carries 2."]


@pytest.mark.anyio
async def test_refusals_memory_and_a_slow_client_are_told() -> None:
    measured, _ = await measure({"a": [10, 20, 30], "b": [5, 10, 15]})
    busy = measured.outcomes["a"][1]
    busy.traces = [Trace(0.0, error="status 429: no", status=429), Trace(0.0, error="no", status=503)]
    busy.traces.append(Trace(0.0, error="died", planned_at=1.0, began_at=1.5))
    busy.client_share, busy.others_share, busy.memory_bytes = 0.9, 0.5, 5_000_000
    assert next(request_rows([measured], [A, B])) == ("Scripted", "a", "3", "1", "1", "1", "5", "90")
    assert list(request_rows([measured], [A, B]))[1][6] == "unknown"
    assert list(warning_lines([measured], [A, B])) == [
        "s, a: 1 requests failed, first: died",
        "s, a: the client took 90 % of a core, so it may be what was measured",
        "s, a: other programs took 50 % of a core while it was measured",
        "s, a: requests left up to 500 ms late (p99): the client was too slow",
    ]


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:1/other", "http://:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TargetError, match="is not the address of a server"):
        find_target(url)

"""How rounds become figures, and how the report reads."""

from __future__ import annotations

import pytest

from takeoff.bench.client import Trace
from takeoff.bench.comparison import Measured, compare
from takeoff.bench.prompts import Prompts
from takeoff.bench.report import as_json, error_lines, header, rows
from takeoff.bench.scenarios import Figure, Outcome, Scenario
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
        return Outcome({"rate": value}) if value is not None else Outcome({}, [failed])

    return Scenario("s", "Scripted", (Figure("rate", "tokens/s", higher_is_better=True),), run), runs


async def measure(values: dict[str, list[float | None]]) -> tuple[Measured, list[tuple[str, str]]]:
    scenario, runs = scripted(values)
    (measured,) = await compare([A, B], [scenario], rounds=3, seed=1, pause_s=0.0, on_run=lambda *names: None)
    return measured, runs


@pytest.mark.anyio
async def test_servers_alternate_and_get_the_same_new_prompts_each_round() -> None:
    _, runs = await measure({"a": [1, 1, 1], "b": [1, 1, 1]})
    assert [name for name, _ in runs] == ["a", "b", "b", "a", "a", "b"]
    prompts = [prompt for _, prompt in runs]
    assert prompts[0] == prompts[1]
    assert len(set(prompts)) == 3


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
    assert list(error_lines([measured], [A, B])) == ["s, a: 1 requests failed, first: status 500"]


@pytest.mark.anyio
async def test_the_table_and_the_json_have_every_figure() -> None:
    measured, _ = await measure({"a": [10, 20, 30], "b": [5, 10, 15]})
    assert header([A, B]) == ("work", "figure", "a", "b", "a / b")
    assert list(rows([measured], [A, B])) == [("Scripted", "rate, tokens/s", "20", "10", "2")]
    data = as_json([measured], [A, B], {"rounds": 3})
    figure = data["scenarios"][0]["figures"][0]
    assert figure["rounds"] == {"a": [10, 20, 30], "b": [5, 10, 15]}
    assert figure["ratio"] == {"b": 2.0}


@pytest.mark.parametrize(
    "url", ["https://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:1/other", "http://:x"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(TargetError, match="is not the address of a server"):
        find_target(url)

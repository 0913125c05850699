"""`takeoff bench`: the same work on one server or several, side by side."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takeoff.errors import TargetError

PAUSE_S = 0.5  # between two servers: what the last one still does must not cost the next

if TYPE_CHECKING:
    from takeoff.bench.comparison import Measured
    from takeoff.bench.scenarios import Scenario
    from takeoff.bench.target import Target


def bench(
    urls: Annotated[
        list[str] | None,
        typer.Argument(help="http://host:port of each server, or NAME=http://host:port", metavar="[URL]..."),
    ] = None,
    scenario: Annotated[
        list[str] | None, typer.Option(help="Run only this scenario; may be repeated", metavar="NAME")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each scenario runs")] = 3,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of the prompts and lengths")] = 1,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write every figure of every round here", metavar="FILE")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TAKEOFF_API_KEY", help="Key to send to every server")
    ] = None,
) -> None:
    """Measure servers that speak OpenAI's /v1/completions; several get the same work in alternation.

    The figures are medians of the rounds; a ratio is the median of the rounds' own ratios. Without a
    URL: http://127.0.0.1:8000.
    """
    from takeoff.bench.report import as_json, error_lines, header, rows
    from takeoff.bench.scenarios import SCENARIOS, find_scenarios
    from takeoff.cli.console import print_table, talk

    targets = _targets(urls or ["takeoff=http://127.0.0.1:8000"], api_key)
    known = [each.name for each in SCENARIOS]
    if unknown := [name for name in scenario or [] if name not in known]:
        raise TargetError(f"there is no scenario {unknown[0]!r}", hint=f"choose from {', '.join(known)}")
    measured = _run(targets, list(find_scenarios(scenario or [])), rounds, seed)
    right = header(targets)[2:]
    print_table(header(targets), list(rows(measured, targets)), right=right)
    for line in error_lines(measured, targets):
        talk().print(line, markup=False)
    if json_path is not None:
        conditions = {"rounds": rounds, "seed": seed, "machine": _machine()}
        json_path.write_text(json.dumps(as_json(measured, targets, conditions), indent=1) + "\n")


def _targets(urls: list[str], api_key: str | None) -> list[Target]:
    from takeoff.bench.target import find_target

    targets: list[Target] = []
    for text in urls:
        name, equals, url = text.partition("=http")
        target = find_target(f"http{url}" if equals else text, name=name if equals else None, api_key=api_key)
        if target.name in [other.name for other in targets]:
            raise TargetError(f"two servers are called {target.name!r}", hint="write NAME=http://host:port")
        targets.append(target)
    return targets


def _run(targets: list[Target], scenarios: list[Scenario], rounds: int, seed: int) -> list[Measured]:
    import asyncio

    import uvloop
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from takeoff.bench.comparison import compare
    from takeoff.cli.console import talk

    console = talk()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        task = progress.add_task("", total=rounds * len(scenarios) * len(targets), completed=-1)

        def on_run(name: str, target: str) -> None:
            progress.update(task, description=f"{name} on {target}", advance=1)

        return runner.run(
            compare(targets, scenarios, rounds=rounds, seed=seed, pause_s=PAUSE_S, on_run=on_run)
        )


def _machine() -> dict[str, Any]:
    import psutil

    from takeoff.models.machine import read_machine

    machine = read_machine()
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": machine.cores,
        "memory_bytes": psutil.virtual_memory().total,
    }

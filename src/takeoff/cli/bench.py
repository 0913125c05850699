"""`takeoff bench`: the same work on one server or several, side by side."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takeoff.errors import TargetError

PAUSE_S = 0.5  # between two servers: what the last one still does must not cost the next
MAX_STREAMS = 1024
INTERRUPTED = 130  # exit code

if TYPE_CHECKING:
    from takeoff.bench.comparison import Measured
    from takeoff.bench.scenarios import Scenario
    from takeoff.bench.target import Target


def bench(
    urls: Annotated[
        list[str] | None,
        typer.Argument(
            help="http://host:port of each server, or NAME=http://host:port; with /v1 or /generate_stream "
            "after it to say which API",
            metavar="[URL]...",
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only this scenario; may be repeated. Default: all but goodput", metavar="NAME"
        ),
    ] = None,
    streams: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=MAX_STREAMS, help="So many streams at a time; may be repeated. Default: 1, 8, 32"
        ),
    ] = None,
    rate: Annotated[
        float,
        typer.Option(min=0.05, max=1_000, help="Requests/s of poisson; where the search of goodput begins"),
    ] = 1.0,
    duration: Annotated[
        float, typer.Option(min=1, max=3_600, help="Seconds in which requests arrive at a rate")
    ] = 20.0,
    ttft_slo: Annotated[
        float, typer.Option(min=0.001, max=600, help="Promised time to the first token, in seconds")
    ] = 1.0,
    itl_slo: Annotated[
        float, typer.Option(min=0.001, max=600, help="Promised time between two tokens, in seconds")
    ] = 0.1,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each scenario runs")] = 3,
    warmup: Annotated[
        int, typer.Option(min=0, max=100, help="Requests to each server before anything counts")
    ] = 2,
    seed: Annotated[int, typer.Option(min=0, max=2**31, help="Of prompts, lengths and arrivals")] = 1,
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which a request has failed")
    ] = 600.0,
    pid: Annotated[
        list[str] | None,
        typer.Option(
            help="Process whose memory is the server's; NAME=PID if there are several servers. Default: "
            "who listens there, on this machine",
            metavar="PID",
        ),
    ] = None,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Write every figure of every request here", metavar="FILE"),
    ] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write a report with plots here", metavar="FILE")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="TAKEOFF_API_KEY", help="Key to send to every server")
    ] = None,
) -> None:
    """Measure servers that speak OpenAI's or Takeoff's API; several get the same work in alternation.

    The figures are medians of the rounds; a ratio is the median of the rounds' own ratios. Without a
    URL: http://127.0.0.1:8000.
    """
    from takeoff.bench.measures import Promise
    from takeoff.bench.runs import Terms
    from takeoff.bench.scenarios import DEFAULT_LEVELS, all_scenarios, find_scenarios
    from takeoff.bench.verdict import verdict

    promise = Promise(ttft_slo, itl_slo)
    terms = Terms(promise, rate, duration, tuple(streams or DEFAULT_LEVELS))
    known = all_scenarios(terms)
    _check_scenarios(scenario or [], [each.name for each in known])
    _check_folders([json_path, html_path])
    targets = _targets(urls or ["takeoff=http://127.0.0.1:8000"], api_key, pid or [], timeout)
    conditions = _conditions(targets)
    measured, is_whole = _run(targets, find_scenarios(known, scenario or []), rounds, seed, warmup)
    sentences = [verdict(measured, target.name, promise) for target in targets]
    _print(measured, targets, sentences)
    _write(measured, targets, conditions, sentences, json_path, html_path)
    if not is_whole:
        raise typer.Exit(INTERRUPTED)


def _check_scenarios(names: list[str], known: list[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise TargetError(
            f"there is no scenario {unknown[0]!r}",
            hint=f"choose from {', '.join(known)}; --streams N makes others of so many streams",
        )


def _check_folders(paths: list[Path | None]) -> None:
    """Before anything is measured, so that no result is lost."""
    for path in paths:
        if path is not None and not path.parent.is_dir():
            raise TargetError(f"{path.parent} is no folder to write {path.name} into", hint="make it first")


def _targets(urls: list[str], api_key: str | None, pids: list[str], timeout_s: float) -> list[Target]:
    from dataclasses import replace

    from takeoff.bench.machine import listener_pid
    from takeoff.bench.target import find_target

    targets: list[Target] = []
    for text in urls:
        name, equals, url = text.partition("=http")
        url, given_name = (f"http{url}", name) if equals else (text, None)
        target = find_target(url, name=given_name, api_key=api_key, timeout_s=timeout_s)
        if target.name in [other.name for other in targets]:
            raise TargetError(f"two servers are called {target.name!r}", hint="write NAME=http://host:port")
        targets.append(target)
    given = _pids(pids, [target.name for target in targets])
    return [
        replace(target, pid=given.get(target.name) or listener_pid(target.host, target.port))
        for target in targets
    ]


def _pids(texts: list[str], names: list[str]) -> dict[str, int]:
    """The process of each server that was given one."""
    given: dict[str, int] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        name = name if equals or len(names) > 1 else names[0]
        if name not in names or not number.isdecimal() or not 0 < int(number) < 2**31:
            raise TargetError(
                f"--pid {text} names no process of a server",
                hint=f"write NAME=PID, NAME of {', '.join(names)}",
            )
        given[name] = int(number)
    return given


def _run(
    targets: list[Target], scenarios: list[Scenario], rounds: int, seed: int, num_warm_up: int
) -> tuple[list[Measured], bool]:
    """What was measured, and whether that is everything: Ctrl-C leaves the rounds before it."""
    import asyncio

    import uvloop
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from takeoff.bench.comparison import Measured, compare, warm_up
    from takeoff.cli.console import talk

    console = talk()
    measured = [Measured.nothing_of(each, targets) for each in scenarios]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        task = progress.add_task("warming up", total=rounds * len(scenarios) * len(targets), completed=-1)

        def on_run(name: str, target: str) -> None:
            progress.update(task, description=f"{name} on {target}", advance=1)

        async def measure() -> None:
            await warm_up(targets, num_requests=num_warm_up, seed=seed)
            await compare(targets, measured, rounds=rounds, seed=seed, pause_s=PAUSE_S, on_run=on_run)

        try:
            runner.run(measure())
        except KeyboardInterrupt:
            measured = [each for each in measured if all(each.outcomes.values())]
            if not measured:
                raise
            console.print("interrupted: this is what was measured until then")
            return measured, False
        progress.update(task, advance=1)
        return measured, True


def _print(measured: list[Measured], targets: list[Target], sentences: list[str]) -> None:
    from takeoff.bench.report_terminal import REQUEST_COLUMNS, header, request_rows, rows, warning_lines
    from takeoff.cli.console import print_table, talk

    print_table(header(targets), list(rows(measured, targets)), right=header(targets)[2:])
    sys.stdout.write("\n")
    print_table(REQUEST_COLUMNS, list(request_rows(measured, targets)), right=REQUEST_COLUMNS[2:])
    for line in warning_lines(measured, targets):
        talk().print(line, markup=False)
    sys.stdout.write("\n" + "\n".join(sentences) + "\n")


def _write(
    measured: list[Measured],
    targets: list[Target],
    conditions: dict[str, Any],
    sentences: list[str],
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    from takeoff.bench.report_html import as_html
    from takeoff.bench.report_json import as_json

    if json_path is not None:
        json_path.write_text(json.dumps(as_json(measured, targets, conditions, sentences)) + "\n")
    if html_path is not None:
        html_path.write_text(as_html(measured, targets, conditions, sentences), encoding="utf-8")


def _conditions(targets: list[Target]) -> dict[str, Any]:
    """Everything that one must know to measure the same again. No secrets."""
    from importlib.metadata import version

    import psutil

    from takeoff.bench.machine import command_line, machine, without_secrets
    from takeoff.models.machine import read_machine

    return {
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine() | {"cores": read_machine().cores},
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
        "takeoff": version("takeoff-server"),
        "flags": without_secrets(sys.argv[1:]),
        "servers": {
            target.name: {
                "url": target.url,
                "api": target.api.path,
                "model": target.model,
                "command": command_line(target.pid) or "unknown",
            }
            for target in targets
        },
    }

"""`takeoff batch`: answer a file of requests, in OpenAI's batch format."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from takeoff.cli.options import takes_settings

if TYPE_CHECKING:
    from takeoff.batch.files import Answer, OutputFile
    from takeoff.service.launching import PlannedReader
    from takeoff.settings import Settings

EXIT_SOME_FAILED = 3


@takes_settings
def batch(
    flags: dict[str, Any],
    requests: Annotated[Path, typer.Argument(help="File of requests, one a line", metavar="IN.jsonl")],
    answers: Annotated[Path, typer.Argument(help="File of answers, one a line", metavar="OUT.jsonl")],
) -> None:
    """Answer a file of requests in OpenAI's batch format, without a server.

    Run it again after an interruption: what OUT.jsonl holds is not computed again. Exits with 3 if all
    is answered, and some of the answers are errors.
    """
    from takeoff.batch.files import OutputFile, check_requests
    from takeoff.cli.console import talk
    from takeoff.cli.serve import plan_told
    from takeoff.observe.logs import set_up_logs
    from takeoff.service.launching import for_own_use
    from takeoff.settings import load_settings

    settings = for_own_use(load_settings(flags))
    set_up_logs(settings.log_level)
    asked = check_requests(requests)
    with OutputFile(answers, asked) as output:
        done = output.done
        num_failed = done.num_failed
        if done.custom_ids:
            talk().print(f"{len(done.custom_ids):,} of {len(asked):,} are answered already")
        if len(done.custom_ids) < len(asked):
            num_failed += _run(settings, plan_told(settings), requests, output, len(asked))
    failed = f", {num_failed:,} of them with an error" if num_failed else ""
    talk().print(f"{answers}: {len(asked):,} answers{failed}", markup=False)
    if num_failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _run(
    settings: Settings, planned: list[PlannedReader], requests: Path, output: OutputFile, num_asked: int
) -> int:
    """Answer what is not answered yet; returns how many of these answers are errors."""
    import uvloop
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from takeoff.cli.console import talk

    console = talk()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_failed = 0
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("answering", total=num_asked, completed=len(output.done.custom_ids))

        def take(answer: Answer) -> None:
            nonlocal num_failed
            output.write(answer)
            num_failed += not answer.is_good
            bar.update(task, advance=1, description=f"{num_failed:,} errors" if num_failed else "answering")

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_answer_all(settings, planned, requests, output.done.custom_ids, take))
    return num_failed


async def _answer_all(
    settings: Settings,
    planned: list[PlannedReader],
    requests: Path,
    done: set[str],
    take: Callable[[Answer], None],
) -> None:
    from takeoff.batch.files import read_requests
    from takeoff.service.launching import launched

    async with launched(settings, planned) as service:
        from takeoff.batch.door import Door  # while the model loads
        from takeoff.batch.runner import run_batch

        await service.wait_ready()
        num_open = sum(reader.num_open for reader in planned)
        await run_batch(Door(service, settings), read_requests(requests, done), num_open, take)

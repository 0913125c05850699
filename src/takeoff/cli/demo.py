"""`takeoff demo`: what the server promises, to look at."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from takeoff.demo.outcome import Outcome
    from takeoff.demo.show import Show, Watch
    from takeoff.settings import Settings

EXIT_BROKEN = 1
INTERRUPTED = 130  # exit code

demo_app = typer.Typer(no_args_is_help=True, help="See with your own eyes what the server promises.")


@demo_app.callback()
def demo() -> None:
    """See with your own eyes what the server promises."""


@demo_app.command()
def unbreakable(
    streams: Annotated[int, typer.Option(min=1, max=64, help="Texts that are streamed at once")] = 16,
    tokens: Annotated[int, typer.Option(min=8, max=2_000, help="Tokens of each text")] = 160,
    every: Annotated[
        float,
        typer.Option(
            min=0.1, max=600, help="Seconds of text between two kills, counted when all streams go on"
        ),
    ] = 1.5,
    kills: Annotated[
        int | None, typer.Option(min=1, max=1_000, help="Kill so many engines at most; default: no limit")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Name in the store or catalogue, URL or path of a GGUF model")
    ] = "smollm2",
    deterministic: Annotated[
        bool,
        typer.Option(
            help="Every text must be that of the undisturbed run. Without it a pause is shorter, but a text "
            "may go on in other words behind a kill"
        ),
    ] = True,
    replay: Annotated[
        bool, typer.Option(help="Without it streams break off: what it would be without the protection")
    ] = True,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the figures and the texts as JSON")
    ] = False,
    home: Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")] = None,
) -> None:
    """Kill the engine under its streams, again and again, and see whether the text goes on.

    Starts a server of its own on a free port, streams the same texts twice, undisturbed and with SIGKILL to
    its engine every few seconds, and compares them. Ctrl-C ends it and tells what was until then. Exits
    with 1 if a character was lost or doubled, a stream broke off, a deterministic text is another one, or
    nothing was killed; with 130 if it was interrupted and none of that had happened.
    """
    from takeoff.cli.console import talk
    from takeoff.demo.outcome import judge
    from takeoff.demo.show import Plan, Show
    from takeoff.settings import load_settings

    settings = load_settings({"home": home})
    _fetch(model, settings)
    show = Show(Plan(model, streams, tokens, every, kills, deterministic, replay))
    is_whole = _perform(show, settings)
    if not show.disturbed:
        talk().print("interrupted before anything was killed")
        raise typer.Exit(INTERRUPTED)
    outcome = judge(show, is_interrupted=not is_whole)
    _tell(outcome, as_json=json_output)
    if not outcome.is_kept or (is_whole and not outcome.num_kills):
        raise typer.Exit(EXIT_BROKEN)
    if not is_whole:
        raise typer.Exit(INTERRUPTED)


def _fetch(model: str, settings: Settings) -> None:
    """Bring the model into the store, where the server will find it.

    Raises:
        PullError, ModelError: it can't be had, or makes no text.
    """
    from takeoff.cli.console import PullProgress
    from takeoff.errors import ModelError
    from takeoff.models.store import Store
    from takeoff.request import Task

    with PullProgress() as progress:
        stored = Store(settings.store, settings.access_token).pull(model, progress)
    if stored.task is not Task.GENERATE:
        raise ModelError(f"{stored.name} does not generate text", hint="takeoff models --available")


def _perform(show: Show, settings: Settings) -> bool:
    """Run it before somebody's eyes. Returns whether it came to its end; Ctrl-C is no error."""
    from takeoff.demo.show import perform

    with _watch(show) as watch:
        try:
            asyncio.run(perform(show, ["--home", str(settings.store)], watch))
        except KeyboardInterrupt:
            return False
    return True


def _watch(show: Show) -> AbstractContextManager[Watch]:
    """A picture on a terminal, lines elsewhere."""
    from takeoff.cli.console import talk
    from takeoff.demo.screen import Screen

    return Screen(show) if talk().is_terminal else nullcontext(Lines())


class Lines:
    """Tells in lines what happens."""

    def note(self, text: str) -> None:
        from takeoff.cli.console import talk

        talk().print(text, markup=False)

    def draw(self) -> None:
        """Lines are for what happens, not for what is."""


def _tell(outcome: Outcome, *, as_json: bool) -> None:
    from rich.console import Console

    from takeoff.cli.console import print_json, print_table

    if as_json:
        print_json(outcome.figures())
        return
    print_table(("figure", "value"), list(outcome.rows()))
    style = "bold green" if outcome.is_kept and outcome.num_kills else "bold red"
    Console(highlight=False, soft_wrap=not sys.stdout.isatty()).print(
        outcome.sentence(), style=style, markup=False
    )

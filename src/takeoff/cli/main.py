"""The `takeoff` command: its subcommands, and how their errors look.

A command's module imports what is heavy inside its function, so that `takeoff --help` is quick.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from takeoff.cli.batch import batch
from takeoff.cli.bench import bench
from takeoff.cli.cluster import cluster_app
from takeoff.cli.config import config_app
from takeoff.cli.demo import demo_app
from takeoff.cli.doctor import doctor
from takeoff.cli.keys import keys_app
from takeoff.cli.models import models
from takeoff.cli.optimize import optimize
from takeoff.cli.pull import pull
from takeoff.cli.serve import serve
from takeoff.errors import TakeoffError

EXIT_ERROR = 1  # typer itself exits with 2 on wrong usage, 130 when interrupted

app = typer.Typer(
    name="takeoff",
    help="Turn this machine into a private LLM server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(pull)
app.command()(models)
app.command()(optimize)
app.command()(batch)
app.command()(bench)
app.command()(doctor)
app.add_typer(cluster_app, name="cluster")
app.add_typer(demo_app, name="demo")
app.add_typer(config_app, name="config")
app.add_typer(keys_app, name="keys")


@app.callback()
def takeoff() -> None:
    """Turn this machine into a private LLM server."""


def main() -> None:
    """Run the command line and exit: 0 done, 1 an error, 2 wrong usage, 130 interrupted.

    An error that we foresaw is a line and a hint; TAKEOFF_LOG_LEVEL=debug shows where it came from.
    """
    try:
        app(prog_name="takeoff")
    except TakeoffError as exc:
        from takeoff.cli.console import print_error

        if os.environ.get("TAKEOFF_LOG_LEVEL", "").lower() == "debug":
            traceback.print_exception(exc)
        print_error(exc)
        sys.exit(EXIT_ERROR)

"""`takeoff pull`: bring a model into the store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pull(
    model: Annotated[
        str,
        typer.Argument(
            help="Catalogue name, hf:org/repo[:file or quantisation], https: or file: URL, or path"
        ),
    ] = "smollm2",
    sha256: Annotated[
        str | None, typer.Option("--sha256", help="What the file of a URL must hash to", metavar="HEX")
    ] = None,
    home: Annotated[Path | None, typer.Option(help="Folder of the model store  [env: TAKEOFF_HOME]")] = None,
) -> None:
    """Fetch a model into the store; its path is printed.

    What an interrupted pull left is used again where the source can go on from it.
    """
    from takeoff.cli.console import PullProgress, talk
    from takeoff.models.store import Store
    from takeoff.settings import load_settings

    settings = load_settings({"home": home})
    with PullProgress() as progress:
        stored = Store(settings.store).pull(model, progress, sha256=sha256)
    facts = f"{stored.architecture} {stored.quantisation}, {stored.file_bytes / 1e6:,.0f} MB"
    talk().print(
        f"{stored.name}: {facts}, context {stored.context_length:,}",
        markup=False,
    )
    typer.echo(stored.path)

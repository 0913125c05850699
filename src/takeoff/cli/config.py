"""`takeoff config`: what a manifest amounts to, and the reference of all settings."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from takeoff.settings import Settings

config_app = typer.Typer(no_args_is_help=True, help="Check a manifest; list the settings.")


@config_app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The manifest, a YAML file", metavar="FILE")],
) -> None:
    """Print what a manifest amounts to, or everything that is wrong with it. Variables play no part."""
    from takeoff.settings import load_settings

    _print_meaning(load_settings({"manifest": file}, {}))


class Page(StrEnum):
    """A reference that is made from the source."""

    SETTINGS = "settings"
    OPENAI = "openai"
    ANTHROPIC = "anthropic"


@config_app.command()
def reference(
    page: Annotated[
        Page, typer.Argument(help="Of the settings, or of the fields of OpenAI's or Anthropic's API")
    ] = Page.SETTINGS,
) -> None:
    """Print a reference page, as Markdown."""
    if page is Page.OPENAI:
        from takeoff.http.openai.reference import openai_page

        sys.stdout.write(openai_page())
        return
    if page is Page.ANTHROPIC:
        from takeoff.http.anthropic.reference import anthropic_page

        sys.stdout.write(anthropic_page())
        return
    from takeoff.cli.reference import reference_page

    sys.stdout.write(reference_page())


def _print_meaning(settings: Settings) -> None:
    from takeoff.cli.console import print_table
    from takeoff.settings.fields import DOORS

    readers = settings.readers or {"(from the model)": settings}
    print_table(
        ("reader", "model", "group", "device"),
        [(name, reader.model, reader.consumer_group, reader.device) for name, reader in readers.items()],
    )
    print_table(("door", "port"), [(_door(field), _port(getattr(settings, field))) for field in DOORS])
    if settings.without_effect:
        print_table(("without effect here",), [(name,) for name in settings.without_effect])


def _door(field: str) -> str:
    return "front" if field == "port" else field.removesuffix("_port")


def _port(port: int | None) -> str:
    return "off" if port is None else str(port)

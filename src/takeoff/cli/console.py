"""How the command line talks: data on stdout, everything said to a person on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from takeoff.errors import TakeoffError


def talk() -> Console:
    """The console for people, on stderr."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def print_error(error: TakeoffError) -> None:
    """One line with the fact, one with what to do."""
    console = talk()
    console.print(f"[bold red]error:[/] {escape(error.message)}")
    if error.hint:
        console.print(f"[bold cyan]hint:[/] {escape(error.hint)}")


class Bar:
    """One bar on a terminal; elsewhere nothing is drawn. A context manager."""

    def __init__(self, *columns: ProgressColumn, total: float | None, transient: bool) -> None:
        self._console = talk()
        self._bar = Progress(
            *columns, console=self._console, disable=not self._console.is_terminal, transient=transient
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()


class PullProgress(Bar):
    """A pull's stages as one bar on a terminal, as one line each elsewhere."""

    def __init__(self) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            total=None,
            transient=False,
        )
        self._bar.update(self._task, visible=False)

    def stage(self, label: str, total_bytes: int | None) -> None:
        if not self._console.is_terminal:
            size = f" ({total_bytes / 1e6:,.0f} MB)" if total_bytes is not None else ""
            self._console.print(escape(f"{label}{size}"))
            return
        self._bar.reset(self._task, description=escape(label), total=total_bytes, visible=True)

    def at(self, done_bytes: int) -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, completed=done_bytes)

    def note(self, text: str) -> None:
        self._console.print(escape(text))


def print_json(value: object) -> None:
    """Data for programs, on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> None:
    """A table on a terminal; tab-separated lines with a header where stdout is read by a program.

    Args:
        columns: the headings.
        rows: one cell per column.
        right: headings of the columns that are set flush right.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            sys.stdout.write("\t".join(cell.replace("\t", " ") for cell in row) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)

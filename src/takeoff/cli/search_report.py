"""What one sees of a search: a bar while it runs, then a table of what was tried, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from takeoff.cli.console import Bar, print_json, talk
from takeoff.models.machine import read_machine
from takeoff.models.optimize.goal import Goal, Measured
from takeoff.models.optimize.judge import gain_text
from takeoff.models.optimize.outcome import figures_json, limits, prediction
from takeoff.models.optimize.search import Found, Row
from takeoff.models.stored import StoredModel


class SearchProgress(Bar):
    """The time that is used, and what is tried: one bar on a terminal, a line a trial elsewhere."""

    def __init__(self, time_limit_s: float) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn(f"of at most {time_limit_s:g} s"),
            total=1.0,
            transient=True,
        )

    def trying(self, what: str, share: float) -> None:
        self._bar.update(self._task, description=escape(what), completed=share)

    def tried(self, row: Row) -> None:
        cells = [cell for cell in _cells(row) if cell]
        self._console.print(escape("  ".join(cells)))


def print_found(
    found: Found, model: StoredModel, goal: Goal, sentence: str, time_limit_s: float, *, as_json: bool
) -> None:
    """All that was tried and what came of it, for people; as JSON on stdout, too, where that is wanted."""
    predicted, limiting = prediction(found, goal), limits(found, read_machine().cores)
    console = talk()
    console.print(_table(found.rows))
    if not found.is_complete:
        console.print(f"{time_limit_s:g} s were not enough to try everything: --time-limit", markup=False)
    for line in (f"{model.name}: {sentence}", predicted, limiting):
        console.print(line, markup=False)
    if as_json:
        print_json(_found_json(found, sentence, predicted, limiting))


def _table(rows: Sequence[Row]) -> Table:
    """What was tried, a line each."""
    streams = sorted({number for row in rows if row.measured for number in row.measured.step_s})
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("setting")
    for heading in ("KL", "perplexity", *(f"{number} streams" for number in streams), "prefill", "memory"):
        table.add_column(heading, justify="right")
    table.add_column("gain", justify="right")
    table.add_column("verdict")
    for row in rows:
        quality, measured = row.quality, row.measured
        table.add_row(
            escape(row.label),
            f"{quality.kl:.4f}" if quality else "",
            f"× {quality.perplexity_ratio:.3f}" if quality else "",
            *(_rate(measured, number) for number in streams),
            f"{1 / measured.prefill_token_s:,.0f}" if measured else "",
            f"{measured.memory_bytes / 1e6:,.0f} MB" if measured else "",
            _gain(row),
            escape(row.verdict),
        )
    return table


def _found_json(found: Found, sentence: str, prediction: str, limits: str) -> dict[str, Any]:
    """The result for programs."""
    return {
        "settings": found.best.names,
        "weights": str(found.weights.path),
        "gain": found.gain,
        "before": figures_json(found.measured_before),
        "after": figures_json(found.measured),
        "kl": None if found.quality is None else found.quality.kl,
        "perplexity_ratio": None if found.quality is None else found.quality.perplexity_ratio,
        "is_complete": found.is_complete,
        "sentence": sentence,
        "prediction": prediction,
        "limits": limits,
        "tried": [_row_json(row) for row in found.rows],
    }


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "setting": row.label,
        "verdict": row.verdict,
        "kl": None if row.quality is None else row.quality.kl,
        "perplexity_ratio": None if row.quality is None else row.quality.perplexity_ratio,
        "figures": None if row.measured is None else figures_json(row.measured),
        "gain": row.gain,
    }


def _cells(row: Row) -> list[str]:
    return [
        f"{row.label}:",
        row.verdict,
        _gain(row),
        f"KL {row.quality.kl:.4f}" if row.quality else "",
    ]


def _rate(measured: Measured | None, streams: int) -> str:
    if measured is None or streams not in measured.step_s:
        return ""
    return f"{streams / measured.step_s[streams]:,.0f} t/s"


def _gain(row: Row) -> str:
    return "" if row.gain is None else gain_text(row.gain)

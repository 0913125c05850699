"""The report as one HTML file that fetches nothing: the sentence, the plots, the tables, the conditions."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from typing import Any

from takeoff.bench.comparison import Measured
from takeoff.bench.measures import nearest_rank
from takeoff.bench.plot import Line, Point, plot
from takeoff.bench.report_terminal import REQUEST_COLUMNS, header, request_rows, rows, warning_lines
from takeoff.bench.target import Target

TIME_PARTS = 40  # into which a run is cut, to show its gaps over time

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2024; background: #fff; margin: 2rem auto;
  max-width: 84rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
.verdict { font-size: 1.15rem }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1rem }
svg { width: 100%; height: auto } .table { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #e3e6ea; text-align: left; vertical-align: top }
th, td + td { white-space: nowrap } td:first-child { min-width: 10rem }
.number { text-align: right; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8; padding: 1rem }
@media (max-width: 40rem) { svg text { font-size: 17px } th, td { padding: .2rem .4rem } }
"""
_WORDS = (
    "Medians of the rounds; percentiles by nearest rank of as many values as “of” says, without warm-up; "
    "a ratio is the median of the rounds' own ratios. TTFT: time to the first text, from sending or, where "
    "arrivals are planned, from the planned time. ITL: between two pieces of text. TPOT: time a token after "
    "the first."
)


def as_html(
    measured: Sequence[Measured],
    targets: Sequence[Target],
    conditions: dict[str, Any],
    sentences: Sequence[str],
) -> str:
    """The whole page."""
    warnings = [f"<li>{escape(line)}</li>" for line in warning_lines(measured, targets)]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>takeoff bench</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>takeoff bench</h1>",
        *(f'<p class="verdict">{escape(sentence)}</p>' for sentence in sentences),
        *(["<h2>Mind</h2><ul>", *warnings, "</ul>"] if warnings else []),
        '<div class="plots">',
        *_plots(measured, [target.name for target in targets]),
        "</div>",
        "<h2>Figures</h2>",
        f"<p>{_WORDS}</p>",
        _table(header(targets), rows(measured, targets), num_words=2),
        "<h2>Requests</h2>",
        _table(REQUEST_COLUMNS, request_rows(measured, targets), num_words=2),
        "<h2>Conditions</h2>",
        f"<pre>{escape(_json(conditions))}</pre>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(columns: Sequence[str], cells: Iterable[Sequence[str]], *, num_words: int) -> str:
    """The first `num_words` columns are words, the others numbers."""

    def row(tag: str, texts: Sequence[str]) -> str:
        kinds = ["" if place < num_words else ' class="number"' for place in range(len(texts))]
        made = (f"<{tag}{kind}>{escape(text)}</{tag}>" for kind, text in zip(kinds, texts, strict=True))
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(row("td", texts) for texts in cells)
    head = row("th", columns)
    return f'<div class="table"><table><thead>{head}</thead><tbody>\n{body}\n</tbody></table></div>'


def _json(value: Any, indent: str = "") -> str:
    """JSON with each list, such as a command, in a line."""
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    deeper = f"{indent} "
    fields = (f"{deeper}{json.dumps(name)}: {_json(each, deeper)}" for name, each in value.items())
    return "{\n" + ",\n".join(fields) + f"\n{indent}}}"


def _plots(measured: Sequence[Measured], names: Sequence[str]) -> Iterator[str]:
    sweep = sorted(
        (each for each in measured if each.scenario.num_streams), key=lambda m: m.scenario.num_streams or 0
    )
    if sweep:
        yield _users_plot(sweep, names)
        yield _streams_plot(sweep, names)
        yield _gaps_plot(sweep[-1], names)
    if any(out.points for each in measured for outs in each.outcomes.values() for out in outs):
        yield _rates_plot(measured, names)


def _users_plot(sweep: Sequence[Measured], names: Sequence[str]) -> str:
    lines = []
    for colour, name in enumerate(names):
        points = []
        for each in sweep:
            rate, tpot = each.median(name, "rate"), each.median(name, "tpot_p50")
            if rate is not None and tpot:
                points.append(Point(rate, 1 / tpot, str(each.scenario.num_streams)))
        lines.append(Line(name, points, colour))
    return plot(
        "A user's speed against all users' (number: streams)", "tokens/s together", "tokens/s a user", lines
    )


def _streams_plot(sweep: Sequence[Measured], names: Sequence[str]) -> str:
    lines = [
        Line(
            f"{name}, {figure}",
            [
                Point(each.scenario.num_streams or 0, value)
                for each in sweep
                if (value := each.median(name, f"ttft_{figure}")) is not None
            ],
            colour,
            is_dashed=figure == "p95",
        )
        for colour, name in enumerate(names)
        for figure in ("p50", "p95")
    ]
    return plot("Time to the first token against load", "streams at a time", "TTFT, s", lines)


def _rates_plot(measured: Sequence[Measured], names: Sequence[str]) -> str:
    """Each rate that was tried; the median where it was tried more than once."""
    lines = []
    for colour, name in enumerate(names):
        for figure in ("p50", "p95"):
            tried: dict[float, list[float]] = {}
            for each in measured:
                for point in (point for out in each.outcomes[name] for point in out.points):
                    if (reading := point.readings.get(f"ttft_{figure}")) is not None:
                        tried.setdefault(point.rate, []).append(reading.value)
            points = [Point(rate, statistics.median(values)) for rate, values in sorted(tried.items())]
            lines.append(Line(f"{name}, {figure}", points, colour, is_dashed=figure == "p95"))
    return plot("Time to the first token against arrivals", "requests/s", "TTFT, s", lines)


def _gaps_plot(measured: Measured, names: Sequence[str]) -> str:
    """The last round: p50 and p99 of the gaps that end in each part of its time."""
    lines = []
    for colour, name in enumerate(names):
        parts = _gaps_over_time(measured, name)
        for percent in (50, 99):
            points = [Point(at, 1e3 * nearest_rank(gaps, percent)) for at, gaps in parts]
            lines.append(Line(f"{name}, p{percent}", points, colour, is_dashed=percent == 99))
    title = f"Inter-token latency over time, {measured.scenario.num_streams} streams"
    return plot(title, "s from the start of the last round", "ITL, ms", lines)


def _gaps_over_time(measured: Measured, name: str) -> list[tuple[float, list[float]]]:
    """(middle of the part in s, its gaps in s), parts without gaps left out."""
    traces = measured.outcomes[name][-1].traces
    ends = [trace.ended_at for trace in traces]
    begun = min((trace.sent_at for trace in traces), default=0.0)
    width = (max(ends, default=1.0) - begun) / TIME_PARTS
    parts: list[list[float]] = [[] for _ in range(TIME_PARTS)]
    for trace in traces:
        for before, after in zip(trace.text_at, trace.text_at[1:], strict=False):
            place = min(int((after - begun) / width), TIME_PARTS - 1)
            parts[place].append(after - before)
    return [((place + 0.5) * width, gaps) for place, gaps in enumerate(parts) if gaps]

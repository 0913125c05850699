"""Plots as SVG, drawn by hand: lines through points on linear axes that begin at zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 34, 52
COLOURS = ("#2f6fde", "#d9722e", "#2a9d6f", "#8a56c9", "#b0303f", "#5b6573")
NAMESPACE = "http://www.w3.org/2000/svg"  # without it a file of its own is no picture
MANY_POINTS = 20  # more of a line are drawn smaller
GRID, INK = "#e3e6ea", "#1c2024"


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    label: str = ""  # stands beside it


@dataclass(frozen=True, slots=True)
class Line:
    """Points in the order in which they are joined; `colour` counts through `COLOURS`."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    is_dashed: bool = False


def plot(title: str, x_title: str, y_title: str, lines: Sequence[Line]) -> str:
    """One figure with its legend. Every point carries its numbers, for a pointer that rests on it."""
    x_ticks = ticks(max((point.x for line in lines for point in line.points), default=1.0))
    y_ticks = ticks(max((point.y for line in lines for point in line.points), default=1.0))
    scale = _Scale(x_ticks[-1], y_ticks[-1])
    height = HEIGHT + 18 * len(lines)
    parts = [
        f'<svg xmlns="{NAMESPACE}" role="img" aria-label="{escape(title)}" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14" font-weight="bold">{escape(title)}</text>',
        *_axes(scale, x_ticks, y_ticks, x_title, y_title),
        *(part for line in lines for part in _line(scale, line)),
        *(part for row, line in enumerate(lines) for part in _legend(row, line)),
        "</svg>",
    ]
    return "\n".join(parts)


def ticks(highest: float) -> list[float]:
    """From 0 in steps of 1, 2 or 5 times a power of ten to at least `highest`: about five steps."""
    rough = max(highest, 1e-9) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999999)
    return (
        [step * number for number in range(math.ceil(highest / step - 1e-9) + 1)]
        if highest > 0
        else [0.0, 1.0]
    )


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to places in the drawing."""

    x_max: float
    y_max: float

    def x(self, value: float) -> float:
        return LEFT + value / self.x_max * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - value / self.y_max * (HEIGHT - TOP - BOTTOM)


def _axes(
    scale: _Scale, x_ticks: Sequence[float], y_ticks: Sequence[float], x_title: str, y_title: str
) -> list[str]:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in x_ticks:
        x = scale.x(value)
        parts.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{GRID}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    for value in y_ticks:
        y = scale.y(value)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    middle = (TOP + bottom) / 2
    parts.append(
        f'<text x="{(LEFT + right) / 2}" y="{bottom + 36}" text-anchor="middle">{escape(x_title)}</text>'
    )
    parts.append(
        f'<text x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">'
        f"{escape(y_title)}</text>"
    )
    return parts


def _line(scale: _Scale, line: Line) -> list[str]:
    places = " ".join(f"{scale.x(point.x):.1f},{scale.y(point.y):.1f}" for point in line.points)
    radius = 3.5 if len(line.points) <= MANY_POINTS else 2
    name = escape(line.name)
    parts = [f'<polyline points="{places}" fill="none" {_stroke(line)}/>']
    for point in line.points:
        x, y = scale.x(point.x), scale.y(point.y)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" {_fill(line)} data-line="{name}" '
            f'data-x="{point.x:.6g}" data-y="{point.y:.6g}">'
            f"<title>{name}: {point.x:.3g}, {point.y:.3g}</title></circle>"
        )
        if point.label:
            parts.append(f'<text x="{x + 6:.1f}" y="{y - 6:.1f}">{escape(point.label)}</text>')
    return parts


def _legend(row: int, line: Line) -> list[str]:
    y = HEIGHT + 18 * row
    return [
        f'<line x1="{LEFT}" y1="{y}" x2="{LEFT + 28}" y2="{y}" {_stroke(line)}/>',
        f'<rect x="{LEFT + 10.5}" y="{y - 3.5}" width="7" height="7" rx="3.5" {_fill(line)}/>',
        f'<text x="{LEFT + 36}" y="{y + 4}">{escape(line.name)}</text>',
    ]


def _stroke(line: Line) -> str:
    dashes = ' stroke-dasharray="5 4"' if line.is_dashed else ""
    return f'stroke="{COLOURS[line.colour % len(COLOURS)]}" stroke-width="2"{dashes}'


def _fill(line: Line) -> str:
    """Of a point; hollow where its line is dashed, for a line may have one point only."""
    colour = COLOURS[line.colour % len(COLOURS)]
    return f'fill="{"#ffffff" if line.is_dashed else colour}" stroke="{colour}"'

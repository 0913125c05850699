"""Results of `takeoff bench --json` as a Markdown table and as a plot.

python bench/figures.py RESULT.json                  the table, on stdout
python bench/figures.py RESULT.json --plot FILE.svg  every work's first figure, relative to the peer
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt

INK, DIM, OURS, PEER = "#1c2024", "#60646c", "#2f6fde", "#b9bec7"


def number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def table(result: dict[str, Any]) -> str:
    """A row a figure: its median for each server, and the median of the rounds' ratios."""
    first, *others = [target["name"] for target in result["targets"]]
    columns = ["work", "figure", first, *others, *(f"{first} / {name}" for name in others)]
    lines = [columns, ["---", "---", *["--:"] * (len(columns) - 2)]]
    for scenario in result["scenarios"]:
        for place, figure in enumerate(scenario["figures"]):
            lines.append(
                [
                    scenario["title"] if place == 0 else "",
                    f"{figure['name']}, {figure['unit']}",
                    *(number(figure["median"][name]) for name in (first, *others)),
                    *(number(figure["ratio"][name]) for name in others),
                ]
            )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def plot(result: dict[str, Any], path: Path) -> None:
    """Bars: how many times as good as the first peer, on a logarithmic axis; the peer is 1."""
    first, peer = [target["name"] for target in result["targets"]][:2]
    titles, factors, labels = [], [], []
    for scenario in reversed(result["scenarios"]):
        figure = scenario["figures"][0]
        ours, theirs = figure["median"][first], figure["median"][peer]
        ratio = figure["ratio"][peer]
        titles.append(scenario["title"])
        factors.append(ratio if figure["higher_is_better"] else 1 / ratio)
        labels.append(f"{number(ours)} against {number(theirs)} {figure['unit']}")
    mpl.rcParams["svg.hashsalt"] = "takeoff"
    plt.rcParams.update({"font.family": "sans-serif", "font.size": 10, "text.color": INK})
    fig, axes = plt.subplots(figsize=(8.4, 0.52 * len(titles) + 0.9))
    axes.barh(titles, [factor - 1 for factor in factors], left=1, height=0.5, color=OURS)
    axes.set_xscale("log")
    axes.axvline(1, color=DIM, linewidth=1)
    high = max(*factors, 2.0)
    axes.set_xlim(min(*factors, 1.0) * 0.9, high * 4)
    for place, (factor, label) in enumerate(zip(factors, labels, strict=True)):
        axes.text(
            max(factor, 1) * 1.06,
            place,
            f"{factor:.{2 if factor < 2 else 1 if factor < 10 else 0}f} x   ",
            va="center",
            weight="bold",
        )
        axes.text(max(factor, 1) * 1.06, place - 0.36, label, va="center", fontsize=7.5, color=DIM)
    axes.set_title(f"{first}: times as good as {peer} (1 is the same)", fontsize=10, loc="left", color=INK)
    axes.set_xticks([])
    axes.minorticks_off()
    axes.tick_params(length=0, colors=INK)
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    fig.savefig(path, bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = parser.parse_args()
    result = json.loads(options.result.read_text())
    if options.plot is None:
        print(table(result))
    else:
        plot(result, options.plot)


if __name__ == "__main__":
    main()

"""The goals of speed, each measured beside its peer: a row of a Markdown table each.

    python bench/goals.py one eight shared-prefix --model MODEL.gguf --peers PEERS --rounds 1

Rows that need the same servers run in one go. What was measured is added to the folder --results, to a file
for each set of servers, and the table is of all the rounds in there: so a long row can be measured in several
short runs, each with another --seed. --rounds 0 prints the table of what was measured before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from compare import add_setup_flags, check_idle, measure, setup_from
from goal_rows import ROWS, Row
from made_keys import make_keys
from own_measures import read_share, restart
from servers import PEERS, Setup, Start, running, takeoff

from takeoff.bench.report_terminal import shown

Launch = Callable[[int], Start]
Result = dict[str, Any]

# Takeoff beside itself with other flags.
BESIDE_ITSELF = {
    "deterministic": ("--deterministic",),
    "no speculation": ("--speculation", "off"),
    "no promises": ("--no-replay", *(f"--{what}=off" for what in ("sandbox", "request-log", "standby"))),
}


def with_promises(setup: Setup, flags: tuple[str, ...], folder: Path) -> tuple[Launch, str]:
    """Our server with a key that has limits, and with a log of requests; and the key."""
    file = folder / "keys.json"
    limits = {"requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000, "max_open": 1_000}
    (key,) = make_keys(file, 1, **limits)
    told = (f"--keys-file={file}", f"--request-log={folder / 'requests.jsonl'}")
    return partial(takeoff, setup, flags=(*flags, *told), key=key), key


def launches(servers: str, setup: Setup, options: argparse.Namespace) -> dict[str, Launch]:
    """Which servers run side by side, under the names that the rows call them."""
    flags = tuple(options.serve_flag)
    if servers == "newcomer":
        if options.optimised is None:
            raise SystemExit("give the file that `takeoff optimize` made: --optimised FILE.gguf")
        best = replace(setup, model=options.optimised)
        return {
            "takeoff": partial(takeoff, best, flags=flags),
            "llama-server": partial(PEERS["llama-server"], setup),
            "llama-server, optimised file": partial(PEERS["llama-server"], best),
        }
    ours: dict[str, Launch] = {"takeoff": partial(takeoff, setup, flags=flags)}
    if servers in BESIDE_ITSELF:
        return ours | {servers: partial(takeoff, setup, flags=(*flags, *BESIDE_ITSELF[servers]))}
    return ours | {name: partial(PEERS[name], setup) for name in servers.split("+") if name in PEERS}


def run(servers: str, rows: Sequence[Row], setup: Setup, options: argparse.Namespace) -> Iterator[Result]:
    """What `takeoff bench --json` says of each row's scenarios on these servers, as soon as it is known."""
    logs = Path(tempfile.mkdtemp(prefix="takeoff-goals-"))
    flags = tuple(options.serve_flag)
    if servers == "bandwidth":
        plain = (*flags, "--speculation=off")  # with drafts, tokens/s say nothing of the bytes that are read
        yield read_share(partial(takeoff, setup, flags=plain), setup, logs, options.rounds)
        return
    if servers == "restart":
        yield restart(setup, flags, logs, options.rounds)
        return
    starts, key = launches(servers, setup, options), []
    if servers == "no promises":
        starts["takeoff"], shown_key = with_promises(setup, flags, logs)
        key = ["--api-key", shown_key]
    with contextlib.ExitStack() as stack:
        started = [
            stack.enter_context(running(name, start, logs / f"{number}.log"))
            for number, (name, start) in enumerate(starts.items())
        ]
        check_idle(started)
        for names, more in dict.fromkeys((row.scenarios, row.flags) for row in rows):
            result = logs / "result.json"
            what = [word for name in names for word in ("--scenario", name)]
            terms = ["--rounds", str(options.rounds), "--seed", str(options.seed), "--json", str(result)]
            measure(started, [*what, *more, *terms, *key])
            yield dict(json.loads(result.read_text()))


def without_folders(conditions: Any) -> Any:
    """Files by their names: where they lie on this machine says nothing about the measurement."""
    match conditions:
        case {**named}:
            return {name: value if name == "api" else without_folders(value) for name, value in named.items()}
        case [*values]:
            return [without_folders(value) for value in values]
        case str() if conditions.startswith("/"):
            return Path(conditions).name
    return conditions


def without_requests(result: Result) -> Result:
    """What of a result is kept: its conditions, and every round's figures, not every request's times."""
    return {
        "conditions": without_folders(result["conditions"]),
        "scenarios": {
            each["name"]: {
                "rounds": {figure["name"]: figure["rounds"] for figure in each["figures"]},
                "errors": each["errors"],
                "others_share_of_a_core": {
                    name: [one["others_share_of_a_core"] for one in runs]
                    for name, runs in each["runs"].items()
                },
                "memory_bytes": {
                    name: max((one["memory_bytes"] or 0 for one in runs), default=0)
                    for name, runs in each["runs"].items()
                },
            }
            for each in result["scenarios"]
        },
    }


def keep(file: Path, result: Result) -> None:
    runs = json.loads(file.read_text()) if file.exists() else []
    file.write_text(json.dumps([*runs, result], indent=1) + "\n")


def table(rows: Mapping[str, Row], results: Path) -> Iterator[str]:
    """The rows that were measured, as Markdown."""
    yield "| work | ours | peer | ratio (its rounds; their number) | goal | |"
    yield "|---|--:|--:|--:|--:|---|"
    for row in rows.values():
        file = results / f"{row.servers}.json"
        pairs = list(row.goal.pairs(json.loads(file.read_text()))) if file.exists() else []
        if pairs:
            yield row.markdown(pairs, shown)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", nargs="+", choices=ROWS, metavar="ROW", help=", ".join(ROWS))
    add_setup_flags(parser)
    parser.add_argument("--optimised", type=Path, help="for newcomer: the file that `takeoff optimize` made")
    parser.add_argument("--serve-flag", action="append", default=[], help="to every takeoff serve; repeat it")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results/goals")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1, help="of prompts and arrivals")
    options = parser.parse_args()
    rows = {name: ROWS[name] for name in options.row}
    options.results.mkdir(parents=True, exist_ok=True)
    for servers in dict.fromkeys(row.servers for row in rows.values()) if options.rounds else ():
        mine = [row for row in rows.values() if row.servers == servers]
        for result in run(servers, mine, setup_from(options), options):
            keep(options.results / f"{servers}.json", without_requests(result))
    print("\n".join(table(rows, options.results)))


if __name__ == "__main__":
    main()

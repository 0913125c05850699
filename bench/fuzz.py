"""Asks every part that reads what strangers send with cases made to break it, and counts what broke.

    PYTHONPATH=. python bench/fuzz.py [--cases 1000000] [--seed 1] [--minutes 240] [--only gguf,routes]
    PYTHONPATH=. python bench/fuzz.py --replay fuzz-found/gguf-error-0123456789.case

Every case must end within its time in an answer or a refusal of the promised kind: no process dies, no door
says 500, and nothing is opened, connected to or started beyond what the part is for; that is watched by
audit hooks in the process under test (bench/fuzzing/watch.py). Cases are made of the seed and their number:
the same command runs the same ones. Those that found something are kept in `fuzz-found`, as they were and
minimised (`.small`), with what they broke. Prints a table; exits with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.fuzzing.driver import Lane, Plan, Row, table

from takeoff.models.store import Store
from takeoff.settings import Settings

# Shares of a million cases: cheap ones are many.
PLANS = (
    Plan("gguf", "bench.fuzzing.model_files:gguf", 180_000, 10.0),
    Plan("lora", "bench.fuzzing.model_files:lora", 90_000, 10.0),
    Plan("projector", "bench.fuzzing.model_files:projector", 60_000, 10.0),
    Plan("vocabulary", "bench.fuzzing.loads:vocabulary", 500, 30.0),
    Plan("manifest", "bench.fuzzing.texts:manifest", 110_000, 10.0),
    Plan("template", "bench.fuzzing.texts:template", 110_000, 1.0, may_be_late=True),
    Plan("image", "bench.fuzzing.texts:image", 60_000, 10.0, may_be_late=True),
    Plan("regex", "bench.fuzzing.constraints:regex", 50_000, 2.0, may_be_late=True),
    Plan("schema", "bench.fuzzing.constraints:schema", 30_000, 2.0, may_be_late=True),
    Plan("grammar", "bench.fuzzing.constraints:grammar", 50_000, 2.0, may_be_late=True),
    Plan("routes", "bench.fuzzing.doors:routes", 155_000, 15.0),
    Plan("wire", "bench.fuzzing.doors:wire", 50_000, 15.0),
    Plan("multipart", "bench.fuzzing.doors:multipart", 40_000, 15.0),
    Plan("resume", "bench.fuzzing.doors:resume", 12_500, 15.0),
    Plan("served", "bench.fuzzing.served:served", 2_000, 60.0),
)
CASES_OF_ROUND = 100_000  # in rounds all targets get on alike, so that a run cut short has tried each


def chosen(only: str | None) -> list[Plan]:
    names = {plan.name for plan in PLANS} if only is None else set(only.split(","))
    if unknown := names - {plan.name for plan in PLANS}:
        sys.exit(f"there is no target {', '.join(unknown)}: {', '.join(plan.name for plan in PLANS)}")
    return [plan for plan in PLANS if plan.name in names]


def fuzz(lanes: list[tuple[Lane, int]], rounds: int, workers: int, until: float) -> None:
    """So many cases of each, all targets alike far at the end of each round."""

    def run(lane: Lane, count: int) -> None:
        try:
            lane.run(count, until)
        finally:
            lane.stop()
        done = sum(each.row.cases for each, _ in lanes)
        found = sum(len(each.row.found) for each, _ in lanes)
        print(
            f"{lane.row.name}: {lane.row.cases:,} cases; of all {done:,}, {found} kinds found",
            file=sys.stderr,
        )

    with ThreadPoolExecutor(workers) as pool:
        for number in range(rounds):
            running = [
                pool.submit(run, lane, count * (number + 1) // rounds - count * number // rounds)
                for lane, count in lanes
            ]
            for each in running:
                each.result()
            if time.monotonic() > until:
                return


def replayed(case: Path, folder: Path, model: Path, seed: str) -> Row:
    """What one kept case finds now."""
    plan = next((plan for plan in PLANS if case.name.startswith(f"{plan.name}-")), None)
    if plan is None:
        sys.exit(f"the name of a case begins with its target's, and {case.name} does not")
    lane = Lane(plan, folder, model, seed, folder / "found")
    lane.replay(case)
    lane.stop()
    for text in sorted((folder / "found").glob("*.txt")):
        print(text.read_text(), file=sys.stderr)
    return lane.row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--minutes", type=float, default=600.0, help="end after so many")
    parser.add_argument("--only", help="targets, with commas between them")
    parser.add_argument("--workers", type=int, default=2, help="targets at a time")
    parser.add_argument("--found", type=Path, default=Path("fuzz-found"), help="folder of cases to keep")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this case, and no other")
    options = parser.parse_args()
    model = Store(Settings().store).pull("smollm2").path
    with tempfile.TemporaryDirectory() as folder:
        if options.replay is not None:
            rows = [replayed(options.replay, Path(folder), model, options.seed)]
        else:
            plans, until = chosen(options.only), time.monotonic() + 60 * options.minutes
            shares = sum(plan.share for plan in plans)
            lanes = [
                (
                    Lane(plan, Path(folder), model, options.seed, options.found),
                    -(-options.cases * plan.share // shares),
                )
                for plan in plans
            ]
            fuzz(lanes, max(1, options.cases // CASES_OF_ROUND), options.workers, until)
            rows = [lane.row for lane, _ in lanes]
    print("\n".join(table(rows)))
    for row in rows:
        for sign, count in row.found.items():
            print(f"{row.name}: {count} x {sign}", file=sys.stderr)
        for path in row.kept:
            print(f"  kept: {path}", file=sys.stderr)
    sys.exit(1 if any(row.found for row in rows) else 0)


if __name__ == "__main__":
    main()

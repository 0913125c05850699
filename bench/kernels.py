"""Steps and slices of a prompt with our kernels, beside llama.cpp's own.

    python bench/kernels.py MODEL.gguf ...

Both run in one process, in turns. A row says how many sequences decode, and how many tokens each has behind
it. Of weights in Q4_1 and Q8_0 products are ours as well, of others attention alone.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from unittest import mock

import msgspec

from takeoff.engine.llama import backends
from takeoff.engine.llama.pace import Pace, load_of
from takeoff.engine.llama.rows import Rows
from takeoff.models.machine import read_machine
from takeoff.models.optimize.pace import Order, Setup

WORK = ((1, 256), (1, 1800), (8, 256), (8, 900), (32, 256), (32, 900))
SLICE_TOKENS = 32
ROUNDS, STEPS = 5, 4


class Side(Pace):
    """A model whose slots hold `depth` tokens each."""

    def __init__(self, path: str, streams: int, depth: int) -> None:
        setup = Setup(path, streams, 2048, 512, True, "f16", read_machine().cores)
        super().__init__(msgspec.structs.replace(load_of(setup), n_ctx_slot=depth + 64), depth)
        self._order = Order(streams, STEPS, setup.threads)

    def step_s(self) -> float:
        """Seconds of a step of all sequences."""
        return statistics.median(self.seconds(self._order))

    def slice_s(self) -> float:
        """Seconds of the next SLICE_TOKENS of one prompt."""
        self._kernels.restore(0, self._snapshot)
        return self._time([Rows(0, self._depth, self._tokens(SLICE_TOKENS), True)])

    def close(self) -> None:
        self._kernels.close()


def compare(path: str, streams: int, depth: int) -> str:
    """A row of the table: milliseconds with llama.cpp's kernels and with ours."""
    with mock.patch.object(backends, "load_ours"):
        plain = Side(path, streams, depth)
    ours = Side(path, streams, depth)
    if not backends.has_ours():
        raise SystemExit("this llama.cpp was built without our kernels: make setup")
    rounds = [
        [measure() for measure in (plain.step_s, ours.step_s, plain.slice_s, ours.slice_s)]
        for _ in range(ROUNDS)
    ]
    plain.close()
    ours.close()
    step, our_step, piece, our_piece = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
    gain = statistics.median(times[0] / times[1] for times in rounds)
    gain_of_slice = statistics.median(times[2] / times[3] for times in rounds)
    return (
        f"| {streams} | {depth} | {step:.1f} | {our_step:.1f} | {gain:.2f} | "
        f"{piece:.1f} | {our_piece:.1f} | {gain_of_slice:.2f} |"
    )


def main() -> None:
    if len(sys.argv) == 5 and sys.argv[1] == "--one":  # our kernels can't be taken back from a process
        print(compare(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])), flush=True)
        return
    print("| sequences | tokens behind | step, ms | ours | gain | slice of 32, ms | ours | gain |")
    print("|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for path in sys.argv[1:]:
        for streams, depth in WORK:
            command = [sys.executable, __file__, "--one", path, str(streams), str(depth)]
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

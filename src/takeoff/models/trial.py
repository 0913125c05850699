"""How fast a variant is beside the file it was made from, and how near to it: tried in a few seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from takeoff.errors import ModelError
from takeoff.models.child import ChildFailed, lines_of

CHILD = "takeoff.engine.llama.trial"
RESULT = "result "  # begins the child's line of JSON
STREAMS = (1, 8)

# Prose, a list, code and figures: what a model is asked for. Ours, of about 200 tokens.
TEXT = """The ferry left the harbour at half past six, when the fog was still lying on the water. "We shall
be late," said the captain, "but nobody will mind." There were eleven passengers on board, and a dog.

Three things to see on the island:
1. The lighthouse, built in 1874 from grey stone; its lamp can be seen from 28 kilometres.
2. The old school, where the weather is still written down every morning.
3. The north beach. Bring a coat: the wind seldom stops.

def mean_wind(readings: list[float]) -> float:
    if not readings:
        raise ValueError("no readings")
    return sum(readings) / len(readings)

Over the year the mean is 7.4 m/s, which is about 27 km/h. In winter it can reach 31 m/s, and then no ship
leaves. Those who live there say that they would not want it any other way."""


class Pace(msgspec.Struct, frozen=True):
    """Seconds of a step that decodes one token of each of `streams` streams; medians."""

    streams: int
    source_s: float
    variant_s: float

    @property
    def gain(self) -> float:
        return self.source_s / self.variant_s


class Trial(msgspec.Struct, frozen=True):
    """What was found."""

    kl: float  # mean over the text's positions, in nats: of the variant's next token from the source's
    perplexity_ratio: float  # of the text: the variant's to the source's
    paces: tuple[Pace, ...]  # in the order of STREAMS


def try_variant(source: Path, variant: Path, threads: int) -> Trial:
    """Compare two files of one model on this machine. Blocks: about 4 s for 100 MB on two cores.

    Raises:
        ModelError: llama.cpp could not run one of them.
    """
    try:
        lines = list(lines_of(CHILD, source, variant, threads))
    except ChildFailed as exc:
        raise ModelError(f"{variant.name} could not be tried: {exc}") from exc
    results = [line.removeprefix(RESULT) for line in lines if line.startswith(RESULT)]
    if len(results) != 1:
        raise ModelError(f"{variant.name} could not be tried: it gave no result")
    return msgspec.json.decode(results[0], type=Trial)

"""How fast a variant is beside the file it was made from, and how near to it: tried in a few seconds."""

from __future__ import annotations

from pathlib import Path

import msgspec

from takeoff.models.optimize.pace import Setup, Stopwatch
from takeoff.models.optimize.quality import SEARCHED, compare

STREAMS = (1, 8)
TURNS = 3
LEAST_CPU_SHARE = 0.8
TEXT_TOKENS = 256


class Pace(msgspec.Struct, frozen=True):
    """Seconds of a step that decodes one token of each of `streams` streams, of the best turn."""

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
    cpu_share: float  # of its threads' time that the machine gave them, in the calmest turns

    @property
    def is_disturbed(self) -> bool:
        """Others took the cores: threads that wait for each other then show little of their kernels."""
        return self.cpu_share < LEAST_CPU_SHARE


def try_variant(source: Path, variant: Path, threads: int) -> Trial:
    """Compare two files of one model on this machine. Blocks: about 8 s for 100 MB on two cores.

    Raises:
        ModelError: llama.cpp could not run one of them.
    """
    shipped, made = (
        Setup(
            str(path),
            max(STREAMS),
            batch=512,
            ubatch=512,
            flash_attention=True,
            kv_type="f16",
            threads=threads,
        )
        for path in (source, variant)
    )
    quality = compare(shipped, made, SEARCHED, TEXT_TOKENS)
    with Stopwatch() as stopwatch:
        turns = [
            [stopwatch.turn(setup, threads, threads, STREAMS) for setup in (shipped, made)]
            for _ in range(TURNS)
        ]
    paces = [
        Pace(streams, *(min(turn.step_s[streams] for turn in each) for each in zip(*turns, strict=True)))
        for streams in STREAMS
    ]
    cpu_share = min(max(turn.cpu_share for turn in each) for each in zip(*turns, strict=True))
    return Trial(quality.kl, quality.perplexity_ratio, tuple(paces), cpu_share)

"""What a client was told, and how it compares with what it was told when nothing was killed."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

SHIFT = 64  # characters that may be lost or doubled at a seam, at most, to be found
MATCHED = 24  # characters that must agree behind them
ON_ITS_WAY_S = 0.1  # what a dead engine had said comes within this; no other is up so soon


class Kill(NamedTuple):
    """When an engine was killed, and how."""

    at: float
    how: str = ""


class Pause(NamedTuple):
    """A time without news that killed engines left in a stream, and how these were killed."""

    seconds: float
    hows: tuple[str, ...]


@dataclass(eq=False, slots=True)
class Told:
    """One stream as its client saw it."""

    text: str = ""
    num_tokens: int = 0
    error: str | None = None
    is_whole: bool = False  # its end came
    asked_at: float = field(default_factory=time.monotonic)
    news: list[tuple[float, int]] = field(default_factory=list)  # when, and characters up to then

    def add(self, text: str, num_tokens: int) -> None:
        self.text += text
        self.num_tokens += num_tokens
        self.news.append((time.monotonic(), len(self.text)))

    @property
    def is_over(self) -> bool:
        return self.is_whole or self.error is not None

    @property
    def last_news_at(self) -> float:
        return self.news[-1][0] if self.news else self.asked_at

    def length_at(self, moment: float) -> int:
        """Characters that had come by then."""
        place = bisect_right(self.news, moment, key=itemgetter(0))
        return self.news[place - 1][1] if place else 0

    def pauses(self, kills: Sequence[Kill]) -> list[Pause]:
        """Each gap that killed engines left."""
        moments = [self.asked_at, *(at for at, _ in self.news)]
        hows: defaultdict[int, list[str]] = defaultdict(list)  # by the end of the gap
        for at, how in kills:
            hows[bisect_right(moments, at + ON_ITS_WAY_S)].append(how)
        return [
            Pause(moments[end] - moments[end - 1], tuple(hows[end]))
            for end in sorted(hows)
            if 0 < end < len(moments)
        ]


@dataclass(eq=False, slots=True)
class Verdict:
    """Everything that is counted, over all streams of all rounds."""

    num_noisy: int = 0  # texts that differed between two undisturbed runs, where there were two
    num_streams: int = 0
    num_disturbed: int = 0  # of those, streams that an engine died under
    errors: list[str] = field(default_factory=list)
    num_lost: int = 0  # characters
    num_doubled: int = 0
    num_wrong_counts: int = 0  # streams whose tokens are not as many as the undisturbed one's
    num_equal: int = 0
    num_other_continuations: int = 0  # in other words behind a kill
    num_other_before: int = 0  # in other words before any kill
    pauses: list[Pause] = field(default_factory=list)
    kills: dict[str, int] = field(default_factory=dict)

    def is_kept(self, *, exact: bool) -> bool:
        """Whether every promise was; `exact`: every text is to be the undisturbed one."""
        is_whole = not (self.errors or self.num_lost or self.num_doubled or self.num_wrong_counts)
        return is_whole and (not exact or self.num_equal == self.num_streams)

    def figures(self) -> dict[str, Any]:
        of_one = [pause for pause in self.pauses if len(pause.hows) == 1]
        of_more = [pause.seconds for pause in self.pauses if len(pause.hows) > 1]
        by_kind = {how: [each.seconds for each in of_one if each.hows == (how,)] for (how,) in _hows(of_one)}
        return {
            "kills": sum(self.kills.values()),
            "kills_by_kind": dict(sorted(self.kills.items())),
            "streams": self.num_streams,
            "disturbed": self.num_disturbed,
            "client_errors": len(self.errors),
            "first_errors": self.errors[:3],
            "lost_characters": self.num_lost,
            "doubled_characters": self.num_doubled,
            "wrong_token_counts": self.num_wrong_counts,
            "equal_texts": self.num_equal,
            "other_continuations": self.num_other_continuations,
            "other_before_a_kill": self.num_other_before,
            "other_without_kills": self.num_noisy,
            "pauses": _spread([pause.seconds for pause in of_one]),
            "pauses_by_kind": {how: _spread(seconds) for how, seconds in by_kind.items()},
            "pauses_of_several_kills": len(of_more),
            "pause_of_several_kills_max_s": round(max(of_more, default=0.0), 2),
        }

    def report(self) -> str:
        told = self.figures()
        of = f"of {told['streams']}"
        return "\n".join(
            (
                f"engines killed: {told['kills']} ({told['kills_by_kind']})",
                f"streams that one died under: {told['disturbed']} {of}",
                f"client errors: {told['client_errors']} {of} {told['first_errors'] or ''}",
                f"lost characters: {told['lost_characters']}, doubled: {told['doubled_characters']}, "
                f"wrong numbers of tokens: {told['wrong_token_counts']} {of}",
                f"texts equal to the undisturbed ones: {told['equal_texts']} {of}; other words behind "
                f"a kill: {told['other_continuations']}, before any: {told['other_before_a_kill']}; "
                f"between two undisturbed runs: {told['other_without_kills']} of 16",
                f"pauses with one kill in them: {_said(told['pauses'])}; with several: "
                f"{told['pauses_of_several_kills']}, longest {told['pause_of_several_kills_max_s']} s",
                *(f"  of {how}: {_said(spread)}" for how, spread in told["pauses_by_kind"].items() if how),
            )
        )


def _hows(pauses: list[Pause]) -> list[tuple[str, ...]]:
    return sorted({pause.hows for pause in pauses})


def _spread(seconds: list[float]) -> dict[str, float]:
    """How many, and of the seconds the median, p99 and the longest, to 10 ms; 0 of none."""
    rising = sorted(seconds) or [0.0]
    places = {"median_s": len(rising) // 2, "p99_s": int(0.99 * (len(rising) - 1)), "max_s": -1}
    return {"count": len(seconds)} | {name: round(rising[place], 2) for name, place in places.items()}


def _said(spread: dict[str, float]) -> str:
    return (
        f"{spread['count']}, median {spread['median_s']} s, p99 {spread['p99_s']} s, "
        f"longest {spread['max_s']} s"
    )


def judged(verdict: Verdict, before: Told, after: Told, kills: Sequence[Kill]) -> None:
    """Count one stream, `before` being the undisturbed one."""
    pauses = after.pauses(kills)
    verdict.num_streams += 1
    verdict.num_disturbed += bool(pauses)
    verdict.pauses += pauses
    if after.error is not None:
        verdict.errors.append(after.error)
        return
    verdict.num_wrong_counts += after.num_tokens != before.num_tokens
    if after.text == before.text:
        verdict.num_equal += 1
        return
    seams = [after.length_at(at) for at, _ in kills]
    parted_at = common_length(before.text, after.text)
    if not seams or parted_at < min(seams):
        verdict.num_other_before += 1
        return
    verdict.num_other_continuations += 1
    lost, doubled = shift(before.text, after.text, parted_at)
    verdict.num_lost += lost
    verdict.num_doubled += doubled


def shift(before: str, after: str, parted_at: int) -> tuple[int, int]:
    """Characters that `after` lacks where the texts part, and that it has twice there.

    Text that goes on as `before` does a little later lacks what is between; text that goes on as `before`
    did a little earlier says it twice.
    """
    if len(after) < parted_at + MATCHED:
        return 0, 0
    sought = after[parted_at : parted_at + MATCHED]
    lost = before[parted_at + 1 : parted_at + SHIFT + MATCHED].find(sought)
    start = max(0, parted_at - SHIFT)
    place = before[start : parted_at + MATCHED - 1].rfind(sought)
    return lost + 1, 0 if place < 0 else parted_at - start - place


def common_length(one: str, other: str) -> int:
    """Characters with which both begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))

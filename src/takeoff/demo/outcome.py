"""What the show has shown: figures, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from takeoff.bench.told import Kill, Told, Verdict, judged
from takeoff.demo.show import Show
from takeoff.demo.streams import bodies


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of all streams, as far as they have come; `is_kept`: whether nothing speaks against the promise."""

    show: Show
    verdict: Verdict
    is_interrupted: bool

    @property
    def num_kills(self) -> int:
        return len(self.show.kills)

    @property
    def is_kept(self) -> bool:
        return self.verdict.is_kept(exact=self.show.plan.is_exact)

    @property
    def longest_pause_s(self) -> float:
        """The longest that a stream had no text because engines were killed; 0 where none was."""
        return max((pause.seconds for pause in self.verdict.pauses), default=0.0)

    def figures(self) -> dict[str, Any]:
        """Everything, for programs."""
        show, verdict, plan = self.show, self.verdict, self.show.plan
        asked = bodies(plan.streams, plan.tokens)
        return {
            "model": plan.model,
            "streams": plan.streams,
            "tokens": plan.tokens,
            "deterministic": plan.is_exact,
            "interrupted": self.is_interrupted,
            "kept": self.is_kept,
            "kills": self.num_kills,
            "disturbed": verdict.num_disturbed,
            "client_errors": len(verdict.errors),
            "first_errors": verdict.errors[:3],
            "lost_characters": verdict.num_lost,
            "doubled_characters": verdict.num_doubled,
            "wrong_token_counts": verdict.num_wrong_counts,
            "equal_texts": verdict.num_equal,
            "other_continuations": verdict.num_other_continuations,
            "other_before_a_kill": verdict.num_other_before,
            "longest_pause_s": round(self.longest_pause_s, 3),
            "undisturbed_s": round(seconds(show.undisturbed), 3),
            "disturbed_s": round(seconds(show.disturbed), 3),
            "texts": [
                {"prompt": body["prompt"], "undisturbed": before.text, "disturbed": after.text}
                for body, before, after in zip(asked, show.undisturbed, show.disturbed, strict=True)
            ],
        }

    def rows(self) -> Iterator[tuple[str, str]]:
        """The figures for people."""
        show, verdict = self.show, self.verdict
        of = f"of {show.plan.streams}"
        yield "engines killed", f"{self.num_kills}"
        yield "streams that one died under", f"{verdict.num_disturbed} {of}"
        yield "streams that broke off", f"{len(verdict.errors)} {of}"
        yield "lost characters", f"{verdict.num_lost}"
        yield "doubled characters", f"{verdict.num_doubled}"
        yield "texts of another number of tokens", f"{verdict.num_wrong_counts} {of}"
        yield "texts equal to the undisturbed run's", f"{verdict.num_equal} {of}"
        yield "longest pause", f"{self.longest_pause_s:.2f} s"
        yield (
            "time, undisturbed and with kills",
            (f"{seconds(show.undisturbed):.1f} s, {seconds(show.disturbed):.1f} s"),
        )

    def sentence(self) -> str:
        """The result in a line."""
        verdict, num_streams = self.verdict, self.show.plan.streams
        until = "until it was interrupted, " if self.is_interrupted else ""
        if verdict.errors:
            return (
                f"{until}{len(verdict.errors)} of {num_streams} streams broke off, first: {verdict.errors[0]}"
            )
        if not self.is_kept:
            return f"{until}the promise was broken: {self._broken()}"
        if not self.num_kills and self.is_interrupted:
            return f"{until}nothing was killed"
        if not self.num_kills:
            return "nothing was killed: the texts ended before; ask for more --tokens or less --every"
        equal = f"{verdict.num_equal} of {num_streams} texts are those of the undisturbed run"
        if verdict.num_equal == num_streams:
            return f"{until}nothing was lost or doubled: {equal}, character by character"
        others = verdict.num_other_continuations + verdict.num_other_before
        return f"{until}nothing was lost or doubled: {equal}, {others} went on in other words"

    def _broken(self) -> str:
        verdict = self.verdict
        differing = verdict.num_other_continuations + verdict.num_other_before
        return (
            f"{verdict.num_lost} characters are lost, {verdict.num_doubled} doubled, "
            f"{verdict.num_wrong_counts} texts have another number of tokens, {differing} other words"
        )


def judge(show: Show, *, is_interrupted: bool = False) -> Outcome:
    """Compare the run with kills with the undisturbed one; what is not over, as far as it has come."""
    verdict = Verdict()
    kills = [Kill(kill.at) for kill in show.kills]
    for before, after in zip(show.undisturbed, show.disturbed, strict=False):
        judged(verdict, before if after.is_over else _as_far_as(after, before), after, kills)
    return Outcome(show, verdict, is_interrupted)


def seconds(streams: list[Told]) -> float:
    """From the first question to the last piece of text."""
    asked_at = min((told.asked_at for told in streams), default=0.0)
    return max((told.last_news_at for told in streams), default=asked_at) - asked_at


def _as_far_as(after: Told, before: Told) -> Told:
    return Told(text=before.text[: len(after.text)], num_tokens=after.num_tokens)

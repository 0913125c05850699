"""Those who kill engines see what a client would: characters that are missing, or there twice."""

from __future__ import annotations

import pytest

from takeoff.bench.told import ON_ITS_WAY_S, Kill, Told, Verdict, judged

WHOLE = "".join(f"word {number} of a text that goes on, " for number in range(40))
SEAM = 301


def verdict_on(text: str, *, num_tokens: int = 40, error: str | None = None) -> Verdict:
    """Of a stream whose engine was killed a second after the first `SEAM` characters had come."""
    before, after = Told(), Told()
    before.add(WHOLE, 40)
    after.asked_at = 0.0
    after.text, after.num_tokens, after.error = text, num_tokens, error
    after.news = [(1.0, SEAM), (3.5, len(text))]
    verdict = Verdict()
    judged(verdict, before, after, [Kill(2.0, "SIGKILL")])
    return verdict


def test_an_equal_text_keeps_every_promise_and_its_pause_is_measured() -> None:
    verdict = verdict_on(WHOLE)
    assert verdict.is_kept(exact=True)
    assert verdict.pauses == [(2.5, ("SIGKILL",))]
    spread = {"count": 1, "median_s": 2.5, "p99_s": 2.5, "max_s": 2.5}
    told = verdict.figures()
    assert (told["pauses"], told["pauses_by_kind"]) == (spread, {"SIGKILL": spread})


def test_a_pause_begins_when_what_the_dead_engine_had_said_has_come() -> None:
    told = Told(asked_at=0.0, news=[(1.0, 5), (2.0 + ON_ITS_WAY_S / 2, 9), (4.5, 14)])
    assert told.pauses([Kill(2.0)]) == [(2.5 - ON_ITS_WAY_S / 2, ("",))]
    assert told.pauses([Kill(2.0, "a"), Kill(3.0, "b")])[0].hows == ("a", "b")
    assert told.length_at(2.0 + ON_ITS_WAY_S) == 9


@pytest.mark.parametrize("num_characters", [1, 5, 40])
def test_lost_and_doubled_characters_at_the_seam_are_counted(num_characters: int) -> None:
    lost = verdict_on(WHOLE[:SEAM] + WHOLE[SEAM + num_characters :])
    doubled = verdict_on(WHOLE[:SEAM] + WHOLE[SEAM - num_characters :])
    told = [(each.num_lost, each.num_doubled) for each in (lost, doubled)]
    assert told == [(num_characters, 0), (0, num_characters)]
    assert not lost.is_kept(exact=False)
    assert not doubled.is_kept(exact=False)


def test_other_words_behind_a_kill_are_counted_and_break_the_exact_promise_only() -> None:
    other = "and now for something else altogether. " * 20
    verdict = verdict_on(WHOLE[:SEAM] + other)
    assert verdict.num_other_continuations == 1
    assert (verdict.num_lost, verdict.num_doubled) == (0, 0)
    assert verdict.is_kept(exact=False)
    assert not verdict.is_kept(exact=True)


def test_an_error_and_another_number_of_tokens_break_the_promise() -> None:
    for broken in (verdict_on(WHOLE, error="it died"), verdict_on(WHOLE, num_tokens=39)):
        assert not broken.is_kept(exact=False)

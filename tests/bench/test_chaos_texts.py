"""The driver of `make chaos` sees what a client would: characters that are missing, or there twice."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

WHOLE = "".join(f"word {number} of a text that goes on, " for number in range(40))
SEAM = 301


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "bench"))
    import chaos_texts  # type: ignore[import-not-found]

    return chaos_texts  # type: ignore[no-any-return]


def verdict_on(texts: ModuleType, text: str, *, num_tokens: int = 40, error: str | None = None) -> object:
    """Of a stream whose engine was killed a second after the first `SEAM` characters had come."""
    before, after = texts.Told(), texts.Told()
    before.add(WHOLE, 40)
    after.asked_at = 0.0
    after.text, after.num_tokens, after.error = text, num_tokens, error
    after.news = [(1.0, SEAM), (3.5, len(text))]
    verdict = texts.Verdict(num_noisy=0)
    texts.judged(verdict, before, after, [2.0])
    return verdict


def test_an_equal_text_keeps_every_promise_and_its_pause_is_measured(texts: ModuleType) -> None:
    verdict = verdict_on(texts, WHOLE)
    assert verdict.is_kept(exact=True)  # type: ignore[attr-defined]
    assert verdict.pauses == [(2.5, 1)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("num_characters", [1, 5, 40])
def test_lost_and_doubled_characters_at_the_seam_are_counted(texts: ModuleType, num_characters: int) -> None:
    lost = verdict_on(texts, WHOLE[:SEAM] + WHOLE[SEAM + num_characters :])
    doubled = verdict_on(texts, WHOLE[:SEAM] + WHOLE[SEAM - num_characters :])
    told = [(each.num_lost, each.num_doubled) for each in (lost, doubled)]  # type: ignore[attr-defined]
    assert told == [(num_characters, 0), (0, num_characters)]
    assert not lost.is_kept(exact=False)  # type: ignore[attr-defined]
    assert not doubled.is_kept(exact=False)  # type: ignore[attr-defined]


def test_other_words_behind_a_kill_are_counted_and_break_the_exact_promise_only(texts: ModuleType) -> None:
    other = "and now for something else altogether. " * 20
    verdict = verdict_on(texts, WHOLE[:SEAM] + other)
    assert verdict.num_other_continuations == 1  # type: ignore[attr-defined]
    assert (verdict.num_lost, verdict.num_doubled) == (0, 0)  # type: ignore[attr-defined]
    assert verdict.is_kept(exact=False)  # type: ignore[attr-defined]
    assert not verdict.is_kept(exact=True)  # type: ignore[attr-defined]


def test_an_error_and_another_number_of_tokens_break_the_promise(texts: ModuleType) -> None:
    for broken in (verdict_on(texts, WHOLE, error="it died"), verdict_on(texts, WHOLE, num_tokens=39)):
        assert not broken.is_kept(exact=False)  # type: ignore[attr-defined]

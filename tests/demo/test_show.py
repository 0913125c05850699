"""When engines are killed, what is drawn, and what is told at the end: on streams that a test has written."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from takeoff.bench.told import Told
from takeoff.demo.outcome import judge
from takeoff.demo.screen import picture
from takeoff.demo.show import Kill, Killer, Plan, Show

PLAN = Plan("smollm2", streams=2, tokens=40, every_s=2.0, max_kills=2)
WHOLE = "".join(f"word {number} of a text that goes on, " for number in range(40))


@dataclass
class Stage:
    """A clock, a server without processes, and somebody who notes what is said."""

    show: Show = field(default_factory=lambda: Show(PLAN))
    now: float = 100.0
    num_killed: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.killer = Killer(self.show, self, self, clock=lambda: self.now)

    def kill_engine(self) -> int:
        self.num_killed += 1
        return 1000 + self.num_killed

    def note(self, text: str) -> None:
        self.notes.append(text)

    def draw(self) -> None: ...

    def after(self, seconds: float, *numbers: int) -> int:
        """Time passes, then the streams of these numbers have news. Returns how many engines are dead."""
        self.now += seconds
        for number in numbers:
            told = self.show.disturbed[number]
            told.text += "a word "
            told.news.append((self.now, len(told.text)))
        self.killer.look()
        return self.num_killed


def test_an_engine_dies_only_when_all_streams_have_gone_on_for_long_enough() -> None:
    stage = Stage()
    stage.show.disturbed = [Told(), Told()]
    assert stage.after(9.0, 0) == 0, "one of them has had no text yet"
    assert stage.after(0.5, 1) == 0
    assert stage.after(1.9, 0, 1) == 0
    assert stage.after(0.2, 0, 1) == 1
    assert stage.after(0.05, 0, 1) == 1, "that was on its way from the dead one"
    assert stage.after(5.0, 0) == 1, "one of them still waits"
    assert stage.after(1.0, 1) == 1
    assert stage.notes[-1] == "the text goes on 6.05 s after the kill"
    assert stage.after(2.1, 0, 1) == 2
    stage.after(1.0, 0, 1)
    assert stage.after(9.0, 0, 1) == 2, "as many as were asked for"
    assert [kill.pid for kill in stage.show.kills] == [1001, 1002]
    assert stage.show.kills[0].resumed_at == pytest.approx(stage.show.kills[0].at + 6.05)


def told(text: str, *, is_whole: bool = True, seam: int = 301) -> Told:
    """A stream whose first `seam` characters came before 2.0, where an engine dies, the others at 3.5."""
    news = [(1.0, seam), (3.5, len(text))]
    return Told(text, num_tokens=40, is_whole=is_whole, asked_at=0.5, news=news)


def shown(*disturbed: Told, plan: Plan = PLAN) -> Show:
    """Behind one kill."""
    kills = [Kill(2.0, 1001, resumed_at=3.5)]
    return Show(plan, "ready", [told(WHOLE), told(WHOLE)], list(disturbed), kills, flows_since=3.5)


def test_equal_texts_are_told_with_their_pause() -> None:
    outcome = judge(shown(told(WHOLE), told(WHOLE)))
    figures = outcome.figures()
    assert outcome.is_kept
    assert (figures["kills"], figures["disturbed"], figures["equal_texts"]) == (1, 2, 2)
    assert (figures["longest_pause_s"], figures["disturbed_s"]) == (2.5, 3.0)
    assert "2 of 2 texts are those of the undisturbed run, character by character" in outcome.sentence()


def test_lost_and_doubled_characters_and_broken_streams_are_told() -> None:
    outcome = judge(shown(told(WHOLE[:301] + WHOLE[308:]), told(WHOLE[:301] + WHOLE[296:])))
    assert not outcome.is_kept
    assert "7 characters are lost, 5 doubled" in outcome.sentence()
    assert dict(outcome.rows())["texts equal to the undisturbed run's"] == "0 of 2"
    broken = replace(told(WHOLE[:301], is_whole=False), error="the engine was killed")
    outcome = judge(shown(told(WHOLE), broken))
    assert not outcome.is_kept
    assert outcome.sentence() == "1 of 2 streams broke off, first: the engine was killed"


def test_other_words_break_the_promise_only_where_equality_was_promised() -> None:
    other = told(WHOLE[:301] + "and now for something else altogether. " * 20)
    assert not judge(shown(told(WHOLE), other)).is_kept
    outcome = judge(shown(told(WHOLE), other, plan=replace(PLAN, is_exact=False)))
    assert outcome.is_kept
    assert outcome.sentence().endswith(
        "1 of 2 texts are those of the undisturbed run, 1 went on in other words"
    )


def test_an_interrupted_stream_is_compared_as_far_as_it_has_come() -> None:
    half = told(WHOLE[:500], is_whole=False)
    half.num_tokens = 18
    outcome = judge(shown(half, told(WHOLE)), is_interrupted=True)
    assert outcome.is_kept
    assert outcome.figures()["equal_texts"] == 2
    half.text = WHOLE[:301] + WHOLE[308:500]
    assert judge(shown(half, told(WHOLE)), is_interrupted=True).verdict.num_lost == 7


def test_where_nothing_was_killed_nothing_is_claimed() -> None:
    show = shown(told(WHOLE), told(WHOLE))
    show.kills.clear()
    assert judge(show).sentence().startswith("nothing was killed: the texts ended before")
    sentence = judge(show, is_interrupted=True).sentence()
    assert sentence == "until it was interrupted, nothing was killed"


def drawn(show: Show, width: int, height: int) -> list[str]:
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(picture(show, judge(show), 321.0, 4.0, width, height))
    return file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("streams", [1, 2, 16, 40])
def test_every_line_has_the_width_of_the_terminal_and_none_is_too_many(width: int, streams: int) -> None:
    texts = [told(WHOLE), told("木" * 400), told("e\u0301" * 200), told("", seam=0)]
    disturbed = [texts[number % 4] for number in range(streams)]
    undisturbed = [texts[0]] * streams
    show = Show(
        replace(PLAN, streams=streams),
        "",
        undisturbed,
        disturbed,
        [Kill(0.7 + number, 1) for number in range(12)],
        4.0,
    )
    lines = drawn(show, width, 24)
    assert {cell_len(line) for line in lines} == {width}
    assert len(lines) < 24
    assert ("more, for which there is no room" in "".join(lines)) == (streams > 16)


def test_the_end_of_a_text_is_drawn_with_a_mark_at_its_seam_and_the_figures_below() -> None:
    lines = drawn(shown(told(WHOLE[:320]), told("otherwise", seam=4)), 80, 24)
    assert f"{WHOLE[290:301]}✗{WHOLE[301:320].rstrip()}" in lines[4]
    assert lines[4].endswith("✓ │")
    assert "othe✗rwise" in lines[5]
    assert lines[5].endswith("≠ │")
    assert "engine 1 ✗ 2" in lines[2]
    assert "1 kill " in lines[-2]
    assert "longest pause 2.50 s" in lines[-2]


def test_a_text_can_not_control_the_terminal() -> None:
    hostile = "say \x1b[2J\x1b]0;title\x07 and \r\n\x9b31m so"
    page = "".join(drawn(shown(told(hostile, seam=0), told(WHOLE)), 80, 24))
    assert "say" in page
    assert not {"\x1b", "\x07", "\r", "\x9b"} & set(page)

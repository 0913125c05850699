"""The show on a terminal: a line for each stream, in another colour behind each kill."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.box import ROUNDED
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from takeoff.bench.told import ON_ITS_WAY_S, Told
from takeoff.demo.outcome import Outcome, judge
from takeoff.demo.show import Show

COLOURS = ("cyan", "yellow", "green", "magenta", "blue")  # of what one engine said, and the next
MARK = Text("✗", "bold red")  # where an engine was killed
MARGIN = 4  # columns of the frame and the space beside it
OTHER_LINES = 8  # lines that are no stream's, and the prompt below
RATE_S = 1.5  # tokens/s are of so long
JUDGED_EVERY_S = 0.5


class Screen:
    """Draws on a terminal; what it shows last stays there. A context manager."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")
        self._counts: deque[tuple[float, int]] = deque()  # when, and tokens of the run until then
        self._outcome: Outcome | None = None
        self._judged_at = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._judged_at = 0.0
        self.draw()
        self._live.stop()

    def note(self, _text: str) -> None:
        self.draw()

    def draw(self) -> None:
        now = time.monotonic()
        if self._show.disturbed and now - self._judged_at >= JUDGED_EVERY_S:
            self._outcome, self._judged_at = judge(self._show), now
        size = self._console.size
        self._live.update(
            picture(self._show, self._outcome, self._rate(now), now, size.width, size.height), refresh=True
        )

    def _rate(self, now: float) -> float:
        """Tokens/s of all streams."""
        counts, num_tokens = self._counts, self._show.num_tokens
        if counts and num_tokens < counts[-1][1]:  # another run has begun
            counts.clear()
        counts.append((now, num_tokens))
        while now - counts[0][0] > RATE_S:
            counts.popleft()
        since, before = counts[0]
        return (num_tokens - before) / (now - since) if now > since else 0.0


def picture(show: Show, outcome: Outcome | None, rate: float, now: float, width: int, height: int) -> Panel:
    """All of it as it is `now`, at most `height` lines of `width` columns."""
    plan = show.plan
    inner = width - MARGIN
    num_shown = min(plan.streams, max(1, height - OTHER_LINES))
    lines = [*_head(show, rate, now, inner), Text()]
    lines += [_stream(show, number, inner) for number in range(num_shown)]
    if num_shown < plan.streams:
        lines[-1] = Text(f"... and {plan.streams - num_shown + 1} more, for which there is no room", "dim")
    lines += [Text(), _foot(show, outcome, now, inner)]
    mode = "deterministic" if plan.is_exact else "not deterministic"
    protection = "" if plan.has_replay else ", without replay"
    return Panel(
        Group(*lines),
        box=ROUNDED,
        title=Text("takeoff demo unbreakable", "bold"),
        title_align="left",
        subtitle=Text(f"{plan.streams} streams of {plan.tokens} tokens, {mode}{protection}", "dim"),
        subtitle_align="right",
        border_style=_border(show, outcome),
        width=width,
    )


def _border(show: Show, outcome: Outcome | None) -> str:
    if _is_paused(show) or (outcome is not None and not outcome.is_kept):
        return "red"
    return "green" if _is_over(show) else "dim"


def _head(show: Show, rate: float, now: float, width: int) -> list[Text]:
    """Where we are, and the engines that have lived."""
    if not show.undisturbed:
        left, right = Text(f"starting a server with {show.plan.model}", "bold"), Text()
        return [_spread(left, right, width), _fitting(Text(show.server_said, "dim"), width)]
    if not show.disturbed:
        left = Text("1 of 2   undisturbed", "bold")
        return [_spread(left, _flow(rate), width), Text("what the texts are when nothing happens", "dim")]
    left = Text("2 of 2   the same, while its engine is killed", "bold")
    if _is_paused(show):
        right = Text.assemble(MARK, (f" no text for {now - show.kills[-1].at:.1f} s", "red"))
    else:
        right = Text("done", "bold green") if _is_over(show) else _flow(rate)
    return [_spread(left, right, width), _spread(_engines(show), _next_kill(show, now), width)]


def _flow(rate: float) -> Text:
    return Text.assemble(("● ", "green"), f"{rate:.0f} tokens/s")


def _is_paused(show: Show) -> bool:
    return bool(show.kills) and show.flows_since is None and not _is_over(show)


def _is_over(show: Show) -> bool:
    return bool(show.disturbed) and all(told.is_over for told in show.disturbed)


def _engines(show: Show) -> Text:
    """The latest engines, each in the colour of what it said."""
    line = Text.assemble(("engine ", "dim"))
    first = max(0, len(show.kills) - 7)
    if first:
        line.append("... ", "dim")
    for number in range(first, len(show.kills) + 1):
        line.append(f"{number + 1} ", _colour(number))
        if number < len(show.kills):
            line.append_text(MARK).append(" ")
    return line


def _next_kill(show: Show, now: float) -> Text:
    if show.next_kill_at is None or _is_over(show):
        return Text()
    return Text(f"next kill in {max(0.0, show.next_kill_at - now):.1f} s", "dim")


def _stream(show: Show, number: int, width: int) -> Text:
    """Its number, the end of its text, how far it is, and whether it is what it was when undisturbed."""
    if not show.streams:
        return Text(f"{number + 1:>2}", "dim")
    told = show.streams[number]
    seams = [told.length_at(kill.at + ON_ITS_WAY_S) for kill in show.kills] if show.disturbed else []
    bar_width = max(8, width // 5)
    line = Text.assemble((f"{number + 1:>2} ", "dim"))
    line.append_text(_tail(told.text, seams, width - bar_width - 7))
    line.append("  ").append_text(_bar(told, seams, show.plan.tokens, bar_width)).append(" ")
    return line.append_text(_sign(told, show.undisturbed[number] if show.disturbed else None, show))


def _sign(told: Told, before: Told | None, show: Show) -> Text:
    if told.error is not None:
        return Text("!", "bold red")
    if before is None:
        return Text(" ")
    if before.text.startswith(told.text):
        return Text("✓", "green")
    return Text("≠", "bold red" if show.plan.is_exact else "yellow")


def _tail(text: str, seams: list[int], width: int) -> Text:
    """The end of a text in exactly `width` columns, with a mark at each of `seams`, its places of kills."""
    backwards: list[tuple[str, str]] = []
    left, engine = width, len(seams)
    for place in range(len(text), -1, -1):
        while engine and seams[engine - 1] >= place:
            engine -= 1
            if left:
                backwards.append((MARK.plain, str(MARK.style)))
                left -= 1
        if place == 0:
            break
        character = _harmless(text[place - 1])
        if (size := cell_len(character)) > left:
            break
        backwards.append((character, _colour(engine)))
        left -= size
    return Text.assemble(*reversed(backwards), " " * left, no_wrap=True)


def _harmless(character: str) -> str:
    """No text moves the cursor or colours what is not its own."""
    return character if character.isprintable() else " "


def _bar(told: Told, seams: list[int], tokens: int, width: int) -> Text:
    """How much of a stream is done, with a mark where engines were killed."""
    done = width * min(1.0, told.num_tokens / tokens)
    marks = [min(int(done * seam / max(1, len(told.text))), width - 1) for seam in seams]
    bar = Text(no_wrap=True)
    for cell in range(width):
        if cell in marks:
            bar.append_text(MARK)
        elif cell < round(done):
            bar.append("━", _colour(sum(mark <= cell for mark in marks)))
        else:
            bar.append("─", "dim")
    return bar


def _foot(show: Show, outcome: Outcome | None, now: float, width: int) -> Text:
    """The figures until now."""
    if outcome is None:
        return Text("Ctrl-C ends it", "dim")
    verdict, num_streams = outcome.verdict, show.plan.streams
    pause_s = now - show.kills[-1].at if _is_paused(show) else 0.0
    kills = f"{outcome.num_kills} kill{'' if outcome.num_kills == 1 else 's'}"
    line = Text.assemble((kills, "bold"), no_wrap=True)
    for number, what in ((verdict.num_lost, "lost"), (verdict.num_doubled, "doubled")):
        line.append("   ").append(f"{number} {what}", "bold red" if number else "bold green")
    line.append(f"   longest pause {max(pause_s, outcome.longest_pause_s):.2f} s")
    style = "bold green" if verdict.num_equal == num_streams else "bold yellow"
    return _spread(line, Text(f"{verdict.num_equal} of {num_streams} as undisturbed", style), width)


def _colour(engine: int) -> str:
    return COLOURS[engine % len(COLOURS)]


def _spread(left: Text, right: Text, width: int) -> Text:
    """Both in one line, one at each end; the left one gives way."""
    line = _fitting(left, max(0, width - right.cell_len - 1))
    line.append(" " * (width - line.cell_len - right.cell_len))
    return line.append_text(right)


def _fitting(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff.engine.text_stream import TextStream


def stream_of(pieces: list[bytes], stop: tuple[str, ...] = (), stop_tokens: tuple[str, ...] = ()) -> str:
    """All text that is sent; ends at a stop."""
    stream = TextStream(lambda token_id: pieces[token_id], stop, stop_tokens)
    sent = ""
    for token_id in range(len(pieces)):
        text, stopped = stream.push(token_id, may_stop=True)
        assert "\ufffd" not in text or b"\xff" in b"".join(pieces)
        sent += text
        if stopped:
            return sent
    return sent + stream.flush()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(
    st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"])),
    st.lists(st.integers(0, 999)),
)
def test_however_bytes_are_split_the_text_is_whole(text: str, places: list[int]) -> None:
    assert stream_of(cut(text.encode(), places)) == text


@given(
    st.text("ab", max_size=40),
    st.lists(st.text("ab", min_size=1, max_size=4), min_size=1),
    st.lists(st.integers(0, 99)),
)
def test_text_is_cut_at_the_first_stop_string_to_be_complete(
    text: str, stops: list[str], places: list[int]
) -> None:
    pieces = cut(text.encode(), places)
    expected, so_far = text, ""
    for piece in pieces:
        so_far += piece.decode()
        found = [at for stop in stops if (at := so_far.find(stop)) >= 0]
        if found:
            expected = so_far[: min(found)]
            break
    assert stream_of(pieces, tuple(stops)) == expected


def test_what_may_begin_a_stop_string_waits_and_is_sent_when_it_does_not() -> None:
    pieces = [b"one <", b"en", b"d", b" two"]
    stream = TextStream(lambda token_id: pieces[token_id], ("<end>",), ())
    sent = [stream.push(i, may_stop=True)[0] for i in range(4)]
    assert sent == ["one ", "", "", "<end two"]


def test_a_stop_string_before_the_minimum_does_not_count() -> None:
    pieces = [b"stop", b" go ", b"stop"]
    stream = TextStream(lambda token_id: pieces[token_id], ("stop",), ())
    assert [stream.push(i, may_stop=i > 1) for i in range(3)] == [
        ("stop", False),
        (" go ", False),
        ("", True),
    ]


@pytest.mark.parametrize(
    ("pieces", "told"),
    [
        ([b"on", b"e;", b" two"], ";"),
        ([b"one; two<end>"], ";"),
        ([b"one <e", b"nd>;"], "<end>"),
        ([b"one <end>"], "<end>"),
        ([b"one"], None),
        ([b"two!"], None),
    ],
)
def test_it_tells_the_stop_string_that_it_stopped_at(pieces: list[bytes], told: str | None) -> None:
    stream = TextStream(lambda token_id: pieces[token_id], ("<end>x", "<end>", ";"), ("two!",))
    stopped = [stream.push(token_id, may_stop=True)[1] for token_id in range(len(pieces))]
    assert stream.stop_string == told
    assert any(stopped) == (told is not None or pieces == [b"two!"])


def stream_under(pattern: str, pieces: list[bytes], stop: tuple[str, ...]) -> tuple[str, int | None]:
    """The text that is sent where only what matches `pattern` may end, and the token that it ends at."""
    whole = re.compile(pattern)
    stream = TextStream(lambda token_id: pieces[token_id], stop, (), lambda text: bool(whole.fullmatch(text)))
    sent = ""
    for token_id in range(len(pieces)):
        text, stopped = stream.push(token_id, may_stop=True)
        sent += text
        if stopped:
            return sent, token_id
    return sent + stream.flush(), None


def test_a_stop_string_counts_where_a_constraint_accepts_though_an_earlier_one_did_not() -> None:
    assert stream_under("a;b", [b"a;b;c"], (";",)) == ("a;b", 0)
    assert stream_under("a;b", [b"a", b";b", b";"], (";",)) == ("a;b", 2)
    assert stream_under("a;b", [b"a;b-;"], (";", "-")) == ("a;b", 0)
    assert stream_under("xaa", [b"xaaaa"], ("aa",)) == ("xaa", 0), "occurrences may overlap"
    assert stream_under("a;b;c", [b"a;", b"b;", b"d;"], (";",)) == ("a;b;d;", None)


@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1),
    st.lists(st.integers(0, 99)),
    st.sets(st.integers(0, 20)),
)
def test_of_all_stop_strings_the_first_counts_that_a_constraint_lets_end(
    text: str, stops: list[str], places: list[int], lengths: set[int]
) -> None:
    pieces = cut(text.encode(), places)
    stream = TextStream(
        lambda token_id: pieces[token_id], tuple(stops), (), lambda said: len(said) in lengths
    )
    expected, before, so_far = text, 0, ""
    for piece in pieces:
        so_far += piece.decode()
        ends = [
            at
            for at in range(len(so_far))
            if at in lengths and any(so_far.startswith(s, at) and at + len(s) > before for s in stops)
        ]
        if ends:
            expected = so_far[: min(ends)]
            break
        before = len(so_far)
    sent = ""
    for token_id in range(len(pieces)):
        said, stopped = stream.push(token_id, may_stop=True)
        sent += said
        if stopped:
            break
    else:
        sent += stream.flush()
    assert sent == expected


def test_a_stop_token_is_one_whose_whole_text_is_it() -> None:
    assert stream_of([b"a User", b"User", b"b"], stop_tokens=("User",)) == "a User"


def test_an_unfinished_character_at_the_end_is_dropped_and_broken_bytes_are_marked() -> None:
    assert stream_of(["é".encode()[:1]]) == ""
    assert stream_of([b"a\xffb"]) == "a\ufffdb"

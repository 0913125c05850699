"""Every token comes back out of the parser that takeoff-client has, wherever the stream is cut."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from takeoff.http.sse import TokenEvents, sse_event, tight_event


class Parser:
    """takeoff-client's, written from what it was seen to do: bytes in any pieces, (event, data) out.

    Blocks end with two line ends; a line is split at its first colon, and one space after that is not
    part of the value; a block without data is none.
    """

    def __init__(self) -> None:
        self._block = b""
        self.events: list[tuple[str, str]] = []

    def feed(self, chunk: bytes) -> None:
        for line in chunk.splitlines(keepends=True):
            self._block += line
            if self._block.endswith((b"\n\n", b"\r\r", b"\r\n\r\n")):
                self._dispatch()

    def close(self) -> None:
        self._dispatch()

    def _dispatch(self) -> None:
        block, self._block = self._block, b""
        fields = {"event": "message"}
        data: list[str] = []
        for line in block.splitlines():
            name, _, value = line.decode().partition(":")
            value = value.removeprefix(" ")
            if name == "data":
                data.append(value)
            elif name == "event":
                fields["event"] = value
        if data:
            self.events.append((fields["event"], "\n".join(data)))


def parsed(chunks: Iterable[bytes]) -> list[tuple[str, str]]:
    parser = Parser()
    for chunk in chunks:
        parser.feed(chunk)
    parser.close()
    return parser.events


def framed(tokens: list[str]) -> list[bytes]:
    events = TokenEvents()
    return [events.frame(token) for token in tokens]


def with_line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.parametrize(
    ("token", "wire"),
    [
        ("a", b"data:a\n\n"),
        (" wor", b"data:  wor\n\n"),
        (" ", b"data:  \n\n"),
        ("", b"data:\n\n"),
        ("\n", b"data:\ndata:\n\n"),
        ("\n- a", b"data:\ndata:- a\n\n"),
        ("a\n b", b"data:a\ndata:  b\n\n"),
        (": x", b"data:: x\n\n"),
        ("data: x", b"data:data: x\n\n"),
        ("caf\u00e9", "data:caf\u00e9\n\n".encode()),
        ("a\rb\r\nc", b"data:a\ndata:b\ndata:c\n\n"),
        ("[DONE]", b"data:[DONE]\n\n"),
    ],
)
def test_the_bytes_of_a_token(token: str, wire: bytes) -> None:
    assert framed([token]) == [wire]
    assert parsed([wire]) == [("message", with_line_feeds(token))]


def test_a_line_break_of_two_characters_in_two_tokens_is_one() -> None:
    assert "".join(data for _, data in parsed(framed(["a\r", "\nb"]))) == "a\nb"
    assert "".join(data for _, data in parsed(framed(["a\r", "", "\n", "\n"]))) == "a\n\n"
    assert "".join(data for _, data in parsed(framed(["a\r", "b", "\n"]))) == "a\nb\n"


PIECES = st.text(st.sampled_from(list(" \r\n:ab\0\ufeff\u2028\x0b\x1c\u00e9\U0001f642")), max_size=6)


@given(tokens=st.lists(PIECES | st.text(st.characters(exclude_categories=["Cs"]), max_size=8), max_size=8))
def test_every_token_comes_back(tokens: list[str]) -> None:
    events = parsed(framed(tokens))
    assert [kind for kind, _ in events] == ["message"] * len(tokens)
    assert "".join(data for _, data in events) == with_line_feeds("".join(tokens))
    if not any("\r" in token for token in tokens):
        assert [data for _, data in events] == tokens


@given(tokens=st.lists(PIECES, min_size=1, max_size=5), sizes=st.lists(st.integers(1, 7), min_size=1))
def test_where_the_stream_is_cut_into_chunks_does_not_matter(tokens: list[str], sizes: list[int]) -> None:
    wire = b"".join(framed(tokens))
    chunks, start = [], 0
    while start < len(wire):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(wire[start : start + size])
        start += size
    assert parsed(chunks) == parsed([wire])


def test_an_event_may_have_a_kind() -> None:
    assert tight_event(b'{"a":1}') == b'data:{"a":1}\n\n'
    assert tight_event(b'{"a":1}', kind="metadata") == b'event:metadata\ndata:{"a":1}\n\n'
    assert parsed([tight_event(b"1", kind="metadata")]) == [("metadata", "1")]
    assert sse_event(b"{}") == b"data: {}\n\n"

"""Clients that leave the real server, in each phase of their request: nothing stays behind."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.test_serve import serving
from tests.e2e.processes import Stream, completion, ended, metric, wait_until

LONG = "word " * 1_500  # seconds of prefill


@pytest.fixture(scope="module")
def url(smollm2_path: Path) -> Iterator[str]:
    flags = ("--port", "0", "--max-slots", "2", "--context", "2048", "--prefix-cache-mb", "0")
    with serving("--model", str(smollm2_path), *flags) as server:
        yield server.wait_ready()


@contextlib.contextmanager
def asked(url: str, prompt: str, *, stream: bool) -> Iterator[socket.socket]:
    """A request that is sent, its answer not read; leaving the block closes the connection."""
    host, _, port = url.removeprefix("http://").partition(":")
    fields = {"prompt": prompt, "max_tokens": 400, "ignore_eos": True, "stream": stream}
    body = json.dumps(fields).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        yield connection


def assert_all_have_left(url: str, cancelled: float) -> None:
    wait_until(lambda: ended(url)["cancelled"] == cancelled, "every departure cancelled its request")
    wait_until(
        lambda: metric(url, "takeoff_requests_running") == metric(url, "takeoff_requests_waiting") == 0,
        "the engine runs nothing",
    )
    assert metric(url, "takeoff_requests_open") == metric(url, "takeoff_queued_tokens") == 0


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_leaving_in_the_queue_in_prefill_and_in_decode_frees_everything(url: str, stream: bool) -> None:
    expected = completion(url, "The capital of France is", 8)
    before = ended(url)["cancelled"]

    with asked(url, "Once upon a time", stream=stream):
        wait_until(lambda: metric(url, "takeoff_requests_running") == 1, "it decodes")
    assert_all_have_left(url, before + 1)

    with asked(url, LONG, stream=stream):
        wait_until(lambda: metric(url, "takeoff_requests_running") == 1, "it is in prefill")
    assert_all_have_left(url, before + 2)

    with contextlib.ExitStack() as stack:
        for number in range(5):
            stack.enter_context(asked(url, f"{number} {LONG}", stream=stream))
        wait_until(lambda: metric(url, "takeoff_requests_waiting") == 3, "two run, three wait")
    assert_all_have_left(url, before + 7)
    assert completion(url, "The capital of France is", 8) == expected


def test_leaving_after_the_first_byte_frees_the_slot_and_disturbs_nobody(url: str) -> None:
    alone = completion(url, "The sea is", 120)
    before = ended(url)["cancelled"]
    staying, leaving = Stream(url, "The sea is", 120), Stream(url, "A long story:", 900)
    staying.next_piece()
    leaving.next_piece()
    leaving.close()
    assert staying.rest() == alone
    assert_all_have_left(url, before + 1)

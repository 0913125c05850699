"""The encoder as a process: loaded, asked, cancelled, told what is wrong, gone with its parent."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.models.hf_folder import external, tiny_graph, write_folder

from takeoff.ipc.channel import Channel
from takeoff.ipc.messages import (
    Cancel,
    Encode,
    Encoded,
    EncodeFailed,
    EncoderLoaded,
    EncoderTokenize,
    EncoderTokenized,
    FromEncoder,
    Heartbeat,
    LoadEncoder,
    LoadFailed,
    ToEncoder,
)
from takeoff.request import Task

ToChild = Channel[FromEncoder, ToEncoder]


@contextmanager
def encoder_process() -> Iterator[tuple[ToChild, subprocess.Popen[bytes]]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    command = [sys.executable, "-m", "takeoff.engine.encoder.process", str(theirs.fileno())]
    child = subprocess.Popen(command, pass_fds=[theirs.fileno()])
    theirs.close()
    channel: ToChild = Channel(ours, FromEncoder)
    try:
        yield channel, child
    finally:
        channel.close()
        child.kill()
        child.wait(10)


def load(path: Path, duration_s: float = 0.0) -> LoadEncoder:
    return LoadEncoder(str(path), Task.EMBED, 1, 4, duration_s, None)


def answer(channel: ToChild) -> FromEncoder:
    """The next message that is not a heartbeat."""
    while isinstance(message := channel.receive(), Heartbeat):
        pass
    return message


def test_minilm_is_loaded_asked_and_gone_with_its_parent(minilm_path: Path) -> None:
    with encoder_process() as (channel, child):
        channel.send(load(minilm_path))
        loaded = answer(channel)
        assert isinstance(loaded, EncoderLoaded)
        assert (loaded.pid, loaded.num_dimensions, loaded.max_tokens) == (child.pid, 384, 256)
        assert loaded.labels == ()
        channel.send(Encode(1, ["A man is eating food.", "A man eats something."]))
        channel.send(Encode(2, ["rain " * 300]))
        channel.send(EncoderTokenize(3, "a man", skip_special_tokens=True))
        answers = {message.request_id: message for message in (answer(channel) for _ in range(3))}
        encoded = answers[1]
        assert isinstance(encoded, Encoded)
        vectors = np.frombuffer(encoded.vectors, "<f4").reshape(2, 384)
        assert encoded.num_tokens == 8 + 7
        assert 0.85 < vectors[0] @ vectors[1] < 0.9
        error = "the text has 302 tokens, and the model takes 256 at most"
        assert answers[2] == EncodeFailed(2, error, "context_length_exceeded")
        assert answers[3] == EncoderTokenized(3, [1037, 2158], ["a", "man"])
        while (beat := channel.receive()).counters.get("encode_calls") != 1:
            assert isinstance(beat, Heartbeat)
        assert (beat.running, beat.waiting, beat.counters["encode_tokens"]) == (0, 0, 15)
        channel.close()
        assert child.wait(10) == 0


def test_a_request_that_was_cancelled_while_it_waited_is_never_answered(minilm_path: Path) -> None:
    with encoder_process() as (channel, _):
        channel.send(load(minilm_path, duration_s=60.0))
        assert isinstance(answer(channel), EncoderLoaded)
        channel.send(Encode(1, ["one", "two"]))
        channel.send(Cancel(1))
        channel.send(Encode(2, ["one", "two", "three", "four"]))  # as many as a batch holds: it starts
        message = answer(channel)
        assert isinstance(message, Encoded)
        assert message.request_id == 2


@pytest.mark.parametrize("what", ["outside", "missing", "task"])
def test_what_can_not_be_loaded_is_told_in_a_line(tmp_path: Path, minilm_path: Path, what: str) -> None:
    message, words = load(tmp_path / "missing"), "No such file"
    if what == "outside":
        write_folder(tmp_path, tiny_graph(weight=external("/etc/passwd")))
        message, words = load(tmp_path), "keeps weights in '/etc/passwd'"
    elif what == "task":
        message = LoadEncoder(str(minilm_path), Task.CLASSIFY, 1, 4, 0.0, None)
        words = "is a model to embed with, not to classify"
    with encoder_process() as (channel, child):
        channel.send(message)
        failed = answer(channel)
        assert isinstance(failed, LoadFailed)
        assert words in failed.error
        assert child.wait(10) == 0

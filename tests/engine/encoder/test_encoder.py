"""Requests in, answers out, over a model that counts: no weights, no sockets."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from takeoff.engine.encoder.encoder import MAX_ANSWER_BYTES, Encoder
from takeoff.engine.encoder.model import Tokens
from takeoff.errors import InvalidRequest
from takeoff.ipc.messages import (
    Cancel,
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderTokenize,
    EncoderTokenized,
    FromEncoder,
    LoadEncoder,
)
from takeoff.ipc.turns import make_turns_file
from takeoff.request import Task, Text


class Counting:
    """A word is a token; a text's vector is (its tokens, the texts in its batch)."""

    num_dimensions, max_tokens, labels = 2, 5, ()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def tokenize(self, text: Text) -> Tokens:
        words = str(text).split()
        if "odd" in words:
            raise InvalidRequest("an odd text")
        return Tokens([0 if word == "nan" else 1 for word in words], [0] * len(words))

    def compute(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        self.batches.append(len(batch))
        rows = [[np.nan if 0 in tokens.ids else len(tokens), len(batch)] for tokens in batch]
        if any(len(tokens) == 4 for tokens in batch):
            raise RuntimeError("four tokens")
        return np.array(rows, np.float32)

    def spell(self, text: Text, *, skip_special_tokens: bool) -> tuple[list[int], list[str]]:
        words = str(text).split() + ([] if skip_special_tokens else ["<end>"])
        return list(range(len(words))), words

    def detokenize(self, tokens: list[int] | list[str], *, skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


class Rig:
    def __init__(self, max_batch_size: int = 8, model: Counting | None = None) -> None:
        self.sent: list[FromEncoder] = []
        self.now = 100.0
        self.model = model or Counting()
        load = LoadEncoder("", Task.EMBED, 1, max_batch_size, 0.010, None)
        self.encoder = Encoder(load, self.model, self.sent.append, lambda: self.now)

    def ask(self, request_id: int, *texts: Text) -> None:
        self.encoder.take(Encode(request_id, list(texts)))

    def run(self) -> None:
        while self.encoder.due_in_s is not None:
            self.encoder.step()


def vectors(message: FromEncoder) -> list[list[float]]:
    assert isinstance(message, Encoded)
    return np.frombuffer(message.vectors, "<f4").reshape(-1, 2).tolist()


def test_texts_of_several_requests_share_a_batch_and_each_gets_its_own_in_order() -> None:
    rig = Rig()
    rig.ask(1, "a b c", "a")
    rig.ask(2, "a b")
    assert rig.encoder.due_in_s == pytest.approx(0.010)
    assert (rig.encoder.num_open, rig.encoder.num_waiting) == (2, 3)
    rig.run()
    second, first = rig.sent  # by length: the last text of the first request is the shortest
    assert (vectors(first), vectors(second)) == ([[3, 3], [1, 3]], [[2, 3]])
    assert isinstance(first, Encoded)
    assert isinstance(second, Encoded)
    assert (first.request_id, first.num_tokens, second.request_id, second.num_tokens) == (1, 4, 2, 2)
    assert rig.model.batches == [3]
    assert (rig.encoder.num_open, rig.encoder.num_waiting) == (0, 0)
    counters = rig.encoder.counters.snapshot()
    assert (counters["encode_calls"], counters["encode_tokens"]) == (1, 6)


def test_a_request_over_several_batches_is_answered_once_whole() -> None:
    rig = Rig(max_batch_size=2)
    rig.ask(1, "a", "a b", "a b c", "a", "a b")
    rig.run()
    (answer,) = rig.sent
    assert [row[0] for row in vectors(answer)] == [1, 2, 3, 1, 2]
    assert rig.model.batches == [2, 2, 1]


def test_short_texts_share_a_call_of_few_tokens_however_long_a_text_the_model_takes() -> None:
    """A call holds the cores until it ends."""

    class Long(Counting):
        max_tokens = 8_192

    rig = Rig(model=Long())
    rig.ask(1, *["a " * 40] * 7, "a " * 500)
    rig.run()
    assert rig.model.batches == [1, 3, 3, 1]
    (answer,) = rig.sent
    assert [row[0] for row in vectors(answer)] == [40] * 7 + [500]


def test_a_text_too_long_is_refused_with_both_numbers_and_its_place() -> None:
    rig = Rig()
    rig.ask(1, "a b c d e f")
    rig.ask(2, "a", "a b c d e f g")
    rig.ask(3, "a b c d e")
    error = "the text has 6 tokens, and the model takes 5 at most"
    assert rig.sent[0] == EncodeFailed(1, error, "context_length_exceeded")
    error = "text 2 of 2 has 7 tokens, and the model takes 5 at most"
    assert rig.sent[1] == EncodeFailed(2, error, "context_length_exceeded")
    rig.run()
    assert vectors(rig.sent[2]) == [[5, 1]]


def test_what_the_tokenizer_refuses_is_an_answer() -> None:
    rig = Rig()
    rig.ask(1, "odd")
    rig.ask(2, " ")
    rig.ask(3)
    assert rig.sent == [
        EncodeFailed(1, "an odd text", "invalid_request"),
        EncodeFailed(2, "the text has no tokens", "invalid_request"),
        Encoded(3, b"", 0),
    ]
    assert rig.encoder.due_in_s is None


def test_more_vectors_than_a_frame_holds_are_refused_with_the_limit() -> None:
    rig = Rig()
    most = MAX_ANSWER_BYTES // 8
    rig.encoder.take(Encode(1, ["a"] * (most + 1)))
    assert rig.sent == [
        EncodeFailed(1, f"a request holds at most {most} texts, got {most + 1}", "invalid_request")
    ]


def test_a_cancelled_request_is_not_computed_and_not_answered() -> None:
    rig = Rig()
    rig.ask(1, "a", "a b")
    rig.ask(2, "a")
    rig.encoder.take(Cancel(1))
    rig.encoder.take(Cancel(7))
    rig.run()
    assert rig.model.batches == [1]
    assert [message.request_id for message in rig.sent if isinstance(message, Encoded)] == [2]


def test_a_request_cancelled_between_two_batches_leaves_the_rest_uncomputed() -> None:
    rig = Rig(max_batch_size=1)
    rig.ask(1, "a", "a b")
    rig.encoder.step()
    rig.encoder.take(Cancel(1))
    assert rig.encoder.due_in_s is None
    assert (rig.sent, rig.model.batches) == ([], [1])


def test_a_batch_that_fails_ends_its_requests_only() -> None:
    rig = Rig(max_batch_size=1)
    rig.ask(1, "a b c d", "a")
    rig.ask(2, "a")
    rig.run()
    failed, answered = rig.sent
    assert isinstance(failed, EncodeFailed)
    assert (failed.request_id, failed.code) == (1, "engine_failed")
    assert "four tokens" in failed.error
    assert vectors(answered) == [[1, 1]]
    assert rig.model.batches == [1, 1]


def test_a_vector_that_is_no_number_fails_its_request_and_not_its_neighbour() -> None:
    rig = Rig()
    rig.ask(1, "nan")
    rig.ask(2, "a")
    rig.run()
    error = "the model computed no finite numbers for a text"
    assert rig.sent[0] == EncodeFailed(1, error, "engine_failed")
    assert vectors(rig.sent[1]) == [[1, 2]]


def test_a_batch_is_computed_while_the_cores_are_ours_and_not_a_moment_longer() -> None:
    """Asked from another process: record locks are a process's own."""
    script = "import fcntl, sys; fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with make_turns_file() as file:
        fd = file.fileno()

        def is_taken() -> bool:
            command = [sys.executable, "-c", script, str(fd)]
            return subprocess.run(command, pass_fds=[fd], capture_output=True).returncode != 0

        class Looking(Counting):
            def compute(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
                taken.append(is_taken())
                return super().compute(batch)

        taken: list[bool] = []
        load = LoadEncoder("", Task.EMBED, 1, 8, 0.0, None, turns_fd=fd)
        encoder = Encoder(load, Looking(), lambda message: None)
        encoder.take(Encode(1, ["a"]))
        taken.append(is_taken())
        encoder.step()
        taken.append(is_taken())
        assert taken == [False, True, False]


def test_tokens_are_shown_and_joined() -> None:
    rig = Rig()
    rig.encoder.take(EncoderTokenize(1, "a b", skip_special_tokens=False))
    rig.encoder.take(EncoderTokenize(2, "a b", skip_special_tokens=True))
    rig.encoder.take(EncoderDetokenize(3, ["x", "y"], skip_special_tokens=True))
    assert rig.sent == [
        EncoderTokenized(1, [0, 1, 2], ["a", "b", "<end>"]),
        EncoderTokenized(2, [0, 1], ["a", "b"]),
        EncoderDetokenized(3, "x y"),
    ]

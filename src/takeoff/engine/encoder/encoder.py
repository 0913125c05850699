"""Requests in, vectors out: texts are tokenised as they come, and computed in batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from takeoff.engine.counters import Counters
from takeoff.engine.encoder.batching import Batcher, WaitingText
from takeoff.engine.encoder.model import Model, Tokens
from takeoff.errors import InvalidRequest
from takeoff.ipc.channel import MAX_FRAME_BYTES
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
from takeoff.ipc.turns import Turns
from takeoff.models.encoder_plan import batch_tokens
from takeoff.request import Text

logger = logging.getLogger(__name__)

MAX_ANSWER_BYTES = MAX_FRAME_BYTES - 1024  # of the vectors of one request


class _Refused(Exception):
    """A request that can't be computed."""

    def __init__(self, error: str, code: Literal["invalid_request", "context_length_exceeded"]) -> None:
        super().__init__(error)
        self.error, self.code = error, code


@dataclass(eq=False, slots=True)
class _Open:
    """A request and the rows that it has so far."""

    rows: NDArray[np.float32]  # [texts, dimensions]
    num_tokens: int
    missing: int = field(init=False)

    def __post_init__(self) -> None:
        self.missing = len(self.rows)


class Encoder:
    """One model, the texts that wait for it, and the requests they belong to. One thread uses it."""

    def __init__(
        self,
        load: LoadEncoder,
        model: Model,
        send: Callable[[FromEncoder], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counters = Counters()
        self._model = model
        self._send = send
        self._clock = clock
        self._turns = Turns(load.turns_fd)
        self._batcher = Batcher(load.max_batch_size, batch_tokens(load.n_threads), load.batch_duration_s)
        self._open: dict[int, _Open] = {}

    @property
    def num_waiting(self) -> int:
        """Texts that wait; safe from another thread."""
        return len(self._batcher)

    @property
    def num_open(self) -> int:
        """Requests without an answer; safe from another thread."""
        return len(self._open)

    @property
    def due_in_s(self) -> float | None:
        """How long to wait for more texts before `step`; None: there is nothing to do."""
        return self._batcher.due_in_s(self._clock())

    def take(self, message: Encode | Cancel | EncoderTokenize | EncoderDetokenize) -> None:
        """Accept or answer one message."""
        match message:
            case Cancel(request_id=request_id):
                self._drop(request_id)
            case Encode(request_id=request_id):
                self._answer(request_id, lambda: self._accept(message))
            case EncoderTokenize(request_id=request_id, text=text, skip_special_tokens=skip):
                self._answer(request_id, lambda: self._spell(request_id, text, skip))
            case EncoderDetokenize(request_id=request_id, tokens=tokens, skip_special_tokens=skip):
                self._answer(request_id, lambda: self._detokenize(request_id, tokens, skip))

    def step(self) -> None:
        """Compute one batch, and answer the requests that have all their rows."""
        batch = self._batcher.take()
        try:
            with self._turns.taken(), self.counters.timed("encode", tokens=sum(len(t.tokens) for t in batch)):
                rows = self._model.compute([text.tokens for text in batch])
        except Exception as exc:  # the root of the work: whoever has a text in the batch is told
            logger.exception("a batch of %d texts failed", len(batch))
            self._fail(batch, f"the model could not be run on a batch of {len(batch)} texts: {exc}")
            return
        finite: NDArray[np.bool_] = np.all(np.isfinite(rows), axis=1)
        self._fail(
            [text for text, is_finite in zip(batch, finite, strict=True) if not is_finite],
            "the model computed no finite numbers for a text",
        )
        for text, row in zip(batch, rows, strict=True):
            self._deliver(text, row)

    def _answer(self, request_id: int, work: Callable[[], None]) -> None:
        try:
            work()
        except InvalidRequest as exc:
            self._send(EncodeFailed(request_id, exc.message, "invalid_request"))
        except _Refused as exc:
            self._send(EncodeFailed(request_id, exc.error, exc.code))

    def _accept(self, encode: Encode) -> None:
        """Tokenise the texts and have them wait."""
        texts, num_dimensions = encode.texts, self._model.num_dimensions
        if len(texts) * num_dimensions * 4 > MAX_ANSWER_BYTES:
            most = MAX_ANSWER_BYTES // (4 * num_dimensions)
            raise _Refused(f"a request holds at most {most} texts, got {len(texts)}", "invalid_request")
        tokens = [self._tokenize(text, index, len(texts)) for index, text in enumerate(texts)]
        if not texts:
            self._send(Encoded(encode.request_id, b"", 0))
            return
        rows = np.zeros((len(texts), num_dimensions), "<f4")
        self._open[encode.request_id] = _Open(rows, sum(map(len, tokens)))
        since = self._clock()
        self._batcher.add(WaitingText(encode.request_id, i, each, since) for i, each in enumerate(tokens))

    def _tokenize(self, text: Text, index: int, num_texts: int) -> Tokens:
        """Raises InvalidRequest or _Refused, with the number of the text where there are several."""
        tokens = self._model.tokenize(text)
        which = "the text" if num_texts == 1 else f"text {index + 1} of {num_texts}"
        if len(tokens) == 0:
            raise _Refused(f"{which} has no tokens", "invalid_request")
        if len(tokens) > self._model.max_tokens:
            raise _Refused(
                f"{which} has {len(tokens)} tokens, and the model takes {self._model.max_tokens} at most",
                "context_length_exceeded",
            )
        return tokens

    def _spell(self, request_id: int, text: Text, skip: bool) -> None:
        ids, tokens = self._model.spell(text, skip_special_tokens=skip)
        self._send(EncoderTokenized(request_id, ids, tokens))

    def _detokenize(self, request_id: int, tokens: list[int | str], skip: bool) -> None:
        text = self._model.detokenize(tokens, skip_special_tokens=skip)
        self._send(EncoderDetokenized(request_id, text))

    def _deliver(self, text: WaitingText, row: NDArray[np.float32]) -> None:
        request = self._open.get(text.request_id)
        if request is None:
            return
        request.rows[text.index] = row
        request.missing -= 1
        if request.missing == 0:
            del self._open[text.request_id]
            self._send(Encoded(text.request_id, request.rows.tobytes(), request.num_tokens))

    def _fail(self, batch: Sequence[WaitingText], error: str) -> None:
        """End the requests of these texts, with all their other texts."""
        for request_id in dict.fromkeys(text.request_id for text in batch):
            if request_id in self._open:
                self._drop(request_id)
                self._send(EncodeFailed(request_id, error, "engine_failed"))

    def _drop(self, request_id: int) -> None:
        if self._open.pop(request_id, None) is not None:
            self._batcher.remove(request_id)

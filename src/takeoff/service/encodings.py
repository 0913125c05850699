"""The open requests of encoders: sent, and answered once."""

from __future__ import annotations

import asyncio
import itertools
from array import array
from dataclasses import dataclass
from typing import TypeVar

from takeoff.errors import EngineFailed, TakeoffError
from takeoff.ipc.messages import (
    Cancel,
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderTokenize,
    EncoderTokenized,
)
from takeoff.request import EncodeRequest, Encoding, FinishReason, Text
from takeoff.service.admission import Admission, Party
from takeoff.service.child import ERRORS
from takeoff.service.engine_watch import Death
from takeoff.service.reader import Reader
from takeoff.service.tally import Tally

CHARACTERS_PER_TOKEN = 4  # a guess, to bound what waits before it is tokenised

Question = Encode | EncoderTokenize | EncoderDetokenize
Answer = Encoded | EncoderTokenized | EncoderDetokenized
Expected = TypeVar("Expected", Encoded, EncoderTokenized, EncoderDetokenized)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that will end with exactly one terminal event."""

    request: EncodeRequest
    reader: Reader
    num_tokens: int  # that it counts for in the queue, by a guess
    party: Party


@dataclass(eq=False, slots=True)
class _Asked:
    question: Question
    reader: Reader
    answer: asyncio.Future[Answer]


class Encodings:
    """Questions to encoders and the callers that wait for their answers."""

    def __init__(self, admission: Admission, tally: Tally) -> None:
        self._admission = admission
        self._tally = tally
        self._open: dict[int, _Asked] = {}
        self._ids = itertools.count(1)

    def accept(self, request: EncodeRequest, reader: Reader, party: Party) -> Accepted:
        """Take a request that `Admission.enter` let in; `finish` must follow at once.

        Raises:
            Overloaded: its texts have no room in the queue; it was not accepted.
        """
        num_tokens = sum(_num_characters(text) for text in request.texts) // CHARACTERS_PER_TOKEN + 1
        self._admission.enqueue(party, num_tokens)
        self._tally.accept()
        return Accepted(request, reader, num_tokens, party)

    async def finish(self, accepted: Accepted) -> Encoding:
        """Wait for the vectors of an accepted request.

        Raises:
            InvalidRequest, PromptTooLong: a text can't be encoded.
            EngineFailed: the engine died.
        """
        texts, reader = list(accepted.request.texts), accepted.reader
        reason = FinishReason.CANCELLED  # of whoever leaves
        try:
            answer = await self._ask(reader, Encode(next(self._ids), texts), Encoded)
            reason = FinishReason.STOP
        except TakeoffError:
            reason = FinishReason.FAILED
            raise
        finally:
            served = reason is FinishReason.STOP
            self._admission.dequeue(accepted.party, accepted.num_tokens, served=served)
            self._tally.end(reason, accepted.party)
        encoder = reader.encoder
        size = encoder.num_dimensions
        numbers: list[float] = array("f", answer.vectors).tolist()
        vectors = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return Encoding(
            vectors=vectors,
            num_tokens=answer.num_tokens,
            labels=encoder.labels,
            reader_id=reader.reader_id,
            replica_id=answer.replica_id,
        )

    async def tokenize(self, reader: Reader, text: str, *, skip_special_tokens: bool) -> EncoderTokenized:
        """How the reader's tokenizer cuts `text`. Raises as `finish`."""
        return await self._ask(
            reader, EncoderTokenize(next(self._ids), text, skip_special_tokens), EncoderTokenized
        )

    async def detokenize(self, reader: Reader, tokens: list[int | str], *, skip_special_tokens: bool) -> str:
        """The text that tokens stand for. Raises as `finish`."""
        question = EncoderDetokenize(next(self._ids), tokens, skip_special_tokens)
        return (await self._ask(reader, question, EncoderDetokenized)).text

    def take(self, message: Answer | EncodeFailed) -> None:
        """An answer has come; nobody may wait for it any more."""
        asked = self._open.get(message.request_id)
        if asked is None or asked.answer.done():
            return
        if isinstance(message, EncodeFailed):
            asked.answer.set_exception(ERRORS[message.code](message.error, param="text"))
        else:
            asked.answer.set_result(message)

    def survive(self, death: Death, reader: Reader) -> None:
        """Keep what `reader` has in work for its next engine; only what killed the last one is ended."""
        culprit = reader.quarantine.died(death.in_call, is_crash=death.is_crash)
        asked = None if culprit is None else self._open.get(culprit)
        if asked is not None and not asked.answer.done():
            error = f"the engine dies of this request, which it computed alone: {death.error}"
            asked.answer.set_exception(EngineFailed(error))

    def replay(self, reader: Reader) -> None:
        """Another engine is up: it is asked what the last one was."""
        self._send(reader, reader.quarantine.loaded())

    def fail(self, error: str, reader: Reader | None = None) -> None:
        """End what `reader` has in work, or everything, as failed."""
        for asked in self._open.values():
            if (reader is None or asked.reader is reader) and not asked.answer.done():
                asked.answer.set_exception(EngineFailed(error, hint="send the request again"))

    async def _ask(self, reader: Reader, question: Question, expected: type[Expected]) -> Expected:
        asked = _Asked(question, reader, asyncio.get_running_loop().create_future())
        self._open[question.request_id] = asked
        reader.open_one()
        try:
            self._send(reader, reader.quarantine.add(question.request_id))
            answer = await asked.answer
            assert isinstance(answer, expected)
            return answer
        except asyncio.CancelledError:
            reader.send(Cancel(question.request_id))
            raise
        finally:
            del self._open[question.request_id]
            reader.close_one()
            self._send(reader, reader.quarantine.left(question.request_id))

    def _send(self, reader: Reader, request_ids: list[int]) -> None:
        for request_id in request_ids:
            reader.send(self._open[request_id].question)


def _num_characters(text: Text) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))

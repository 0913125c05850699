"""What doors and replicas say to each other, as bytes: msgpack, which Ray carries and does not look into.

A door gives each request that it sends a number of its own, also where it sends it a second time, so that
news of the first sending can't be taken for news of the second.
"""

from __future__ import annotations

import msgspec

from takeoff.ipc.messages import (
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderLoaded,
    EncoderTokenize,
    EncoderTokenized,
    Heartbeat,
    ImagesRead,
    Load,
    Loaded,
    LoadEncoder,
    Step,
    Submit,
)

News = Step | ImagesRead
Question = Encode | EncoderTokenize | EncoderDetokenize
Answer = Encoded | EncodeFailed | EncoderTokenized | EncoderDetokenized


class Described(msgspec.Struct, frozen=True):
    """What a door must know of a reader to prepare requests for it."""

    reader_id: str
    settings_json: str  # of the reader
    model_name: str
    task: str
    load: Load | LoadEncoder
    loaded: Loaded | EncoderLoaded
    config: bytes  # JSON, of the model's file


class Look(msgspec.Struct, frozen=True):
    """What a replica says of itself when it is asked."""

    replica_id: str
    node: str  # address of its machine
    beat: Heartbeat | None  # the last of its engine
    restarts: int  # of its engine


class Batch(msgspec.Struct, frozen=True):
    """Everything that a replica has had to say to one door since the batch before."""

    number: int  # from 0, without gaps
    news: list[News]


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(message)


def decode_batch(data: bytes) -> Batch:
    return _BATCH.decode(data)


def decode_submit(data: bytes) -> Submit:
    return _SUBMIT.decode(data)


def decode_question(data: bytes) -> Question:
    return _QUESTION.decode(data)


def decode_answer(data: bytes) -> Answer:
    return _ANSWER.decode(data)


def decode_look(data: bytes) -> Look:
    return _LOOK.decode(data)


def decode_described(data: bytes) -> Described:
    return _DESCRIBED.decode(data)


_BATCH = msgspec.msgpack.Decoder(Batch)
_SUBMIT = msgspec.msgpack.Decoder(Submit)
_QUESTION: msgspec.msgpack.Decoder[Question] = msgspec.msgpack.Decoder(Question)
_ANSWER: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)
_LOOK = msgspec.msgpack.Decoder(Look)
_DESCRIBED = msgspec.msgpack.Decoder(Described)

"""An encoder process of scripted answers: the vector of a text is its length and its number of words.

A text "hang" is never answered, one "die" ends the process, one "refuse" is refused.
"""

from __future__ import annotations

import os
import socket
import sys
from array import array

from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.lifeline import die_with_parent
from takeoff.ipc.messages import (
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderLoaded,
    EncoderTokenize,
    EncoderTokenized,
    FromEncoder,
    LoadEncoder,
    ToEncoder,
)


def main() -> None:
    die_with_parent()
    channel: Channel[ToEncoder, FromEncoder] = Channel(socket.socket(fileno=int(sys.argv[-1])), ToEncoder)
    try:
        assert isinstance(channel.receive(), LoadEncoder)
        channel.send(EncoderLoaded(os.getpid(), 2, 64, ("short", "long"), 0.0))
        while True:
            answer(channel, channel.receive())
    except ChannelClosed:
        pass


def answer(channel: Channel[ToEncoder, FromEncoder], question: ToEncoder) -> None:
    match question:
        case Encode(request_id=request_id, texts=["refuse"]):
            channel.send(EncodeFailed(request_id, "refused", "invalid_request"))
        case Encode(texts=["die"]):
            os.abort()
        case Encode(texts=["hang"]):
            pass
        case Encode(request_id=request_id, texts=texts):
            joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
            numbers = array("f", [value for text in joined for value in (len(text), len(text.split()))])
            channel.send(Encoded(request_id, numbers.tobytes(), sum(len(text.split()) for text in joined)))
        case EncoderTokenize(request_id=request_id, text=text):
            words = text.split()
            channel.send(EncoderTokenized(request_id, list(range(len(words))), words))
        case EncoderDetokenize(request_id=request_id, tokens=tokens):
            channel.send(EncoderDetokenized(request_id, " ".join(map(str, tokens))))


if __name__ == "__main__":
    main()

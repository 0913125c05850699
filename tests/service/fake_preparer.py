"""A preparer process of scripted answers: one token for each word.

A text that begins with "hang" never gets an answer, one with "die" ends the process, one with
"refuse" is refused.
"""

from __future__ import annotations

import os
import socket
import sys
import threading

from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.lifeline import die_with_parent
from takeoff.ipc.messages import (
    FromPreparer,
    LoadVocabulary,
    Prepare,
    Prepared,
    PrepareFailed,
    ToPreparer,
    VocabularyLoaded,
)


def main() -> None:
    die_with_parent()
    channel: Channel[ToPreparer, FromPreparer] = Channel(socket.socket(fileno=int(sys.argv[-1])), ToPreparer)
    try:
        assert isinstance(channel.receive(), LoadVocabulary)
        channel.send(VocabularyLoaded(os.getpid(), 50_000, False))
        while True:
            request = channel.receive()
            assert isinstance(request, Prepare)
            answer(channel, request)
    except ChannelClosed:
        pass


def answer(channel: Channel[ToPreparer, FromPreparer], request: Prepare) -> None:
    words = request.text.split()
    match words[0]:
        case "hang":
            threading.Event().wait()
        case "die":
            os.abort()
        case "refuse":
            channel.send(PrepareFailed(request.ask_id, "refused", "invalid_request", "be nice"))
        case _:
            channel.send(Prepared(request.ask_id, list(range(len(words)))))


if __name__ == "__main__":
    main()

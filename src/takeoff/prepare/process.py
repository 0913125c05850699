"""The preparer process: `python -m takeoff.prepare.process FD`, FD being its end of a socket pair.

Answers one question after the other. It knows no deadline: who asks kills it when it is late. A
thread of its own reads the socket, so that a process whose parent is gone goes too, in the middle
of a template if need be.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

from takeoff.call_formats import call_format_of
from takeoff.errors import ModelError
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import (
    FromPreparer,
    LoadFailed,
    LoadVocabulary,
    ToPreparer,
    VocabularyLoaded,
)
from takeoff.ipc.parent import Inbox, receive_first, run_child
from takeoff.prepare.answers import MEMORY_LIMIT_BYTES, Answerer
from takeoff.prepare.tokenizer import Tokenizer

NICE = 10  # of a trial, which keeps both cores busy for up to a second: engines go first


def serve(channel: Channel[ToPreparer, FromPreparer]) -> None:
    """Load the vocabulary that the first message names, then answer until the socket closes.

    Raises:
        ChannelClosed: the parent is gone, or speaks another protocol.
    """
    load = receive_first(channel, LoadVocabulary)
    inbox: Inbox[ToPreparer] = Inbox(channel)
    try:
        tokenizer = Tokenizer(load.model_path)
        answerer = Answerer(tokenizer, tries_constraints=load.tries_constraints)
    except ModelError as exc:
        channel.send(LoadFailed(exc.message))
        return
    if load.tries_constraints:
        os.nice(NICE)
    _limit_memory()
    template = tokenizer.chat_template
    call_format = call_format_of(template)
    channel.send(VocabularyLoaded(os.getpid(), tokenizer.n_vocab, template is not None, call_format))
    while True:
        inbox.wait()
        for question in inbox.take():
            if isinstance(question, LoadVocabulary):
                raise ChannelClosed("a preparer is loaded once")
            channel.send(answerer.answer(question))


def _limit_memory() -> None:
    """Turn a template that explodes into a MemoryError. Linux only: others don't count as we need."""
    if sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_LIMIT_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard == resource.RLIM_INFINITY or limit <= hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def main() -> None:
    """Entry point of the child."""
    run_child("preparer", ToPreparer, serve)


if __name__ == "__main__":
    main()

"""The preparer process: `python -m takeoff.prepare.process FD`, FD being its end of a socket pair.

Answers one Prepare after the other. It knows no deadline: who asks kills it when it is late. A
thread of its own reads the socket, so that a process whose parent is gone goes too, in the middle
of a template if need be.
"""

from __future__ import annotations

import logging
import os
import queue
import resource
import sys
import threading
from pathlib import Path

from takeoff.errors import InvalidRequest, ModelError
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import (
    FromPreparer,
    LoadFailed,
    LoadVocabulary,
    Prepare,
    Prepared,
    PrepareFailed,
    ToPreparer,
    VocabularyLoaded,
)
from takeoff.ipc.parent import open_parent_channel
from takeoff.prepare.chat_template import TemplateBroken, TemplateRefused
from takeoff.prepare.prompt import PromptBuilder
from takeoff.prepare.tokenizer import Tokenizer

MEMORY_LIMIT_BYTES = 2 << 30  # that requests may add to what the vocabulary took

logger = logging.getLogger(__name__)


def serve(channel: Channel[ToPreparer, FromPreparer]) -> None:
    """Load the vocabulary that the first message names, then answer until the socket closes.

    Raises:
        ChannelClosed: the parent is gone, or speaks another protocol.
    """
    load = channel.receive()
    if not isinstance(load, LoadVocabulary):
        raise ChannelClosed(f"the first message must be LoadVocabulary, got {type(load).__name__}")
    requests: queue.SimpleQueue[ToPreparer] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, requests), name="receive", daemon=True).start()
    try:
        tokenizer = Tokenizer(load.model_path)
    except ModelError as exc:
        channel.send(LoadFailed(exc.message))
        return
    _limit_memory()
    channel.send(VocabularyLoaded(os.getpid(), tokenizer.n_vocab, tokenizer.chat_template is not None))
    builder = PromptBuilder(tokenizer)
    while True:
        request = requests.get()
        if not isinstance(request, Prepare):
            raise ChannelClosed(f"expected Prepare, got {type(request).__name__}")
        channel.send(answer(builder, request))


def answer(builder: PromptBuilder, request: Prepare) -> Prepared | PrepareFailed:
    """Build one prompt, or say why not."""
    try:
        ids = builder.build(request.text, request.chat_template)
    except InvalidRequest as exc:
        return PrepareFailed(request.prepare_id, exc.message, "invalid_request", exc.hint)
    except TemplateRefused as exc:
        return PrepareFailed(request.prepare_id, str(exc), "invalid_request", None)
    except TemplateBroken as exc:
        hint = "serve with --chat-template off, or use another model file"
        return PrepareFailed(request.prepare_id, str(exc), "preparer_failed", hint)
    except MemoryError:
        error = f"preparing the prompt needs more than {MEMORY_LIMIT_BYTES >> 30} GiB of memory"
        return PrepareFailed(request.prepare_id, error, "preparer_failed", None)
    if len(ids) > request.max_tokens:
        error = (
            f"the prompt has {len(ids)} tokens, but a sequence holds {request.max_tokens + 1} "
            "and one of them is the completion's"
        )
        hint = "shorten the prompt, or serve with a larger --context"
        return PrepareFailed(request.prepare_id, error, "context_length_exceeded", hint)
    return Prepared(request.prepare_id, ids)


def _receive(channel: Channel[ToPreparer, FromPreparer], requests: queue.SimpleQueue[ToPreparer]) -> None:
    try:
        while True:
            requests.put(channel.receive())
    except ChannelClosed:
        os._exit(0)  # the main thread may be inside a template that never ends


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
    channel: Channel[ToPreparer, FromPreparer] = open_parent_channel("preparer", ToPreparer)
    try:
        serve(channel)
    except ChannelClosed as exc:
        logger.info("the service is gone: %s", exc)


if __name__ == "__main__":
    main()

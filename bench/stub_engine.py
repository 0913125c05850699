"""An engine process that computes nothing: each step gives every sequence its next token at once.

`stub_engine.py STEP_MS FD`. With 0 ms it steps as fast as it can. For measuring what stands before an engine.
It counts the tokens of prompts that an engine would have computed whose cache never forgets a block.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time

from takeoff.cluster.affinity import BLOCK, blocks_of
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import Cancel, FromEngine, Heartbeat, Load, Loaded, Step, Submit, ToEngine
from takeoff.ipc.parent import Inbox
from takeoff.request import FinishReason, TokenEvent

N_VOCAB = 49_152
HEARTBEAT_S = 0.5


def main() -> None:
    step_s, fd = float(sys.argv[1]) / 1e3, int(sys.argv[2])
    channel: Channel[ToEngine, FromEngine] = Channel(socket.socket(fileno=fd), ToEngine)
    load = channel.receive()
    assert isinstance(load, Load)
    channel.send(Loaded(os.getpid(), load.n_ctx_slot, load.n_slots, N_VOCAB, True, 0.0))
    with contextlib.suppress(ChannelClosed):
        serve(channel, step_s)


def serve(channel: Channel[ToEngine, FromEngine], step_s: float) -> None:
    inbox: Inbox[ToEngine] = Inbox(channel)
    left: dict[int, int] = {}  # tokens of the running sequences
    known: set[bytes] = set()  # blocks of prompts
    counters = {"prefill_tokens": 0.0, "sample_tokens": 0.0}
    last_beat = last_step = 0.0
    while True:
        now = time.monotonic()
        if now - last_beat > HEARTBEAT_S:
            last_beat = now
            channel.send(Heartbeat(0, 0.0, len(left), 0, dict(counters)))
        if left:
            time.sleep(max(0.0, last_step + step_s - now))
        else:
            inbox.wait(HEARTBEAT_S)
        last_step = time.monotonic()
        for command in inbox.take():
            match command:
                case Submit():
                    left[command.request_id] = command.sampling.max_new_tokens or 1
                    counters["prefill_tokens"] += _new_tokens(command, known)
                case Cancel():
                    left.pop(command.request_id, None)
        if left:
            counters["sample_tokens"] += len(left)
            channel.send(Step([_next(request_id, left) for request_id in list(left)]))


def _new_tokens(submit: Submit, known: set[bytes]) -> int:
    blocks = blocks_of(submit)
    num_known = next((number for number, block in enumerate(blocks) if block not in known), len(blocks))
    known.update(blocks)
    return len(submit.prompt_token_ids) - num_known * BLOCK


def _next(request_id: int, left: dict[int, int]) -> TokenEvent:
    left[request_id] -= 1
    reason = None if left[request_id] else FinishReason.LENGTH
    if reason is not None:
        del left[request_id]
    return TokenEvent(request_id=request_id, token_ids=(28,), text=" word", finish_reason=reason)


if __name__ == "__main__":
    main()

"""An engine process of scripted tokens: speaks the protocol, computes nothing.

`fake_engine.py [--step-ms N] [--load-error TEXT] [--die-loading] FD`. Token ids count from 1, the
text of token n is "n ". It serves all requests at once and stops when its socket closes. Of a prompt with the
token POISON it dies before the next token, of one with SLOW_POISON after three. A model at the path BROKEN
can't be loaded.
"""

from __future__ import annotations

import argparse
import os
import queue
import socket
import threading
import time

from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import (
    Cancel,
    FromEngine,
    Heartbeat,
    Load,
    Loaded,
    LoadFailed,
    Progress,
    StandsBy,
    Step,
    Submit,
    TakeOver,
    ToEngine,
)
from takeoff.request import FinishReason, TokenEvent

N_VOCAB = 50_000
POISON = 40_001
SLOW_POISON = 40_002
BROKEN = "broken.gguf"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--step-ms", type=float, default=1.0)
    parser.add_argument("--load-error")
    parser.add_argument("--die-loading", action="store_true")
    parser.add_argument("fd", type=int)
    options = parser.parse_args()
    channel: Channel[ToEngine, FromEngine] = Channel(socket.socket(fileno=options.fd), ToEngine)
    try:
        load = channel.receive()
        assert isinstance(load, Load)
        if load.stands_by:
            channel.send(StandsBy())
            assert isinstance(channel.receive(), TakeOver)
        channel.send(Progress(0.5))
        if options.load_error:
            channel.send(LoadFailed(options.load_error))
            return
        if load.model_path == BROKEN:
            channel.send(LoadFailed("the weights are damaged"))
            return
        if options.die_loading:
            os.abort()
        channel.send(Loaded(os.getpid(), load.n_ctx_slot, load.n_slots, N_VOCAB, True, 0.0))
        serve(channel, options.step_ms / 1e3)
    except ChannelClosed:
        pass


def serve(channel: Channel[ToEngine, FromEngine], step_s: float) -> None:
    commands: queue.SimpleQueue[ToEngine | None] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(channel, commands), daemon=True).start()
    running: dict[int, Submit] = {}
    emitted: dict[int, int] = {}
    last_beat, received = 0.0, 0
    while True:
        if time.monotonic() - last_beat > 0.2:
            last_beat = time.monotonic()
            num_emitted = sum(emitted.values())
            counters = {"decode_calls": float(num_emitted), "decode_seconds": 0.5 + num_emitted * step_s}
            counters |= {"sample_tokens": num_emitted, "prefill_tokens": received, "prefill_seconds": 0.0}
            channel.send(Heartbeat(0, 0.0, len(running), 0, counters))
        try:
            command = commands.get(timeout=step_s)
        except queue.Empty:
            command = None
        match command:
            case Submit(request_id=request_id):
                running[request_id] = command
                emitted[request_id] = len(command.emitted_token_ids)
                received += len(command.prompt_token_ids)
            case Cancel(request_id=request_id) if request_id in running:
                del running[request_id]
                channel.send(Step([TokenEvent(request_id=request_id, finish_reason=FinishReason.CANCELLED)]))
            case None:
                _step(channel, running, emitted)


def _step(
    channel: Channel[ToEngine, FromEngine], running: dict[int, Submit], emitted: dict[int, int]
) -> None:
    events = []
    for request_id, submit in list(running.items()):
        n = emitted[request_id] + 1
        if POISON in submit.prompt_token_ids or (SLOW_POISON in submit.prompt_token_ids and n > 3):
            os.abort()
        emitted[request_id] = n
        is_last = n == submit.sampling.max_new_tokens
        if is_last:
            del running[request_id]
        events.append(
            TokenEvent(
                request_id=request_id,
                token_ids=(n,),
                text=f"{n} ",
                finish_reason=FinishReason.LENGTH if is_last else None,
                cached_tokens=2 if n == 1 else 0,
            )
        )
    if events:
        channel.send(Step(events))


def _receive(channel: Channel[ToEngine, FromEngine], commands: queue.SimpleQueue[ToEngine | None]) -> None:
    try:
        while True:
            commands.put(channel.receive())
    except ChannelClosed:
        os._exit(0)


if __name__ == "__main__":
    main()

"""The encoder process: `python -m takeoff.engine.encoder.process FD`, FD being its end of a socket pair.

Three threads, as in `takeoff.engine.process`: one receives, one beats, the main one computes. When
the socket closes the parent is gone, and so is this process, in the middle of a batch if need be.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from takeoff.engine.encoder.encoder import Encoder
from takeoff.engine.encoder.model import Model
from takeoff.engine.spinning import bound_spinning
from takeoff.errors import ModelError, TakeoffError
from takeoff.ipc.beacon import open_beacon
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import EncoderLoaded, FromEncoder, Heartbeat, LoadEncoder, LoadFailed, ToEncoder
from takeoff.ipc.parent import Inbox, receive_first, run_child, start_beating
from takeoff.sandbox.confine import measure


def serve(channel: Channel[ToEncoder, FromEncoder]) -> None:
    """Serve until the socket closes.

    Raises:
        ChannelClosed: the parent is gone.
    """
    load = receive_first(channel, LoadEncoder)
    inbox: Inbox[ToEncoder] = Inbox(channel)
    started = time.perf_counter()
    try:
        model = load_model(load)
    except TakeoffError as exc:
        channel.send(LoadFailed(exc.told))
        return
    encoder = Encoder(load, model, channel.send)
    load_s = time.perf_counter() - started
    channel.send(
        EncoderLoaded(
            os.getpid(), model.num_dimensions, model.max_tokens, model.labels, load_s, sandbox=measure()
        )
    )
    start_beating(channel, open_beacon(load.beacon_fd), lambda: _beat(encoder))
    while True:
        for message in inbox.take():
            if isinstance(message, LoadEncoder):
                raise ChannelClosed("an encoder is loaded once")
            encoder.take(message)
        due_in_s = encoder.due_in_s
        if due_in_s == 0:
            encoder.step()
        else:
            inbox.wait(due_in_s)


def _beat(encoder: Encoder) -> Heartbeat:
    counters = encoder.counters.snapshot()
    batches = int(counters.get("encode_calls", 0))
    return Heartbeat(
        batches, encoder.counters.call_running_s, encoder.num_open, encoder.num_waiting, counters
    )


def load_model(load: LoadEncoder) -> Model:
    """The model that a message names: a GGUF file, or a folder of the HF layout.

    Raises:
        ModelError: it is not a model that we can run, or does not do the task.
    """
    path = Path(load.model_path)
    if path.is_dir():
        from takeoff.models.encoder import read_encoder

        encoder = read_encoder(path)
        _check_task(encoder.task, load)
        with _silence():  # onnxruntime looks for GPUs when it starts, and complains that it may not
            from takeoff.engine.encoder.onnx_model import OnnxModel

        return OnnxModel(encoder, load)
    from takeoff.models.gguf import read_gguf

    gguf = read_gguf(path)
    _check_task(gguf.task, load)
    from takeoff.engine.encoder.gguf_model import GgufModel

    return GgufModel(gguf, load)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing is written to standard error, by libraries neither."""
    ours = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(ours, 2)
        os.close(ours)


def _check_task(task: str, load: LoadEncoder) -> None:
    if task != load.task:
        raise ModelError(f"{load.model_path} is a model to {task} with, not to {load.task}")


def main() -> None:
    """Entry point of the child."""
    bound_spinning()
    run_child("encoder", ToEncoder, serve)


if __name__ == "__main__":
    main()

"""The encoder process: `python -m takeoff.engine.encoder.process FD`, FD being its end of a socket pair.

Three threads, as in `takeoff.engine.process`: one receives, one beats, the main one computes. When
the socket closes the parent is gone, and so is this process, in the middle of a batch if need be.
"""

from __future__ import annotations

import collections
import logging
import os
import threading
import time
from pathlib import Path

from takeoff.engine.encoder.encoder import Encoder
from takeoff.engine.encoder.model import Model
from takeoff.engine.process import HEARTBEAT_S, SPIN_COUNT
from takeoff.errors import ModelError, TakeoffError
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.messages import EncoderLoaded, FromEncoder, Heartbeat, LoadEncoder, LoadFailed, ToEncoder
from takeoff.ipc.parent import open_parent_channel

logger = logging.getLogger(__name__)


class EncoderProcess:
    """Messages in, answers out, one encoder between."""

    def __init__(self, channel: Channel[ToEncoder, FromEncoder]) -> None:
        self._channel = channel
        self._messages: collections.deque[ToEncoder] = collections.deque()
        self._wake = threading.Event()

    def run(self) -> None:
        """Serve until the socket closes.

        Raises:
            ChannelClosed: the parent is gone.
        """
        load = self._channel.receive()
        if not isinstance(load, LoadEncoder):
            raise ChannelClosed(f"the first message must be LoadEncoder, got {type(load).__name__}")
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        started = time.perf_counter()
        try:
            model = load_model(load)
        except TakeoffError as exc:
            self._channel.send(LoadFailed(exc.message if exc.hint is None else f"{exc.message} ({exc.hint})"))
            return
        encoder = Encoder(load, model, self._channel.send)
        load_s = time.perf_counter() - started
        self._channel.send(
            EncoderLoaded(os.getpid(), model.num_dimensions, model.max_tokens, model.labels, load_s)
        )
        threading.Thread(target=self._beat, args=(encoder,), name="heartbeat", daemon=True).start()
        while True:
            self._take_messages(encoder)
            due_in_s = encoder.due_in_s
            if due_in_s == 0:
                encoder.step()
            else:
                self._wake.wait(due_in_s)

    def _take_messages(self, encoder: Encoder) -> None:
        self._wake.clear()
        while self._messages:
            message = self._messages.popleft()
            if isinstance(message, LoadEncoder):
                raise ChannelClosed("an encoder is loaded once")
            encoder.take(message)

    def _receive(self) -> None:
        try:
            while True:
                self._messages.append(self._channel.receive())
                self._wake.set()
        except ChannelClosed:
            os._exit(0)  # the main thread may be inside a call for seconds; nobody is left to answer

    def _beat(self, encoder: Encoder) -> None:
        while True:
            counters = encoder.counters.snapshot()
            running_s = encoder.counters.call_running_s
            waiting = encoder.num_waiting
            beat = Heartbeat(
                int(counters.get("encode_calls", 0)), running_s, encoder.num_open, waiting, counters
            )
            try:
                self._channel.send(beat)
            except ChannelClosed:
                os._exit(0)
            time.sleep(HEARTBEAT_S)


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
        from takeoff.engine.encoder.onnx_model import OnnxModel

        return OnnxModel(encoder, load)
    from takeoff.models.gguf import read_gguf

    gguf = read_gguf(path)
    _check_task(gguf.task, load)
    from takeoff.engine.encoder.gguf_model import GgufModel

    return GgufModel(gguf, load)


def _check_task(task: str, load: LoadEncoder) -> None:
    if task != load.task:
        raise ModelError(f"{load.model_path} is a model to {task} with, not to {load.task}")


def main() -> None:
    """Entry point of the child."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    channel: Channel[ToEncoder, FromEncoder] = open_parent_channel("encoder", ToEncoder)
    try:
        EncoderProcess(channel).run()
    except ChannelClosed as exc:
        logger.info("the service is gone: %s", exc)


if __name__ == "__main__":
    main()

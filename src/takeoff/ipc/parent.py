"""What every child process has in common: how it begins, hears its parent, and ends with it."""

from __future__ import annotations

import collections
import itertools
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from takeoff.ipc.beacon import Beacon
from takeoff.ipc.channel import Channel, ChannelClosed
from takeoff.ipc.lifeline import die_with_parent
from takeoff.ipc.messages import Heartbeat
from takeoff.sandbox.confine import measure

BEAT_S = 0.1
BEATS_PER_MESSAGE = 5

Incoming = TypeVar("Incoming")
First = TypeVar("First")

logger = logging.getLogger(__name__)


def run_child(name: str, incoming: Any, serve: Callable[[Channel[Any, Any]], None]) -> None:
    """Set this child up and `serve` over its end, whose number is `sys.argv[1]`; its log lines say `name`.

    Returns when the parent is gone, or `serve` has nothing more to do.
    """
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, which drains
    logging.basicConfig(
        level=os.environ.get("TAKEOFF_LOG_LEVEL", "warning").upper(),
        format=f"%(asctime)s %(levelname)s {name}: %(message)s",
    )
    logger.debug("sandbox: %s", measure().sentence)
    threading.excepthook = _end_with_thread
    channel: Channel[Any, Any] = Channel(socket.socket(fileno=int(sys.argv[1])), incoming)
    try:
        serve(channel)
    except ChannelClosed as exc:
        logger.info("the service is gone: %s", exc)


def _end_with_thread(failed: threading.ExceptHookArgs) -> None:
    """A process without one of its threads would let requests wait forever: the next one does their work."""
    threading.__excepthook__(failed)
    os._exit(1)


def receive_first(channel: Channel[Any, Any], kind: type[First]) -> First:
    """The message that says what the child is for.

    Raises:
        ChannelClosed: the parent is gone, or speaks another protocol.
    """
    message = channel.receive()
    if not isinstance(message, kind):
        raise ChannelClosed(f"the first message must be {kind.__name__}, got {type(message).__name__}")
    return message


class Inbox(Generic[Incoming]):
    """What was sent to this process and not yet taken; a thread of its own reads the socket.

    When the socket closes the parent is gone, and so is this process, whatever it is doing: its main
    thread may be inside a call for seconds, or inside a template that never ends.
    """

    def __init__(self, channel: Channel[Any, Any]) -> None:
        self._channel = channel
        self._messages: collections.deque[Incoming] = collections.deque()
        self._wake = threading.Event()
        threading.Thread(target=self._receive, name="receive", daemon=True).start()

    def put(self, message: Incoming) -> None:
        """Add a message from a thread of this process."""
        self._messages.append(message)
        self._wake.set()

    def take(self) -> Iterator[Incoming]:
        """The messages that are there, oldest first, and those that come meanwhile."""
        self._wake.clear()
        while self._messages:
            yield self._messages.popleft()

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when something may have come."""
        self._wake.wait(timeout_s)

    def _receive(self) -> None:
        try:
            while True:
                self.put(self._channel.receive())
        except ChannelClosed:
            os._exit(0)  # nobody is left to answer


def start_beating(channel: Channel[Any, Any], beacon: Beacon, beat: Callable[[], Heartbeat]) -> None:
    """Beat in the beacon, and now and then send what `beat` says; in a thread: a long step is no death."""

    def send() -> None:
        for number in itertools.count():
            beacon.beat()
            if number % BEATS_PER_MESSAGE == 0:
                try:
                    channel.send(beat())
                except ChannelClosed:
                    os._exit(0)
            time.sleep(BEAT_S)

    threading.Thread(target=send, name="heartbeat", daemon=True).start()

"""How a child process begins: its end of the channel to the process that started it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from typing import Any

from takeoff.ipc.channel import Channel
from takeoff.ipc.lifeline import die_with_parent


def open_parent_channel(name: str, incoming: Any) -> Channel[Any, Any]:
    """Set this child up and open its end, whose number is `sys.argv[1]`; its log lines say `name`."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the parent, which drains
    logging.basicConfig(
        level=os.environ.get("TAKEOFF_LOG_LEVEL", "warning").upper(),
        format=f"%(asctime)s %(levelname)s {name}: %(message)s",
    )
    return Channel(socket.socket(fileno=int(sys.argv[1])), incoming)

"""Length-prefixed msgpack frames over a Unix socket pair: one end blocking, one end asyncio.

A frame is a 4-byte little-endian length and that many bytes. A length above the cap means that
the other side is broken or hostile: the channel raises and must be closed. Never pickle.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Generic, TypeVar

import msgspec

MAX_FRAME_BYTES = 64 * 1024 * 1024
SOCKET_BUFFER_BYTES = 1024 * 1024

_LENGTH = struct.Struct("<I")

Incoming = TypeVar("Incoming")
Outgoing = TypeVar("Outgoing")


class ChannelClosed(Exception):
    """The other side is gone, or broke the protocol."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected stream sockets: one to keep, one to hand to a child process."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    return ours, theirs


def encode_frame(encoder: msgspec.msgpack.Encoder, message: object) -> bytes:
    """One frame.

    Raises:
        ValueError: the message is larger than MAX_FRAME_BYTES; nothing was sent.
    """
    body = encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise ValueError(f"a message of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class Channel(Generic[Incoming, Outgoing]):
    """The blocking end, for child processes. Any thread may send; one thread receives."""

    def __init__(self, sock: socket.socket, incoming: type[Incoming] | object) -> None:
        self._socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
        self._send_lock = threading.Lock()

    def send(self, message: Outgoing) -> None:
        """Write one message; blocks while the other side is slow.

        Raises:
            ChannelClosed: the other side is gone.
        """
        frame = encode_frame(self._encoder, message)
        try:
            with self._send_lock:
                self._socket.sendall(frame)
        except OSError as exc:
            raise ChannelClosed(str(exc)) from exc

    def receive(self) -> Incoming:
        """Block until one message is here.

        Raises:
            ChannelClosed: end of stream, an oversized frame, or a message of an unknown type.
        """
        (length,) = _LENGTH.unpack(self._read_exactly(_LENGTH.size))
        if length > MAX_FRAME_BYTES:
            raise ChannelClosed(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
        try:
            return self._decoder.decode(self._read_exactly(length))
        except msgspec.DecodeError as exc:
            raise ChannelClosed(f"not a message of this protocol: {exc}") from exc

    def close(self) -> None:
        self._socket.close()

    def _read_exactly(self, size: int) -> bytes:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._socket.recv_into(view)
            except OSError as exc:
                raise ChannelClosed(str(exc)) from exc
            if count == 0:
                raise ChannelClosed("the other side closed the channel")
            view = view[count:]
        return bytes(data)


class AsyncChannel(Generic[Incoming, Outgoing]):
    """The asyncio end, for the service. Create it with `open`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, incoming: type[Incoming] | object
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)

    @classmethod
    async def open(
        cls, sock: socket.socket, incoming: type[Incoming] | object
    ) -> AsyncChannel[Incoming, Outgoing]:
        """Wrap our end of a socket pair. The channel owns the socket from here on."""
        sock.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=sock)
        return cls(reader, writer, incoming)

    def send(self, message: Outgoing) -> None:
        """Queue one message; it is written as the other side reads. Never blocks.

        Raises:
            ChannelClosed: the other side is gone.
        """
        if self._writer.is_closing():
            raise ChannelClosed("the channel is closed")
        self._writer.write(encode_frame(self._encoder, message))

    async def receive(self) -> Incoming:
        """Wait for one message.

        Raises:
            ChannelClosed: end of stream, an oversized frame, or a message of an unknown type.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > MAX_FRAME_BYTES:
                raise ChannelClosed(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
            return self._decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as exc:
            raise ChannelClosed("the other side closed the channel") from exc
        except msgspec.DecodeError as exc:
            raise ChannelClosed(f"not a message of this protocol: {exc}") from exc

    def close(self) -> None:
        self._writer.close()

from __future__ import annotations

import asyncio
import struct

import msgspec
import pytest

from takeoff.ipc.channel import MAX_FRAME_BYTES, AsyncChannel, Channel, ChannelClosed, socket_pair
from takeoff.ipc.messages import Cancel, FromEngine, Step, Submit, ToEngine
from takeoff.request import FinishReason, SamplingParams, TokenEvent

SUBMIT = Submit(7, [1, 2, 3], SamplingParams(seed=2**64 - 1, logit_bias={5: -1.5}, stop=("é",)), "tenant")
STEP = Step([TokenEvent(request_id=7, token_ids=(9,), text="é", finish_reason=FinishReason.STOP)])


def test_messages_arrive_as_they_were_sent_in_both_directions() -> None:
    async def run() -> None:
        ours, theirs = socket_pair()
        service: AsyncChannel[FromEngine, ToEngine] = await AsyncChannel.open(ours, FromEngine)
        engine: Channel[ToEngine, FromEngine] = Channel(theirs, ToEngine)
        service.send(SUBMIT)
        service.send(Cancel(7))
        assert engine.receive() == SUBMIT
        assert engine.receive() == Cancel(7)
        engine.send(STEP)
        assert await service.receive() == STEP
        engine.close()
        with pytest.raises(ChannelClosed, match="the other side closed"):
            await service.receive()
        service.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (struct.pack("<I", MAX_FRAME_BYTES + 1), "over the limit of 67108864"),
        (struct.pack("<I", 3) + b"\xc1\xc1\xc1", "not a message of this protocol"),
        (struct.pack("<I", 9) + msgspec.msgpack.encode(["Unknown"]), "not a message of this protocol"),
        (b"\x01", "closed the channel"),
    ],
)
def test_a_broken_frame_closes_the_channel_on_either_end(frame: bytes, message: str) -> None:
    async def run() -> None:
        ours, theirs = socket_pair()
        service: AsyncChannel[FromEngine, ToEngine] = await AsyncChannel.open(ours, FromEngine)
        theirs.sendall(frame)
        theirs.close()
        with pytest.raises(ChannelClosed, match=message):
            await service.receive()
        service.close()
        ours, theirs = socket_pair()
        engine: Channel[ToEngine, FromEngine] = Channel(ours, ToEngine)
        theirs.sendall(frame)
        theirs.close()
        with pytest.raises(ChannelClosed, match=message):
            engine.receive()
        engine.close()

    asyncio.run(run())


def test_a_message_over_the_limit_is_refused_before_it_is_sent() -> None:
    ours, theirs = socket_pair()
    engine: Channel[ToEngine, FromEngine] = Channel(ours, ToEngine)
    event = TokenEvent(request_id=1, text="x" * MAX_FRAME_BYTES)
    with pytest.raises(ValueError, match="over the limit"):
        engine.send(Step([event]))
    engine.close()
    theirs.close()

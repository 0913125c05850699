"""An engine that is many: requests are computed by one of them, and what one loses another gets."""

from __future__ import annotations

import asyncio

import pytest
from tests.cluster.fake_handle import Replica, make_submit, remote_engine, run
from tests.service.serving import until

from takeoff.cluster import outbox, remote
from takeoff.cluster.affinity import blocks_of
from takeoff.cluster.remote import MOST_LOSSES, RemoteEngine
from takeoff.cluster.wire import Look, decode_question, encode
from takeoff.ipc.messages import (
    Cancel,
    Encode,
    Encoded,
    EncodeFailed,
    EncoderDetokenize,
    EncoderDetokenized,
    EncoderTokenize,
    EncoderTokenized,
    Heartbeat,
    ImagesRead,
    Lost,
    Placed,
    Step,
)
from takeoff.request import FinishReason, TokenEvent
from takeoff.service.engine_watch import FromAny
from takeoff.service.replicas import ReplicaFacts


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "IDLE_S", 0.05)
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.0001)
    monkeypatch.setattr(remote, "LOOK_EVERY_S", 0.01)


def events(told: list[FromAny]) -> list[TokenEvent]:
    return [event for message in told if isinstance(message, Step) for event in message.events]


def lost(told: list[FromAny]) -> list[int]:
    return [number for message in told if isinstance(message, Lost) for number in message.request_ids]


def is_quiet(engine: RemoteEngine) -> bool:
    """Whether it keeps nothing of any request."""
    return not engine._tasks and not engine._losses and not engine._silent


def beat(steps: int, running: int = 1, waiting: int = 0) -> Heartbeat:
    return Heartbeat(steps, 0.0, running, waiting, {"decode_calls": float(steps)})


# --- requests -----------------------------------------------------------------------------------


def test_all_requests_of_a_door_share_one_stream_and_a_step_is_one_message() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            for request_id in (11, 12, 13):
                engine.send(make_submit(request_id))
            await until(lambda: len(replica.calls) == 3)
            assert told == [Placed(request_id, "a") for request_id in (11, 12, 13)]
            await until(lambda: len(replica.streams) == 1)
            for token_id, ends in ((7, False), (8, True)):
                told.clear()
                for wire_id in replica.calls:
                    replica.tell(wire_id, token_id, ends=ends)
                await until(lambda: bool(told))
                assert [[event.request_id for event in step.events] for step in told] == [[11, 12, 13]]
                assert {event.token_ids for event in events(told)} == {(token_id,)}
            await until(lambda: is_quiet(engine))
            assert len(replica.streams) == 1

    run(work())


def test_the_wire_has_numbers_of_the_doors_own_and_the_router_what_it_goes_by() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, _):
            submits = [make_submit(500, *range(70)), make_submit(600, *range(40), emitted=(7, 8))]
            for submit in submits:
                engine.send(submit)
            await until(lambda: len(replica.calls) == 2)
            assert [each.request_id for each in replica.submits] == [1, 2]
            assert [each.prompt_token_ids for each in replica.submits] == [list(range(70)), list(range(40))]
            assert [each.emitted_token_ids for each in replica.submits] == [[], [7, 8]]
            said = [each for each in engine._handle.chosen if "blocks" in each]
            assert [each["blocks"] for each in said] == [blocks_of(submit) for submit in submits]
            assert [(each["prompt"], each["completion"]) for each in said] == [(70, 10), (42, 10)]

    run(work())


def test_a_request_whose_replica_died_is_lost_and_exactly_those() -> None:
    async def work() -> None:
        first, second = Replica("a"), Replica("b")
        async with remote_engine(first, second) as (engine, told):
            for request_id in (11, 12):
                engine.send(make_submit(request_id))
            await until(lambda: len(first.calls) == 2)
            first.is_alive = False  # takes nothing more
            engine.send(make_submit(13))
            await until(lambda: len(second.calls) == 1)
            first.die()
            await until(lambda: len(lost(told)) == 2)
            assert sorted(lost(told)) == [11, 12]
            for request_id in (11, 12):
                engine.send(make_submit(request_id, emitted=(7,)))
            await until(lambda: len(second.calls) == 3)
            for wire_id in second.calls:
                second.tell(wire_id, 9, ends=True)
            await until(lambda: len(events(told)) == 3)
            assert sorted(event.request_id for event in events(told)) == [11, 12, 13]
            await until(lambda: is_quiet(engine))
            assert len(lost(told)) == 2

    run(work())


def test_a_replica_that_comes_gets_its_part_of_what_waits_and_nothing_is_said_twice() -> None:
    async def work() -> None:
        first, second = Replica("a", beat=beat(5, running=2, waiting=4)), Replica("b", is_alive=False)
        async with remote_engine(first, second) as (engine, told):
            for request_id in range(11, 17):
                engine.send(make_submit(request_id))
            await until(lambda: len(first.calls) == 6)
            for wire_id in (1, 2):  # 11 and 12 have slots
                first.tell(wire_id, 7)
            await until(lambda: len(events(told)) == 2 and "a" in engine._beats)
            first.is_alive = False  # so that the fake's choice falls on the other one
            first.look = lambda: encode(Look("a", "10.0.0.1", first.beat, 0))  # type: ignore[method-assign]
            second.is_alive, second.beat = True, beat(0)
            await until(lambda: bool(lost(told)))
            assert lost(told) == [15, 16], "half of the four that wait, those that came last"
            for wire_id in (5, 6):
                first.tell(wire_id, 8)
            first.tell(3, 8)
            for request_id in (15, 16):
                engine.send(make_submit(request_id))
            await until(lambda: len(second.calls) == 2)
            await until(lambda: all(first.calls[wire_id].is_cancelled for wire_id in (5, 6)))
            for wire_id in second.calls:
                second.tell(wire_id, 9, ends=True)
            for wire_id in range(1, 5):
                first.tell(wire_id, 9, ends=True)
            await until(lambda: is_quiet(engine))
            said = [(event.request_id, *event.token_ids) for event in events(told)]
            expected = [(11, 7), (12, 7), (13, 8), *((number, 9) for number in range(11, 17))]
            assert sorted(said) == sorted(expected)
            assert lost(told) == [15, 16], "it has come only once"

    run(work())


def test_a_broken_stream_of_news_loses_the_requests_of_that_replica_and_their_calls_are_cancelled() -> None:
    async def work() -> None:
        replica, other = Replica("a"), Replica("b")
        async with remote_engine(replica, other) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.streams) == 1)
            replica.is_alive = False
            engine.send(make_submit(12))
            await until(lambda: len(other.calls) == 1)
            replica.break_news("a network")
            await until(lambda: bool(lost(told)))
            assert lost(told) == [11]
            assert replica.calls[1].is_cancelled
            assert not other.calls[2].is_cancelled

    run(work())


def test_news_of_an_earlier_sending_are_void() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.streams) == 1)
            replica.calls[1].ended.set_exception(OSError("the call alone broke"))
            await until(lambda: bool(lost(told)))
            engine.send(make_submit(11))
            await until(lambda: len(replica.calls) == 2)
            replica.tell(1, 7, ends=True)
            replica.tell(2, 8, ends=True)
            await until(lambda: bool(events(told)))
            assert [event.token_ids for event in events(told)] == [(8,)]
            await until(lambda: is_quiet(engine))

    run(work())


async def lose(engine: RemoteEngine, replica: Replica, told: list[FromAny], request_id: int) -> None:
    """Send a request, and let its call break."""
    count = len(replica.calls)
    engine.send(make_submit(request_id))
    await until(lambda: len(replica.calls) == count + 1)
    told.clear()
    replica.calls[max(replica.calls)].ended.set_exception(OSError("gone"))
    await until(lambda: bool(told))


def test_after_too_many_losses_in_a_row_a_request_fails_once() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            for _ in range(MOST_LOSSES - 1):
                await lose(engine, replica, told, 11)
                assert told == [Lost([11])]
            await lose(engine, replica, told, 11)
            [failed] = events(told)
            assert (failed.request_id, failed.finish_reason) == (11, FinishReason.FAILED)
            assert failed.error == "8 replicas in a row were lost with this request: OSError: gone"
            assert len(told) == 1
            await until(lambda: is_quiet(engine))

    run(work())


def test_a_token_is_a_sign_of_progress_and_losses_are_counted_anew() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            for _ in range(MOST_LOSSES - 1):
                await lose(engine, replica, told, 11)
            engine.send(make_submit(11))
            await until(lambda: len(replica.calls) == MOST_LOSSES)
            replica.tell(MOST_LOSSES, 7)
            await until(lambda: bool(events(told)))
            replica.calls[MOST_LOSSES].ended.set_exception(OSError("gone"))
            await until(lambda: bool(lost(told)))
            for _ in range(MOST_LOSSES - 2):
                await lose(engine, replica, told, 11)
                assert told == [Lost([11])]

    run(work())


def test_an_image_that_was_read_is_told_under_the_doors_id() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.streams) == 1)
            [box] = replica.outboxes.values()
            box.images(ImagesRead(1, 64))
            await until(lambda: ImagesRead(11, 64) in told)

    run(work())


def test_a_call_that_is_done_long_before_its_last_news_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LATE_S", 0.05)

    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.calls) == 1)
            replica.calls[1].ended.set_result(None)
            await until(lambda: bool(lost(told)))
            assert lost(told) == [11]

    run(work())


def test_a_replica_that_dies_behind_a_requests_last_news_loses_nothing() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.streams) == 1)
            [box] = replica.outboxes.values()
            box.event(TokenEvent(request_id=1, token_ids=(7,), finish_reason=FinishReason.STOP))
            await until(lambda: bool(events(told)))
            replica.die()
            await until(lambda: is_quiet(engine))
            assert lost(told) == []

    run(work())


def test_a_call_that_ray_serve_cancels_is_lost_and_not_forgotten() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await until(lambda: len(replica.calls) == 1)
            replica.calls[1].ended.cancel()
            await until(lambda: bool(lost(told)))
            assert lost(told) == [11]

    run(work())


def test_a_request_without_a_replica_waits_for_one_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        replica = Replica("a", is_alive=False)
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            await asyncio.sleep(0.05)
            assert told == []
            replica.is_alive = True
            await until(lambda: len(replica.calls) == 1)
            replica.is_alive = False
            monkeypatch.setattr(remote, "PLACE_S", 0.05)
            engine.send(make_submit(12))
            await until(lambda: bool(lost(told)))
            assert lost(told) == [12]

    run(work())


# --- leaving ------------------------------------------------------------------------------------


def test_cancelling_cancels_the_call_and_nothing_more_is_told() -> None:
    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            for request_id in (11, 12):
                engine.send(make_submit(request_id))
            await until(lambda: len(replica.calls) == 2 and len(replica.streams) == 1)
            engine.send(Cancel(11))
            engine.send(Cancel(11))
            engine.send(Cancel(99))
            await until(lambda: replica.calls[1].is_cancelled)
            told.clear()
            for wire_id in (1, 2):
                replica.tell(wire_id, 7)
            await until(lambda: bool(told))
            assert [event.request_id for event in events(told)] == [12]
            assert not replica.calls[2].is_cancelled
            assert len(engine._tasks) == 1

    run(work())


def test_cancelling_at_once_or_while_it_waits_to_be_sent_again_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 5.0)

    async def work() -> None:
        replica = Replica("a")
        async with remote_engine(replica) as (engine, told):
            engine.send(make_submit(11))
            engine.send(Cancel(11))
            await until(lambda: is_quiet(engine))
            assert (told, replica.calls) == ([], {})
            await lose(engine, replica, told, 12)
            engine.send(make_submit(12))
            await asyncio.sleep(0)
            engine.send(Cancel(12))
            assert is_quiet(engine)

    run(work())


async def never(_data: bytes) -> bytes:
    await asyncio.Event().wait()
    return b""


def test_stopping_leaves_no_task_whatever_it_was_doing() -> None:
    async def work() -> None:
        replica = Replica("a", never)
        async with remote_engine(replica) as (engine, told):
            for request_id in (11, 12):
                engine.send(make_submit(request_id))
            engine.send(Encode(13, ["a"]))
            await until(lambda: len(replica.calls) == 2 and len(replica.streams) == 1)
            told.clear()
            await engine.stop()
            assert all(call.is_cancelled for call in replica.calls.values())
            assert replica.streams[0].is_cancelled
            assert told == []
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await engine.stop()

    run(work())


# --- questions ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Encode(11, ["a"]), Encoded(11, b"\0\0\0\0", 1)),
        (EncoderTokenize(11, "a", False), EncoderTokenized(11, [1], ["a"])),
        (EncoderDetokenize(11, [1], False), EncoderDetokenized(11, "a")),
        (Encode(11, ["a"]), EncodeFailed(11, "too long", "context_length_exceeded")),
    ],
)
def test_a_question_is_asked_again_when_its_replica_dies_and_gets_one_answer(
    question: Encode, answer: Encoded
) -> None:
    asked: list[object] = []

    async def answers(data: bytes) -> bytes:
        asked.append(decode_question(data))
        if len(asked) < 3:
            raise OSError("gone")
        return encode(answer)

    async def work() -> None:
        async with remote_engine(Replica("a", answers)) as (engine, told):
            engine.send(question)
            await until(lambda: bool(told))
            assert told == [answer]
            assert asked == [question] * 3
            await until(lambda: is_quiet(engine))

    run(work())


def test_a_question_that_no_replica_can_answer_fails_once() -> None:
    asked: list[bytes] = []

    async def answers(data: bytes) -> bytes:
        asked.append(data)
        raise OSError("gone\nTraceback")

    async def work() -> None:
        async with remote_engine(Replica("a", answers)) as (engine, told):
            engine.send(Encode(11, ["a"]))
            await until(lambda: bool(told))
            assert told == [EncodeFailed(11, "OSError: gone", "engine_failed")]
            assert len(asked) == MOST_LOSSES
            await until(lambda: is_quiet(engine))

    run(work())


def test_a_question_that_is_cancelled_is_not_answered() -> None:
    async def work() -> None:
        async with remote_engine(Replica("a", never)) as (engine, told):
            engine.send(Encode(11, ["a"]))
            await asyncio.sleep(0.01)
            engine.send(Cancel(11))
            await asyncio.sleep(0)
            assert is_quiet(engine)
            assert told == []

    run(work())


# --- replicas -----------------------------------------------------------------------------------


def test_replicas_are_told_with_what_they_have_of_this_door_and_a_dead_one_hides_no_other() -> None:
    async def work() -> None:
        first, second = Replica("a", beat=beat(5)), Replica("b", beat=beat(7))
        async with remote_engine(first, second) as (engine, _):
            engine.send(make_submit(11))
            await until(lambda: len(first.calls) == 1 and len(engine.replicas) == 2)
            facts = [ReplicaFacts("a", "10.0.0.1", 1), ReplicaFacts("b", "10.0.0.1", 0)]
            assert engine.replicas == facts
            first.die()
            await until(lambda: len(engine.replicas) == 1)
            assert engine.replicas == facts[1:]
            await until(lambda: "a" not in engine._links)

    run(work())


def test_a_replica_that_was_late_once_is_not_summed_twice() -> None:
    async def work() -> None:
        replica = Replica("a", beat=beat(5))
        async with remote_engine(replica) as (engine, _):
            await until(lambda: engine._beats.total().steps == 5)
            replica.is_alive = False
            await until(lambda: engine.replicas == [])
            assert engine._beats.total().running == 0
            replica.is_alive, replica.beat = True, beat(6)
            await until(lambda: len(engine.replicas) == 1)
            assert (engine._beats.total().steps, engine._beats.total().running) == (6, 1)

    run(work())

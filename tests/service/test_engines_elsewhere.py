"""Readers whose engines are had elsewhere: what they lose is sent again, and they take each other's place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from tests.service.serving import (
    LIMIT_S,
    assert_balanced,
    make_launch,
    make_request,
    never_plan,
    text_of,
    until,
)

from takeoff.errors import NotReady, PromptTooLong
from takeoff.ipc.messages import Cancel, EncoderLoaded, Loaded, Lost, Placed, Step, Submit
from takeoff.observe.metrics import Metrics
from takeoff.request import FinishReason, SamplingParams, TokenEvent
from takeoff.service.engine_watch import Death, EngineCalls, ToAny
from takeoff.service.engines import Commands
from takeoff.service.generation import Generation
from takeoff.service.launch import Launch
from takeoff.service.reader import Reader, ReaderState
from takeoff.service.replicas import ReplicaFacts
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings, Settings

LENGTH = FinishReason.LENGTH


class Scripted:
    """An engine in this process that says what a test tells it to. See `takeoff.service.engines.Engine`."""

    progress = 1.0
    num_restarts = 0
    last_heartbeat_at = 0.0
    pid = None
    standby_pid = None

    def __init__(self, *, loads: bool = True) -> None:
        """`loads`: it is loaded as soon as it is started; else `load` says when."""
        self.loaded: Loaded | EncoderLoaded | None = None
        self.replicas: list[ReplicaFacts] = []
        self.sent: list[ToAny] = []
        self.is_stopped = False
        self._loads = loads

    def make(self, name: str, launch: Launch, calls: EngineCalls, environ: Mapping[str, str]) -> Scripted:
        self.calls = calls
        self.n_ctx_slot = getattr(launch.load, "n_ctx_slot", 64)
        return self

    def start(self) -> None:
        if self._loads:
            asyncio.get_running_loop().call_soon(self.load)

    def load(self) -> None:
        self.loaded = Loaded(1, self.n_ctx_slot, 4, 1_000, True, 0.0)
        self.calls.on_loaded()

    def send(self, message: ToAny) -> None:
        self.sent.append(message)

    async def stop(self) -> None:
        self.is_stopped = True

    def tell(self, request_id: int, *token_ids: int, reason: FinishReason | None = None) -> None:
        text = "".join(f"{token_id} " for token_id in token_ids)
        event = TokenEvent(request_id=request_id, token_ids=token_ids, text=text, finish_reason=reason)
        self.calls.on_message(Step([event]))

    @property
    def submits(self) -> list[Submit]:
        return [message for message in self.sent if isinstance(message, Submit)]


class Forwarded(Generation):
    """Whose events go elsewhere."""

    def __init__(self, told: list[TokenEvent], *args: Any) -> None:
        super().__init__(*args)
        self.told = told

    def push(self, event: TokenEvent) -> None:
        self.finish_reason = event.finish_reason
        self.told.append(event)


@asynccontextmanager
async def service_of(engine: Scripted, **settings: Any) -> AsyncIterator[Service]:
    """A service whose only reader has this engine; in the end its books are balanced."""
    service = Service(Settings(**settings), Metrics(), never_plan, commands=Commands(preparer=()))
    launch(service, engine)
    try:
        async with asyncio.timeout(LIMIT_S):
            if engine._loads:
                await service.wait_ready()
            yield service
    finally:
        await service.stop()
    assert_balanced(service)


def launch(service: Service, engine: Scripted, group: str = "primary") -> Reader:
    return service.launch("r1", ReaderSettings(consumer_group=group), make_launch(), engine.make)


def counted(service: Service, name: str) -> float:
    lines = service.metrics.render().decode().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name} ")]
    return float(line.split()[1])


# --- what is lost -------------------------------------------------------------------------------


def test_what_an_engine_has_lost_is_sent_again_behind_the_tokens_that_came() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            generations = [await service.generate(make_request((5, number))) for number in range(3)]
            ids = [generation.request_id for generation in generations]
            engine.tell(ids[0], 1, 2)
            engine.calls.on_message(Lost(ids[:2]))
            again = engine.submits[3:]
            assert [(each.request_id, each.emitted_token_ids) for each in again] == [
                (ids[0], [1, 2]),
                (ids[1], []),
            ]
            assert [each.prompt_token_ids for each in again] == [[5, 0], [5, 1]]
            assert [each.sampling for each in again] == [each.sampling for each in engine.submits[:2]]
            engine.tell(ids[0], 3)
            engine.calls.on_message(Lost(ids[:1]))
            assert engine.submits[-1].emitted_token_ids == [1, 2, 3]
            assert counted(service, "takeoff_requests_replayed_total") == 3
            for request_id in ids:
                engine.tell(request_id, 4, reason=LENGTH)
            assert [await text_of(each) for each in generations] == ["1 2 3 4 ", "4 ", "4 "]

    asyncio.run(run())


def test_what_has_ended_is_not_sent_again() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            ended, left = [await service.generate(make_request()) for _ in range(2)]
            engine.tell(ended.request_id, 1, reason=LENGTH)
            with left:
                pass
            engine.calls.on_message(Lost([ended.request_id, left.request_id, 99]))
            assert len(engine.submits) == 2
            assert engine.sent[-1] == Cancel(left.request_id)

    asyncio.run(run())


def test_a_request_knows_which_of_the_engines_had_it() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            generation = await service.generate(make_request())
            for name in ("a", "b"):
                engine.calls.on_message(Placed(generation.request_id, name))
            engine.calls.on_message(Placed(99, "c"))
            assert generation.replica_ids == ["a", "b"]
            engine.tell(generation.request_id, 1, reason=LENGTH)

    asyncio.run(run())


def test_the_load_of_a_reader_is_shared_by_its_engines() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            [reader] = service.readers()
            generations = [await service.generate(make_request()) for _ in range(4)]
            assert (reader.replicas, reader.num_replicas, reader.load_share) == ([], 1, 1.0)
            engine.replicas = [ReplicaFacts(name, "10.0.0.1", 2) for name in "ab"]
            assert (reader.num_replicas, reader.load_share) == (2, 0.5)
            for generation in generations:
                generation.end(FinishReason.CANCELLED)

    asyncio.run(run())


# --- what another service has begun -------------------------------------------------------------


def submit(request_id: int = 77, prompt: int = 3, emitted: int = 0, **changes: Any) -> Submit:
    sampling = SamplingParams(max_new_tokens=10, seed=3, logprobs=1, prompt_logprobs=not emitted)
    ids = list(range(prompt))
    return Submit(request_id, ids, sampling, "t", list(range(100, 100 + emitted)), priority=20, **changes)


def test_a_request_that_was_begun_elsewhere_goes_on_behind_its_tokens_and_is_told_to_its_own() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            told: list[TokenEvent] = []
            with await service.resume(submit(emitted=2), partial(Forwarded, told)) as generation:
                assert isinstance(generation, Forwarded)
                [sent] = engine.submits
                assert (sent.emitted_token_ids, sent.prompt_token_ids) == ([100, 101], [0, 1, 2])
                assert (sent.tenant, sent.priority, sent.sampling.seed) == ("t", 20, 3)
                assert sent.request_id == generation.request_id != 77
                engine.tell(generation.request_id, 102)
                engine.calls.on_message(Lost([generation.request_id]))  # here again
                assert engine.submits[-1].emitted_token_ids == [100, 101, 102]
                engine.tell(generation.request_id, 103, reason=LENGTH)
            assert [event.token_ids for event in told] == [(102,), (103,)]
            assert service.tally.num_ended == {LENGTH: 1}

    asyncio.run(run())


def test_one_that_another_service_sends_first_is_begun() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            told: list[TokenEvent] = []
            with await service.resume(submit(), partial(Forwarded, told)) as generation:
                assert engine.submits[0].sampling.prompt_logprobs
                assert engine.submits[0].emitted_token_ids == []
            assert engine.sent[-1] == Cancel(generation.request_id)
            assert [event.finish_reason for event in told] == [FinishReason.CANCELLED]

    asyncio.run(run())


@pytest.mark.parametrize(
    ("prompt", "emitted", "fits"), [(63, 0, True), (64, 0, False), (60, 4, True), (60, 5, False)]
)
def test_what_is_longer_than_a_sequence_here_is_refused(prompt: int, emitted: int, fits: bool) -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            resuming = service.resume(submit(prompt=prompt, emitted=emitted), Generation)
            if fits:
                with await resuming:
                    assert len(engine.submits) == 1
                return
            with pytest.raises(PromptTooLong, match=f"{prompt + emitted} tokens, but a sequence holds 64"):
                await resuming
            assert engine.submits == []

    asyncio.run(run())


def test_a_service_that_is_ending_takes_over_nothing() -> None:
    async def run() -> None:
        engine = Scripted()
        async with service_of(engine) as service:
            await service.drain(0.0)
            with pytest.raises(NotReady, match="shutting down"):
                await service.resume(submit(), Generation)
            assert engine.submits == []

    asyncio.run(run())


# --- taking each other's place ------------------------------------------------------------------


def test_a_reader_of_the_same_id_serves_when_it_is_loaded_and_the_old_one_finishes_what_it_has() -> None:
    async def run() -> None:
        old, new = Scripted(), Scripted(loads=False)
        async with service_of(old) as service:
            [first] = service.readers()
            generation = await service.generate(make_request())
            second = launch(service, new)
            assert [(each.reader_id, each.state.value) for each in service.readers()] == [
                ("r1", "live"),
                ("r1-2", "loading"),
            ]
            late = await service.generate(make_request())
            assert (len(old.submits), len(new.submits)) == (2, 0)
            new.load()
            await until(lambda: second.reader_id == "r1")
            assert (first.reader_id, first.state) == ("r1-2", ReaderState.DRAINING)
            newest = await service.generate(make_request())
            assert (len(old.submits), len(new.submits)) == (2, 1)
            assert not old.is_stopped
            for each in (generation, late):
                old.tell(each.request_id, 1, reason=LENGTH)
            await until(lambda: old.is_stopped)
            await until(lambda: service.readers() == [second])
            new.tell(newest.request_id, 2, reason=LENGTH)
            assert [await text_of(each) for each in (generation, late, newest)] == ["1 ", "1 ", "2 "]
            assert service.tally.num_ended == {LENGTH: 3}

    asyncio.run(run())


def test_what_the_old_one_loses_meanwhile_goes_on_in_the_old_one() -> None:
    async def run() -> None:
        old, new = Scripted(), Scripted()
        async with service_of(old) as service:
            generation = await service.generate(make_request())
            second = launch(service, new)
            await until(lambda: second.reader_id == "r1")
            old.calls.on_message(Lost([generation.request_id]))
            assert (len(old.submits), len(new.submits)) == (2, 0)
            old.tell(generation.request_id, 1, reason=LENGTH)
            await until(lambda: old.is_stopped)

    asyncio.run(run())


def test_one_that_can_not_be_loaded_leaves_the_old_one_in_its_place(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        old, new = Scripted(), Scripted(loads=False)
        async with service_of(old) as service:
            [first] = service.readers()
            launch(service, new)
            new.calls.on_death(Death("no such file", is_refusal=True), False)
            await until(lambda: new.is_stopped)
            assert service.readers() == [first]
            assert (first.reader_id, first.state) == ("r1", ReaderState.LIVE)
            with await service.generate(make_request()):
                assert len(old.submits) == 1

    asyncio.run(run())
    assert "r1 goes on as it was: no such file" in caplog.messages


def test_several_that_come_at_once_leave_the_last_one() -> None:
    async def run() -> None:
        engines = [Scripted() for _ in range(4)]
        async with service_of(engines[0]) as service:
            readers = [launch(service, engine) for engine in engines[1:]]
            await until(lambda: service.readers() == [readers[-1]])
            assert readers[-1].reader_id == "r1"
            assert [engine.is_stopped for engine in engines] == [True, True, True, False]

    asyncio.run(run())


def test_the_group_may_be_another() -> None:
    async def run() -> None:
        async with service_of(Scripted()) as service:
            second = launch(service, Scripted(), group="chat")
            await until(lambda: service.readers() == [second])
            assert service.models() == ["scripted", "chat"]

    asyncio.run(run())

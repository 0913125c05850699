"""Several readers: groups, work shared, readers added and removed while others serve; encoders."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.service.serving import (
    assert_balanced,
    is_running,
    launch,
    make_launch,
    make_load,
    make_request,
    make_service,
    plan_sized,
    running_service,
    text_of,
    until,
)

from takeoff.errors import EngineFailed, InvalidRequest, NotFound, NotReady
from takeoff.ipc.messages import LoadEncoder
from takeoff.request import EncodeRequest, FinishReason, Task
from takeoff.service.launch import Launch
from takeoff.service.reader import Reader, ReaderState
from takeoff.service.service import Service
from takeoff.settings import ReaderSettings


def launch_encoder(service: Service, group: str = "embed") -> Reader:
    load = LoadEncoder(
        model_path="scripted",
        task=Task.EMBED,
        n_threads=1,
        max_batch_size=4,
        batch_duration_s=0.0,
        max_tokens=None,
    )
    planned = Launch("words", Path("scripted"), Task.EMBED, load, {"model_type": "scripted"})
    return service.launch("e1", ReaderSettings(consumer_group=group), planned)


def embed(*texts: Any, group: str = "embed") -> EncodeRequest:
    return EncodeRequest(task=Task.EMBED, texts=texts, group=group)


def test_readers_of_a_group_share_its_requests_least_loaded_first() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=1_000) as service:
            launch(service, 1_000, reader_id="r2")
            await service.wait_ready()
            generations = [await service.generate(make_request(max_new_tokens=20)) for _ in range(6)]
            assert [reader.num_open for reader in service.readers()] == [3, 3]
            assert len({await text_of(generation) for generation in generations}) == 1

    asyncio.run(run())


def test_a_request_names_a_group_a_reader_or_a_model() -> None:
    async def run() -> None:
        async with running_service() as service:
            launch(service, group="g2", reader_id="r2")
            await service.wait_ready()
            one, other = service.readers()
            for name, reader in {"primary": one, "g2": other, "r2": other, "scripted": one}.items():
                generation = await service.generate(make_request(group=name))
                assert reader.num_open == 1, name
                assert await text_of(generation) == "1 2 3 4 5 "
            with pytest.raises(NotFound, match="there is no group 'g3', only primary, g2"):
                await service.generate(make_request(group="g3"))

    asyncio.run(run())


def test_a_reader_is_added_when_it_is_planned_and_loads_while_others_serve() -> None:
    async def run() -> None:
        async with running_service(plan_reader=plan_sized) as service:
            reader = await service.add_reader(ReaderSettings(model="other", consumer_group="g2"))
            assert (reader.reader_id, reader.state) == ("other", ReaderState.LOADING)
            with pytest.raises(NotReady, match="the model other is loading"):
                await service.generate(make_request(group="g2"))
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "
            await until(lambda: reader.is_live)
            assert await text_of(await service.generate(make_request(group="g2"))) == "1 2 3 4 5 "
            again = await service.add_reader(ReaderSettings(model="other", consumer_group="g2"))
            assert again.reader_id == "other-2"
            assert service.models() == ["scripted", "other", "primary", "g2"]

    asyncio.run(run())


def test_nothing_of_a_reader_tells_the_query_of_its_models_url(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with running_service() as service:
            url = "https://models.example/a.gguf?token=whale"
            with pytest.raises(InvalidRequest) as refused:
                await service.add_reader(ReaderSettings(model=url, consumer_group="g2"))
            assert refused.value.message == "there is no model 'https://models.example/a.gguf' in the store"
            assert not [line for line in caplog.messages if "whale" in line]
        async with running_service(plan_reader=plan_sized) as service:
            reader = await service.add_reader(ReaderSettings(model=url, consumer_group="g2"))
            assert reader.reader_id == "https-models.example-a.gguf"

    asyncio.run(run())


def test_a_reader_that_can_not_be_found_is_refused_and_one_that_can_not_be_loaded_shows_why() -> None:
    async def run() -> None:
        async with running_service() as service:
            with pytest.raises(InvalidRequest, match="there is no model 'nowhere' in the store"):
                await service.add_reader(ReaderSettings(model="nowhere"))
            assert [reader.reader_id for reader in service.readers()] == ["r1"]
        async with running_service(plan_reader=plan_sized) as service:
            reader = await service.add_reader(ReaderSettings(model="broken"))
            await until(lambda: reader.state is ReaderState.FAILED)
            assert reader.error == "the weights are damaged"
            assert service.is_ready
            assert await text_of(await service.generate(make_request())) == "1 2 3 4 5 "

    asyncio.run(run())


def test_a_removed_reader_finishes_what_it_has_and_takes_nothing_new() -> None:
    async def run() -> None:
        async with running_service("--step-ms=20", n_ctx_slot=1_000) as service:
            launch(service, 1_000, group="g2", reader_id="r2")
            await service.wait_ready()
            reading = asyncio.create_task(
                text_of(await service.generate(make_request(group="g2", max_new_tokens=20)))
            )
            pids = service.readers()[1].pids
            removing = asyncio.create_task(service.remove_reader("r2"))
            await asyncio.sleep(0.05)
            with pytest.raises(NotFound, match="no group 'g2'"):
                await service.generate(make_request(group="g2"))
            await removing
            assert (await reading).split()[-1] == "20"
            assert [reader.reader_id for reader in service.readers()] == ["r1"]
            assert not any(is_running(pid) for pid in pids)
            with pytest.raises(NotFound, match="no reader 'r2', only r1"):
                await service.remove_reader("r2")

    asyncio.run(run())


def test_a_reserved_group_waits_for_a_reader_and_others_do_not() -> None:
    async def run() -> None:
        async with running_service(plan_reader=plan_sized, reserved_consumers=("later",)) as service:
            waiting = asyncio.create_task(service.generate(make_request(group="later")))
            await asyncio.sleep(0.05)
            assert not waiting.done()
            await service.add_reader(ReaderSettings(model="other", consumer_group="later"))
            assert await text_of(await waiting) == "1 2 3 4 5 "

    asyncio.run(run())


def test_one_engines_death_without_replay_fails_only_its_own_requests() -> None:
    async def run() -> None:
        async with running_service("--step-ms=10", n_ctx_slot=1_000, replay=False) as service:
            other = launch(service, 1_000, group="g2", reader_id="r2")
            await service.wait_ready()
            kept = await service.generate(make_request(max_new_tokens=30))
            lost = await service.generate(make_request(group="g2", max_new_tokens=900))
            await anext(lost)
            assert other.engine_pid is not None
            os.kill(other.engine_pid, signal.SIGKILL)
            with pytest.raises(EngineFailed, match="killed by signal 9"):
                await text_of(lost)
            assert (await text_of(kept)).split()[-1] == "30"
            assert await text_of(await service.generate(make_request(group="g2"))) == "1 2 3 4 5 "

    asyncio.run(run())


def test_texts_are_encoded_in_order_and_counted() -> None:
    async def run() -> None:
        async with running_service() as service:
            launch_encoder(service)
            await service.wait_ready()
            encoding = await service.encode(embed("one two", "three", ("a pair", "of texts")))
            assert encoding.vectors == [[7.0, 2.0], [5.0, 1.0], [15.0, 4.0]]
            assert (encoding.num_tokens, encoding.labels) == (7, ("short", "long"))
            assert service.tally.num_ended[FinishReason.STOP] == 1
            tokens = await service.tokenize("e1", "a b", use_chat_template=None, skip_special_tokens=False)
            assert (tokens.token_ids, tokens.tokens) == ([0, 1], ["a", "b"])
            assert await service.detokenize("e1", ["a", "b"], skip_special_tokens=True) == "a b"

    asyncio.run(run())


def test_a_task_that_the_model_does_not_do_is_refused_by_name() -> None:
    async def run() -> None:
        async with running_service() as service:
            launch_encoder(service)
            await service.wait_ready()
            with pytest.raises(InvalidRequest, match="the model scripted of 'primary' generates text"):
                await service.encode(embed("one", group="primary"))
            with pytest.raises(InvalidRequest, match="the model words of 'embed' embeds"):
                await service.generate(make_request(group="embed"))
            with pytest.raises(InvalidRequest, match="has no adapter 'french', only none"):
                await service.generate(make_request(lora_id="french"))
            assert service.tally.num_accepted == 0

    asyncio.run(run())


def test_an_encoding_ends_once_when_it_is_refused_left_or_lost() -> None:
    async def run() -> None:
        async with running_service() as service:
            launch_encoder(service)
            await service.wait_ready()
            with pytest.raises(InvalidRequest, match="refused"):
                await service.encode(embed("refuse"))
            leaving = asyncio.create_task(service.encode(embed("hang")))
            await asyncio.sleep(0.05)
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            beside = asyncio.create_task(service.encode(embed("hang", "not")))
            with pytest.raises(EngineFailed, match="dies of this request, which it computed alone"):
                await service.encode(embed("die"))
            assert (await beside).vectors == [[4.0, 1.0], [3.0, 1.0]]
            assert await service.encode(embed("one")) is not None
            ended = service.tally.num_ended
            assert (ended[FinishReason.FAILED], ended[FinishReason.CANCELLED], ended[FinishReason.STOP]) == (
                2,
                1,
                2,
            )
            assert_balanced(service)

    asyncio.run(run())


def test_waiting_for_a_state_ends_when_every_reader_has_it() -> None:
    async def run() -> None:
        service = make_service(plan_reader=plan_sized)
        assert not await service.wait_state("live", 0.0)
        await service.add_reader(ReaderSettings(model="other"))
        assert service.status == "loading"
        assert await service.wait_state("live", 30.0)
        assert not await service.wait_state("draining", 0.01)
        await service.stop()

    asyncio.run(run())


def test_a_reader_tells_where_it_computes_not_what_was_asked_for() -> None:
    async def run() -> None:
        async with running_service() as service:
            load = msgspec.structs.replace(make_load(), n_gpu_layers=7)
            service.launch("r2", ReaderSettings(), dataclasses.replace(make_launch(), load=load))
            assert [reader.device for reader in service.readers()] == ["cpu", "cuda"]
            assert {reader.settings.device for reader in service.readers()} == {"auto"}

    asyncio.run(run())

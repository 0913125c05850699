"""`takeoff cluster` on a real Ray cluster of this machine: real weights, real kills, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import grpc
import psutil
import pytest
import requests
from tests.clients.clustered import TAKEOFF, run_takeoff
from tests.clients.doors import EMBEDDER, chat_reader
from tests.cluster.live.running import (
    LIMIT_S,
    Running,
    asked_all_the_time,
    running,
    until,
)
from tests.observe.collector import Collected, Span, collecting

STORIES = [f"{number}. Once upon a time there was a ship of old wood, and " for number in range(16)]
TWO = "{doors: 2, readers: {chat: {replicas: 2}}}"


@pytest.fixture(scope="module")
def collected() -> Iterator[Collected]:
    """The traces of `cluster`."""
    with collecting() as collected:
        yield collected


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, smollm2_path: Path, collected: Collected
) -> Iterator[Running]:
    """Two doors that share their ports; a reader with two replicas, and one that embeds."""
    with running(tmp_path_factory.mktemp("cluster")) as cluster:
        readers = {"chat": chat_reader(smollm2_path, deterministic="true"), "embedder": EMBEDDER}
        cluster.up(readers, TWO, traces_url=collected.url)
        until(lambda: len(cluster.replicas("chat")) == 2, "both replicas answer")
        yield cluster


def all_texts(cluster: Running, tokens: int) -> list[str]:
    """What sixteen streams say together."""
    with ThreadPoolExecutor(len(STORIES)) as pool:
        return list(pool.map(lambda story: streamed(cluster, story, tokens), STORIES))


def streamed(cluster: Running, story: str, tokens: int) -> str:
    """Raises AssertionError: the stream has an error, or no end."""
    answer = cluster.ask(story, tokens, stream=True)
    assert answer.status_code == 200, answer.text
    events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


def test_every_replica_says_the_same_and_is_shown(cluster: Running) -> None:
    first = all_texts(cluster, 24)
    assert all_texts(cluster, 24) == first
    assert len(set(first)) > 4, "they are stories of their own"
    page = requests.get(f"{cluster.url}/metrics", timeout=LIMIT_S).text
    decoded = {
        line.partition('replica="')[2].partition('"')[0]: float(line.split()[-1])
        for line in page.splitlines()
        if line.startswith("takeoff_replica_decoded_tokens{")
    }
    assert decoded.keys() >= set(cluster.replicas("chat"))
    until(lambda: all(engine.is_running() for engine in cluster.engines()), "engines run")
    status = cluster.status()
    assert len(status["doors"]) == 2
    assert status["doors"][0]["ports"] == status["doors"][1]["ports"]
    assert status["doors"][0]["readers"]["chat"]["state"] == "live"


def test_texts_are_embedded(cluster: Running) -> None:
    body = {"model": "embed", "input": ["a ship", "a boat", "an apple"]}
    answer = requests.post(f"{cluster.url}/v1/embeddings", json=body, timeout=LIMIT_S)
    ship, boat, apple = (each["embedding"] for each in answer.json()["data"])

    def likeness(other: list[float]) -> float:
        return sum(a * b for a, b in zip(ship, other, strict=True))

    assert likeness(boat) > likeness(apple) + 0.1


def test_requests_with_a_common_beginning_go_where_it_is(cluster: Running) -> None:
    beginning = "The harbour master keeps a list of ships and of the cargo in each of them. " * 20
    with requests.Session() as client:  # one connection: of one door
        for number in range(6):
            body = {"model": "primary", "prompt": f"{beginning}{number}", "max_tokens": 1}
            answer = client.post(f"{cluster.url}/v1/completions", json=body, timeout=LIMIT_S).json()
            usage = answer["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            assert cached > 0.8 * usage["prompt_tokens"] if number else not cached


def test_a_trace_names_the_replica(cluster: Running, collected: Collected) -> None:
    cluster.text(STORIES[0], 4)
    requests.post(f"{cluster.url}/v1/embeddings", json={"model": "embed", "input": "a"}, timeout=LIMIT_S)
    for reader_id, path in (("chat", "/v1/completions"), ("embedder", "/v1/embeddings")):
        asked = partial(traced, collected, f"POST {path}")
        until(asked, "it is traced")
        assert asked()[-1].facts["takeoff.reader"] == reader_id
        assert asked()[-1].facts["takeoff.replica"] in cluster.replicas(reader_id)


def traced(collected: Collected, name: str) -> list[Span]:
    return [span for span in collected.spans if span.name == name]


@pytest.mark.parametrize("what", ["engine", "replica"])
def test_sixteen_streams_go_on_when_an_engine_or_its_replica_is_killed(
    cluster: Running, collected: Collected, what: str
) -> None:
    expected = all_texts(cluster, 96)
    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(all_texts, cluster, 96)
        time.sleep(1.5)
        engine = cluster.engines()[0]
        victim = engine if what == "engine" else engine.parent()
        assert victim is not None
        victim.kill()
        assert not going.done(), "it was killed under streams"
        assert going.result(LIMIT_S) == expected
    until(lambda: len(cluster.replicas("chat")) == 2, "there are two again")
    texts = partial(traced, collected, "generate")
    if what == "replica":
        until(lambda: any(len(text.facts["takeoff.replica"]) == 2 for text in texts()), "one moved")


def test_a_door_that_is_killed_comes_back_and_the_other_serves(cluster: Running) -> None:
    listening = [process for process in cluster.processes() if listens_at(process, cluster.doors.front)]
    assert len(listening) == 2
    listening[0].kill()
    until(lambda: not listening[0].is_running(), "it is gone, with what it had accepted")
    for story in STORIES[:4]:
        assert cluster.text(story, 4)
    until(lambda: len(cluster.status()["doors"]) == 2, "there are two again")


def listens_at(process: psutil.Process, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(each.laddr and each.laddr[1] == port for each in process.net_connections("tcp"))
    return False


def test_who_has_no_token_gets_no_answer_from_a_replica(cluster: Running) -> None:
    """Ray lets replicas listen at all addresses of the machine, and takes what comes for its own."""
    replica = cluster.engines()[0].parent()
    assert replica is not None
    listening = [each for each in replica.net_connections("tcp") if each.status == psutil.CONN_LISTEN]
    ports = {each.laddr[1] for each in listening if each.laddr[0] == "::"}
    assert ports
    for port in ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_stream("/ray.serve.ASGIService/HandleRequestStreaming")
            with pytest.raises(grpc.RpcError) as refused:
                list(call(b"", timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_another_model_takes_over_and_no_request_fails(
    tmp_path: Path, smollm2_path: Path, gemma_path: Path
) -> None:
    with running(tmp_path) as cluster:
        cluster.up({"chat": chat_reader(smollm2_path)})
        before = cluster.text(STORIES[0], 12)
        with asked_all_the_time(lambda: cluster.ask(STORIES[0], 12), 3) as answers:
            until(lambda: len(answers) > 3, "they are answered")
            cluster.up({"chat": chat_reader(gemma_path)})
            so_far = len(answers)
            until(lambda: len(answers) > so_far + 6, "they are answered")
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        texts = [answer.json()["choices"][0]["text"] for answer in answers]
        after = cluster.text(STORIES[0], 12)
        assert after != before
        assert set(texts) == {before, after}
        assert texts[-1] == after
        refused = subprocess.run(
            [TAKEOFF, "cluster", "up", str(broken_manifest(cluster, tmp_path))],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
        )
        assert refused.returncode == 1
        assert "broken.gguf" in refused.stderr
        assert cluster.text(STORIES[0], 12) == after, "what ran runs on"


def broken_manifest(cluster: Running, folder: Path) -> Path:
    from tests.clients.clustered import write_cluster_manifest

    (folder / "broken.gguf").write_bytes(b"GGUF and nothing else")
    readers = {"chat": chat_reader(folder / "broken.gguf")}
    return write_cluster_manifest(cluster.home, readers, "{}", cluster.doors)


def test_replicas_come_with_what_waits_and_go_when_nobody_asks(tmp_path: Path, smollm2_path: Path) -> None:
    with running(tmp_path) as cluster:
        reader = chat_reader(smollm2_path, max_batch_size=2)
        cluster.up({"chat": reader}, "{readers: {chat: {replicas: 0-2, queued_tokens: 300, idle_s: 3}}}")
        expected = cluster.text(STORIES[0], 8)
        with asked_all_the_time(lambda: cluster.ask(STORIES[1], 48), 24) as answers:
            until(lambda: len(cluster.replicas("chat")) == 2, "a second one comes")
            until(lambda: replayed(cluster) > 0, "some of what waits moves there")
        assert {answer.status_code for answer in answers} == {200}
        until(lambda: cluster.engines() == [], "all go")
        assert requests.get(f"{cluster.url}/readyz", timeout=LIMIT_S).status_code == 200
        assert cluster.text(STORIES[0], 8) == expected, "one comes for who asks"


def replayed(cluster: Running) -> float:
    """Requests that were given to another engine."""
    page = requests.get(f"{cluster.url}/metrics", timeout=LIMIT_S).text
    [line] = [line for line in page.splitlines() if line.startswith("takeoff_requests_replayed_total ")]
    return float(line.split()[-1])


def test_keys_open_the_doors_and_their_limits_hold_over_all(tmp_path: Path, smollm2_path: Path) -> None:
    with running(tmp_path) as cluster:
        keys_file = str(tmp_path / "keys.json")
        limit = ("--requests-per-minute", "6")
        secret = run_takeoff("keys", "create", "alice", "--keys-file", keys_file, *limit).strip()
        cluster.up({"chat": chat_reader(smollm2_path)}, "{doors: 2}")
        assert cluster.ask(STORIES[0], 1).status_code == 401
        statuses = []
        for _ in range(12):
            headers = {"Authorization": f"Bearer {secret}", "Connection": "close"}
            body = {"model": "primary", "prompt": "hi", "max_tokens": 1}
            answer = requests.post(
                f"{cluster.url}/v1/completions", json=body, headers=headers, timeout=LIMIT_S
            )
            statuses.append(answer.status_code)
            time.sleep(0.4)
        assert 5 <= statuses.count(200) <= 8
        assert statuses.count(429) == 12 - statuses.count(200)

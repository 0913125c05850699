"""The Takeoff API through the client, which server speaks what, and whose memory it is."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

import pytest
from tests.bench.scripted import Pace, scripted
from tests.bench.test_client import OK

from takeoff.bench.apis import News, OpenAI, Takeoff, Work
from takeoff.bench.client import complete
from takeoff.bench.machine import CpuShare, OthersShare, listener_pid, tree_memory, without_secrets
from takeoff.bench.server_metrics import idle_after
from takeoff.bench.target import Target, find_target
from takeoff.errors import TargetError

METADATA = (
    b'event:metadata\ndata:{"prompt_tokens":7,"generated_tokens":%d,'
    b'"cached_tokens":3,"finish_reason":"length"}'
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def ask_takeoff(raw: bytes, work: Work) -> tuple[str | None, int, int]:
    """(error, pieces, tokens) of one request over the Takeoff API that is answered with `raw`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST /generate_stream HTTP/1.1")
        writer.write(raw)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        trace = await complete(Target("t", "127.0.0.1", port, "primary", api=Takeoff()), work)
    return trace.error, len(trace.text_at), trace.completion_tokens


@pytest.mark.anyio
async def test_the_takeoff_api_tells_its_tokens_in_metadata_or_one_an_event() -> None:
    texts = chunk(b"data:One\n\n") + chunk(b"data: two\ndata:lines\n\n")
    told = chunk(METADATA % 3 + b"\n\n")
    end = b"0\r\n\r\n"
    assert await ask_takeoff(OK + texts + told + end, Work("a", 3)) == (None, 2, 3)
    assert await ask_takeoff(OK + texts + end, Work("a", 2)) == (None, 2, 2)
    assert await ask_takeoff(OK + texts, Work("a", 2)) == ("the connection broke off", 2, 2)
    error, _, _ = await ask_takeoff(OK + texts + told + end, Work("a", 4))
    assert error == "3 tokens came, 4 were asked for"


def test_the_takeoff_api_is_asked_for_an_exact_length() -> None:
    assert Takeoff().body("primary", Work("Hi", 9)) == {
        "text": "Hi",
        "consumer_group": "primary",
        "max_new_tokens": 9,
        "min_new_tokens": 9,
        "sampling_topk": 1,
        "use_chat_template": False,
        "return_metadata": True,
    }


def test_comments_of_a_stream_are_no_text() -> None:
    assert OpenAI().read(b": ping") == News()
    assert Takeoff().read(b": ping") == News()


@pytest.mark.anyio
async def test_a_client_leaves_at_its_piece() -> None:
    async with scripted(lambda _: Pace(gap_s=0.005)) as server:
        trace = await complete(server.target, Work("a", 50, leave_after=3))
        assert await idle_after(server.target) is not None
        assert server.num_left == 1
    assert (trace.has_left, trace.error, len(trace.text_at)) == (True, None, 3)


@pytest.mark.anyio
async def test_which_api_a_server_speaks_is_found_out() -> None:
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split()[1]
        await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0))
        seen.append(path)
        is_there = path == "/generate"
        data = b'{"text": "x"}' if is_there else b"{}"
        status = b"200 OK" if is_there else b"404 No"
        writer.write(
            b"HTTP/1.1 %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (status, len(data)) + data
        )
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for path in ("", "/generate_stream"):
            target = await asyncio.to_thread(find_target, url + path, name="t")
            assert (target.api.name, target.model) == ("takeoff", "primary")
        assert seen == ["/v1/models", "/generate", "/generate"]
        with pytest.raises(TargetError, match="names no model"):
            await asyncio.to_thread(find_target, url + "/v1")


def test_memory_is_that_of_the_whole_tree() -> None:
    hold = "held = bytearray(b'x' * 64_000_000); print('', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", parent], **pipes) as process:  # type: ignore[call-overload]
        process.stdout.readline()
        memory = tree_memory(process.pid)
        process.communicate(b"\n")
    assert memory is not None
    assert 64_000_000 < memory < 120_000_000
    assert tree_memory(process.pid) is None, "it is gone"
    assert tree_memory(None) is None


@pytest.mark.anyio
async def test_the_process_that_listens_is_found() -> None:
    async with await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert listener_pid("127.0.0.1", port) == os.getpid()
        assert listener_pid("192.0.2.1", port) is None


def test_conditions_tell_no_secrets() -> None:
    words = ["serve", "--api-key", "sesame", "--port", "1", "--hf-token=abc", "--model", "m"]
    assert without_secrets(words) == [
        "serve",
        "--api-key",
        "…",
        "--port",
        "1",
        "--hf-token=…",
        "--model",
        "m",
    ]


def test_the_clients_own_share_of_a_core_is_measured() -> None:
    share = CpuShare()
    sum(number * number for number in range(5_000_000))
    assert 0.1 < share.read() < 1.1


def test_what_other_programs_take_of_the_cores_is_known_where_the_servers_are() -> None:
    burn = "import sys; print('', flush=True)\nwhile True: pass"
    with (
        subprocess.Popen([sys.executable, "-c", burn], stdout=subprocess.PIPE) as burner,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as server,
    ):
        assert burner.stdout is not None
        burner.stdout.readline()
        beside, of_it = OthersShare([server.pid]), OthersShare([server.pid, burner.pid])
        time.sleep(0.5)
        shares = beside.read(), of_it.read()
        burner.kill()
        server.communicate(b"\n")
    assert None not in shares
    assert 0.2 < (shares[0] or 0.0) - (shares[1] or 0.0) < 1.2
    assert OthersShare([None]).read() is None
    assert OthersShare([server.pid]).read() is None, "it is gone"
